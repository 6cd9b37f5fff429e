"""A model's files, built from its Keras definition."""

import keras
import numpy as np

from coordinator.protocol import first_weights
from coordinator.protocol.manifest import Manifest, TensorSpec, Vector, patch_weights
from tflite_models import export, files, initializers, patches, signatures
from tflite_models.network import Network


def build(
    model: keras.Sequential,
    *,
    name: str,
    description: str,
    values: first_weights.Values | None = None,
) -> files.Artefacts:
    """Build the files of a Keras model. Its weights become sentinels.

    Args:
        model: A built model.
        name: What the coordinator calls it.
        description: One line for people.
        values: First values of some or all tensors, kept beside the manifest.

    Raises:
        UnsupportedLayer: A layer has no gradient here.
        UnpatchableModel: The inference file does not hold the weights as they are.
    """
    network = Network.of(model)
    tensors = describe_tensors(model)
    train = export.convert_training(network)
    sentinels = patches.sentinels(network.size)
    assign(model, sentinels)
    infer = export.convert_inference(model)
    manifest = Manifest(
        model=name,
        description=description,
        input_shape=network.input_shape,
        classes=network.classes,
        tensors=tensors,
        signatures=dict(signatures.describe(network)),
        train=files.describe(files.TRAIN_FILE, train),
        infer=files.describe(files.INFER_FILE, infer),
        patches=patches.find(infer, tensors),
    )
    # zeros compress to nothing, sentinels do not
    infer = patch_weights(infer, manifest, np.zeros(manifest.size, np.float32))
    update = {"infer": files.describe(files.INFER_FILE, infer)}
    weights = None if values is None else first_weights.write(manifest, values)
    if weights is not None:
        update["weights"] = files.describe(files.WEIGHTS_FILE, weights)
    manifest = manifest.model_copy(update=update)
    return files.Artefacts(manifest=manifest, train=train, infer=infer, weights=weights)


def describe_tensors(model: keras.Sequential) -> tuple[TensorSpec, ...]:
    """Return the tensors of a built model: layer by layer, kernel before bias.

    Raises:
        UnsupportedLayer: A tensor's initializer is none that a manifest can name.
    """
    tensors = []
    offset = 0
    for layer in model.layers:
        for weight in layer.weights:
            spec = TensorSpec(
                name=f"{layer.name}/{weight.name}",
                shape=tuple(weight.shape),
                offset=offset,
                trainable=bool(weight.trainable),
                initializer=initializers.describe(layer, weight.name),
            )
            tensors.append(spec)
            offset += spec.size
    return tuple(tensors)


def assign(model: keras.Sequential, weights: Vector) -> None:
    """Give a Keras model the weights of a flat vector in manifest order.

    Raises:
        ValueError: ``weights`` has another size than the model.
    """
    if weights.size != (size := model.count_params()):
        raise ValueError(f"the model has {size} weights, got {weights.size}")
    offset = 0
    for layer in model.layers:
        for weight in layer.weights:
            count = int(np.prod(weight.shape))
            weight.assign(weights[offset : offset + count].reshape(weight.shape))
            offset += count


def flatten(model: keras.Sequential) -> Vector:
    """Return a Keras model's weights as a flat vector in manifest order."""
    tensors = [
        np.ravel(weight.numpy()) for layer in model.layers for weight in layer.weights
    ]
    return np.concatenate(tensors).astype(np.float32)
