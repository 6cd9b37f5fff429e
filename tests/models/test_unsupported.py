"""What has no gradient is refused, naming the layer, its class and the setting."""

import keras
import pytest
from keras import layers

from tflite_models import building, files
from tflite_models.gradients.layer import UnsupportedLayer
from tflite_models.network import Network

pytestmark = pytest.mark.tf

L2 = keras.regularizers.L2(0.1)
CASES = {
    "BatchNormalization": (layers.BatchNormalization(), "has no gradient here"),
    "strides": (layers.Conv2D(2, 3, strides=2), "strides must be (1, 1), got (2, 2)"),
    "dilation": (layers.Conv2D(2, 3, dilation_rate=2), "dilation_rate must be (1, 1)"),
    "groups": (layers.Conv2D(2, 3, groups=2), "groups must be 1, got 2"),
    "activation": (layers.Conv2D(2, 3, activation="gelu"), "got gelu"),
    "softmax inside": (layers.Conv2D(2, 3, activation="softmax"), "got softmax"),
    "own activation": (layers.Activation(lambda x: x), "one of Keras's own"),
    "pool strides": (layers.MaxPooling2D(2, strides=1), "strides must be (2, 2)"),
    "pool shape": (layers.MaxPooling2D((2, 1)), "pool_size must be square"),
    "pool padding": (layers.AveragePooling2D(2, padding="same"), "got same"),
    "kept axes": (layers.GlobalAveragePooling2D(keepdims=True), "keepdims"),
    "regularizer": (layers.Conv2D(2, 3, kernel_regularizer=L2), "kernel_regularizer"),
    "constraint": (
        layers.Conv2D(2, 3, bias_constraint=keras.constraints.NonNeg()),
        "bias_constraint must be None",
    ),
    "dense on an image": (layers.Dense(3), "input must be flat"),
    "noise shape": (layers.Dropout(0.5, noise_shape=(1, 1, 1, 2)), "noise_shape"),
    "relu threshold": (layers.ReLU(threshold=1.0), "threshold must be 0, got 1.0"),
    "relu cap": (layers.ReLU(max_value=3), "got 3 with 0.0"),
    "slope": (layers.LeakyReLU(negative_slope=1.5), "must be in (0, 1), got 1.5"),
    "rescaling": (layers.Rescaling([1.0, 2.0]), "must be numbers"),
    "dtype": (layers.ReLU(dtype="float16"), "dtype must be float32, got float16"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_without_a_gradient_is_named(case: str) -> None:
    layer, fault = CASES[case]
    model = keras.Sequential([keras.Input((7, 7, 2)), layer])
    model.add(layers.Flatten())
    model.add(layers.Dense(3))

    with pytest.raises(UnsupportedLayer) as refusal:
        Network.of(model)

    assert fault in str(refusal.value)
    assert refusal.value.name == layer.name
    assert refusal.value.kind == type(layer).__name__


@pytest.mark.parametrize(
    ("last", "fault"),
    [
        (layers.Dense(3, activation="relu"), "softmax or linear, got relu"),
        (layers.ReLU(), "the last layer must be Dense"),
        (layers.Dense(3, bias_regularizer=L2), "bias_regularizer must be None"),
    ],
)
def test_a_model_must_end_in_logits(last: layers.Layer, fault: str) -> None:
    model = keras.Sequential([keras.Input((7,)), layers.Dense(4), last])

    with pytest.raises(UnsupportedLayer, match=fault):
        Network.of(model)


def test_a_model_must_be_built() -> None:
    with pytest.raises(UnsupportedLayer, match=r"built keras\.Sequential"):
        Network.of(keras.Sequential([layers.Dense(3)]))


def test_an_initializer_without_a_name_is_refused() -> None:
    model = keras.Sequential(
        [keras.Input((7,)), layers.Dense(3, kernel_initializer="orthogonal")]
    )

    with pytest.raises(UnsupportedLayer, match=r"kernel_initializer .* Orthogonal"):
        building.describe_tensors(model)


def test_a_model_that_is_nowhere_is_refused_with_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match="no model of Shoal's: cnn, cnn_deep"):
        files.locate("resnet")
