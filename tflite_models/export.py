"""Conversion to LiteRT files with builtin operators only."""

import functools
import tempfile
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from coordinator.protocol.manifest import Argument, Signature
from tflite_models import signatures
from tflite_models.network import Network
from tflite_models.optimizers import RULES
from tflite_models.steps import Steps

Function = Callable[..., dict[str, tf.Tensor]]


def convert_training(network: Network) -> bytes:
    """Return the training file of a network: all signatures, no weights."""
    steps = Steps(network=network)
    functions: dict[str, Function] = {
        "train": steps.train,
        "infer": steps.infer,
        "evaluate": steps.evaluate,
    }
    for name, rule in RULES.items():
        functions[name] = functools.partial(steps.train_epoch, rule)
    return _convert(signatures.describe(network), functions, [])


def convert_inference(model: keras.Sequential) -> bytes:
    """Return the inference file of a Keras model, its weights inside as constants."""
    shape = tuple(model.input_shape[1:])
    argument = Argument(
        name="x", shape=(None, *shape), dtype="float32", description="Examples."
    )
    signature = Signature(description="Predictions.", inputs=(argument,), outputs=())
    ends_in_logits = keras.activations.serialize(model.layers[-1].activation)

    def infer(*, x: tf.Tensor) -> dict[str, tf.Tensor]:
        y = model(x, training=False)
        return {"probabilities": tf.nn.softmax(y) if ends_in_logits == "linear" else y}

    # an untracked variable would be exported without its value, silently
    variables = [variable.value for variable in model.variables]
    return _convert({"infer": signature}, {"infer": infer}, variables)


def _convert(
    described: Mapping[str, Signature],
    functions: Mapping[str, Function],
    variables: list[tf.Variable],
) -> bytes:
    module = tf.Module()
    module.held = variables
    concrete = {}
    for name, signature in described.items():
        specs = {
            argument.name: tf.TensorSpec(
                argument.shape, argument.dtype, name=argument.name
            )
            for argument in signature.inputs
        }
        traced = tf.function(functions[name], autograph=False)
        concrete[name] = traced.get_concrete_function(**specs)
        setattr(module, f"{name}_function", concrete[name])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=concrete)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converted: bytes = converter.convert()
    return converted
