"""From Keras layers to layers with gradients. A new kind is one entry in the table."""

from collections.abc import Callable, Mapping
from typing import Final

import keras

from tflite_models.gradients import activations
from tflite_models.gradients.convolution import Convolution, Window
from tflite_models.gradients.dense import Dense
from tflite_models.gradients.dropout import Dropout
from tflite_models.gradients.layer import Layer, Shape, UnsupportedLayer
from tflite_models.gradients.pooling import AveragePool, GlobalAverage, MaxPool, Tiles
from tflite_models.gradients.shaping import Rescaling, Reshape

#: given the Keras layer, its input shape without the batch, and its place in the model
Translation = Callable[[keras.layers.Layer, Shape, int], list[Layer]]


def translate(layer: keras.layers.Layer, *, place: int) -> list[Layer]:
    """Return the layers with gradients that make up a built Keras layer.

    Args:
        layer: A layer of a built Sequential model.
        place: Its index in the model; tells random layers apart.

    Raises:
        UnsupportedLayer: There is no gradient for the layer or for a setting of it.
    """
    translation = TRANSLATIONS.get(type(layer))
    if translation is None:
        known = ", ".join(sorted(kind.__name__ for kind in TRANSLATIONS))
        raise _unsupported(layer, f"has no gradient here; there are {known}")
    if layer.compute_dtype != "float32":
        raise _unsupported(layer, f"dtype must be float32, got {layer.compute_dtype}")
    for setting in (
        "kernel_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
    ):
        if getattr(layer, setting, None) is not None:
            raise _unsupported(layer, f"{setting} must be None")
    return translation(layer, tuple(layer.input.shape[1:]), place)


def activation_name(layer: keras.layers.Layer) -> str:
    """Return Keras's name of the layer's ``activation``.

    Raises:
        UnsupportedLayer: It is no activation of Keras's own.
    """
    name: str = getattr(layer.activation, "__name__", "")
    if getattr(keras.activations, name, None) is not layer.activation:
        raise _unsupported(
            layer, f"activation must be one of Keras's own, got {layer.activation}"
        )
    return name


def _unsupported(layer: keras.layers.Layer, setting: str) -> UnsupportedLayer:
    return UnsupportedLayer(layer.name, type(layer).__name__, setting)


def _activation(layer: keras.layers.Layer) -> list[Layer]:
    name = activation_name(layer)
    if name == "linear":
        return []
    if name not in activations.BY_NAME:
        known = ", ".join(sorted([*activations.BY_NAME, "linear"]))
        raise _unsupported(layer, f"activation must be one of {known}, got {name}")
    return [activations.BY_NAME[name]]


def _expect(layer: keras.layers.Layer, **settings: object) -> None:
    """Refuse a layer unless its settings have the values given."""
    for setting, expected in settings.items():
        if (got := getattr(layer, setting)) != expected:
            raise _unsupported(layer, f"{setting} must be {expected}, got {got}")


def _image(layer: keras.layers.Layer, shape: Shape) -> tuple[int, int, int]:
    _expect(layer, data_format="channels_last")
    height, width, channels = shape
    return height, width, channels


