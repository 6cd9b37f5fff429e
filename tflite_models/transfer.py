"""Learning on from what was learnt before: a frozen base, weights that come along.

Decided here: which layers are trained, and which tensors of a set of weights a model
takes. Only the last layer, the head, may have another shape than the weights: it is
then drawn anew, as it must be where there are other classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from coordinator.protocol.first_weights import Values
from coordinator.protocol.manifest import Manifest, TensorSpec
from tflite_models import building
from tflite_models.network import Network


class Unfit(ValueError):
    """The layers or weights that were named do not fit the model."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What a model takes of a set of weights."""

    values: Values
    drawn: tuple[str, ...]  #: tensors of the head that are drawn anew
    left: tuple[str, ...]  #: tensors of the set that the model has not


def freeze(model: keras.Sequential, named: str) -> None:
    """Leave layers of a built model as they are: never trained, never sent.

    Args:
        model: A built model.
        named: Layers with weights, separated by commas.

    Raises:
        Unfit: There is no such layer with weights, or none is left to train.
    """
    layers = {each.strip() for each in named.split(",")} - {""}
    weighted = [layer for layer in model.layers if layer.weights]
    known = ", ".join(layer.name for layer in weighted)
    unknown = sorted(layers - {layer.name for layer in weighted})
    if unknown:
        raise Unfit(
            f"no layer with weights is named {', '.join(unknown)}; there are {known}"
        )
    for layer in weighted:
        if layer.name in layers:
            layer.trainable = False
    if not any(layer.trainable for layer in weighted):
        raise Unfit(f"one layer must be trained, all are frozen: {known}")


def as_built(model: keras.Sequential, manifest: Manifest) -> keras.Sequential:
    """Return a definition with the classes and the frozen layers of a manifest.

    Raises:
        Unfit: It has other layers than the manifest.
    """
    model = with_classes(model, manifest.classes)
    named = {
        spec.name.rpartition("/")[0] for spec in manifest.tensors if not spec.trainable
    }
    freeze(model, ",".join(named))
    return model


def frozen(model: keras.Sequential) -> list[str]:
    """Return the layers with weights that are not trained."""
    return [
        layer.name for layer in model.layers if layer.weights and not layer.trainable
    ]


def with_classes(model: keras.Sequential, classes: int | None) -> keras.Sequential:
    """Return the model with a last layer for so many classes; None: as many as it has.

    All other layers are shared with ``model``.

    Raises:
        Unfit: The last layer has no units to set.
    """
    if classes is None or classes == model.output_shape[-1]:
        return model
    *inner, last = model.layers
    config = last.get_config()
    if "units" not in config:
        raise Unfit(f"the last layer {last.name} has no classes to set")
    head = type(last).from_config(config | {"units": classes})
    given = keras.Input(model.input_shape[1:])
    return keras.Sequential([given, *inner, head], name=model.name)


def values(model: keras.Sequential) -> Values:
    """Return a copy of a Keras model's weights by the names that a manifest gives."""
    return {
        f"{layer.name}/{weight.name}": np.array(weight.numpy(), np.float32)
        for layer in model.layers
        for weight in layer.weights
    }


def inherit(
    model: keras.Sequential, given: Mapping[str, npt.NDArray[Any]]
) -> Inherited:
    """Return what a built model takes of ``given``, by name and shape.

    Raises:
        UnsupportedLayer: A layer has no gradient here.
        Unfit: A tensor is missing, has another shape or is no float, and is not of a
            head that is trained.
    """
    Network.of(model)  # raises for a layer that no weights could help
    tensors = building.describe_tensors(model)
    head = tensors[-1].name.rpartition("/")[0]
    own = [spec for spec in tensors if spec.name.rpartition("/")[0] == head]
    fits = all(
        spec.name in given and given[spec.name].shape == spec.shape for spec in own
    )
    drawn = [] if fits or not own[0].trainable else own
    taken = {spec.name: _take(spec, given) for spec in tensors if spec not in drawn}
    named = {spec.name for spec in tensors}
    return Inherited(
        values=taken,
        drawn=tuple(spec.name for spec in drawn),
        left=tuple(sorted(given.keys() - named)),
    )


def _take(
    spec: TensorSpec, given: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    array = given.get(spec.name)
    if array is None:
        raise Unfit(
            f"the weights have no tensor {spec.name}, they have "
            f"{', '.join(sorted(given)) or 'none'}"
        )
    if array.shape != spec.shape:
        raise Unfit(
            f"tensor {spec.name} has shape {spec.shape}, in the weights {array.shape}"
        )
    if array.dtype.kind != "f":
        raise Unfit(f"tensor {spec.name} must be of floats, got {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold turns infinite
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise Unfit(f"tensor {spec.name} holds NaN or infinity")
    return values
