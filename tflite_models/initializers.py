"""First values of a Keras model's tensors, as the manifest states them."""

import math
from collections.abc import Mapping
from typing import Final

import keras

from coordinator.protocol.manifest import Initializer
from tflite_models.gradients.layer import UnsupportedLayer

_KINDS: Final[Mapping[type[keras.initializers.Initializer], str]] = {
    keras.initializers.Zeros: "zeros",
    keras.initializers.Ones: "ones",
    keras.initializers.GlorotUniform: "glorot_uniform",
    keras.initializers.GlorotNormal: "glorot_normal",
    keras.initializers.HeUniform: "he_uniform",
    keras.initializers.HeNormal: "he_normal",
    keras.initializers.LecunUniform: "lecun_uniform",
    keras.initializers.LecunNormal: "lecun_normal",
}


def describe(layer: keras.layers.Layer, weight: str) -> Initializer:
    """Return how ``weight`` (kernel or bias) of a built layer is drawn.

    Raises:
        UnsupportedLayer: The initializer is none that a manifest can name.
    """
    setting = f"{weight}_initializer"
    initializer = getattr(layer, setting)
    kind = _KINDS.get(type(initializer))
    if kind is None:
        known = ", ".join(sorted(_KINDS.values()))
        raise UnsupportedLayer(
            layer.name,
            type(layer).__name__,
            f"{setting} must be one of {known}, got {type(initializer).__name__}",
        )
    fan_in, fan_out = fans(tuple(getattr(layer, weight).shape))
    return Initializer.model_validate(
        {"kind": kind, "fan_in": fan_in, "fan_out": fan_out}
    )


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the fans that Keras computes: the last two axes are in and out."""
    if len(shape) == 1:
        return shape[0], shape[0]
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field