def _convolution(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    _expect(layer, strides=(1, 1), dilation_rate=(1, 1), groups=1)
    image = _image(layer, shape)
    rows, columns = layer.kernel_size
    if layer.padding == "same":  # the odd zero goes below and to the right
        above, left = (rows - 1) // 2, (columns - 1) // 2
        pads = (above, rows - 1 - above, left, columns - 1 - left)
    else:
        pads = (0, 0, 0, 0)
    window = Window(image=image, kernel=(rows, columns), pads=pads)
    convolution = Convolution(
        window=window, filters=layer.filters, use_bias=layer.use_bias
    )
    return [convolution, *_activation(layer)]


def _dense(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    if len(shape) != 1:
        raise _unsupported(layer, f"input must be flat, got shape {shape}")
    if getattr(layer, "lora_enabled", False):
        raise _unsupported(layer, "lora_rank must be None")
    dense = Dense(inputs=shape[0], units=layer.units, use_bias=layer.use_bias)
    return [dense, *_activation(layer)]


def _tiles(layer: keras.layers.Layer, shape: Shape) -> Tiles:
    rows, columns = layer.pool_size
    if rows != columns:
        raise _unsupported(
            layer, f"pool_size must be square, got {tuple(layer.pool_size)}"
        )
    _expect(layer, strides=tuple(layer.pool_size))
    image = _image(layer, shape)
    if layer.padding != "valid" and (image[0] % rows or image[1] % rows):
        raise _unsupported(layer, f"padding must be valid, got {layer.padding}")
    return Tiles(image=image, side=rows)


def _max_pool(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    tiles = _tiles(layer, shape)
    return [MaxPool(tiles=tiles)] if tiles.side > 1 else []


def _average_pool(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    tiles = _tiles(layer, shape)
    return [AveragePool(tiles=tiles)] if tiles.side > 1 else []


def _global_average(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    _expect(layer, keepdims=False)
    return [GlobalAverage(image=_image(layer, shape))]


def _flatten(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    _expect(layer, data_format="channels_last")
    return [Reshape(before=shape, after=tuple(layer.output.shape[1:]))]


def _reshape(layer: keras.layers.Layer, shape: Shape, _: int) -> list[Layer]:
    return [Reshape(before=shape, after=tuple(layer.output.shape[1:]))]


def _rescaling(layer: keras.layers.Layer, _: Shape, __: int) -> list[Layer]:
    if not isinstance(layer.scale, int | float) or not isinstance(
        layer.offset, int | float
    ):
        raise _unsupported(layer, "scale and offset must be numbers")
    return [Rescaling(scale=float(layer.scale), offset=float(layer.offset))]


def _dropout(layer: keras.layers.Layer, shape: Shape, place: int) -> list[Layer]:
    if layer.noise_shape is not None:
        raise _unsupported(layer, f"noise_shape must be None, got {layer.noise_shape}")
    return [Dropout(rate=float(layer.rate), shape=shape, stream=place)]


def _any_activation(layer: keras.layers.Layer, _: Shape, __: int) -> list[Layer]:
    return _activation(layer)


def _relu(layer: keras.layers.Layer, _: Shape, __: int) -> list[Layer]:
    _expect(layer, threshold=0)
    slope = float(layer.negative_slope)
    if layer.max_value is None:
        return [activations.leaky_relu(slope) if slope else activations.RELU]
    if float(layer.max_value) != 6 or slope:  # noqa: PLR2004  - ReLU6 by definition
        raise _unsupported(
            layer,
            "max_value must be None, or 6 with negative_slope 0, "
            f"got {layer.max_value} with {slope}",
        )
    return [activations.BY_NAME["relu6"]]


def _leaky_relu(layer: keras.layers.Layer, _: Shape, __: int) -> list[Layer]:
    slope = float(layer.negative_slope)
    if not 0 < slope < 1:
        raise _unsupported(layer, f"negative_slope must be in (0, 1), got {slope}")
    return [activations.leaky_relu(slope)]


def _elu(layer: keras.layers.Layer, _: Shape, __: int) -> list[Layer]:
    return [activations.elu(float(layer.alpha))]


TRANSLATIONS: Final[Mapping[type[keras.layers.Layer], Translation]] = {
    keras.layers.Activation: _any_activation,
    keras.layers.AveragePooling2D: _average_pool,
    keras.layers.Conv2D: _convolution,
    keras.layers.Dense: _dense,
    keras.layers.Dropout: _dropout,
    keras.layers.ELU: _elu,
    keras.layers.Flatten: _flatten,
    keras.layers.GlobalAveragePooling2D: _global_average,
    keras.layers.LeakyReLU: _leaky_relu,
    keras.layers.MaxPooling2D: _max_pool,
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Reshape: _reshape,
}
