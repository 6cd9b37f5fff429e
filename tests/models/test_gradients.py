"""Each layer's gradient against automatic differentiation, operator by operator."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.models import scenario
from tflite_models import reference
from tflite_models.gradients import registry
from tflite_models.gradients.convolution import PooledConvolution, Window
from tflite_models.gradients.layer import Pass
from tflite_models.gradients.pooling import MaxPool, Tiles
from tflite_models.network import Network
from tflite_models.steps import Steps

pytestmark = pytest.mark.tf

IMAGE = (9, 11, 2)
GREY = (9, 11, 1)
CASES = {
    "convolution": (IMAGE, [layers.Conv2D(3, 3)]),
    "convolution of grey": (GREY, [layers.Conv2D(3, 3)]),
    "convolution without bias": (IMAGE, [layers.Conv2D(3, 3, use_bias=False)]),
    "convolution, same": (IMAGE, [layers.Conv2D(3, 3, padding="same")]),
    "convolution, same, even": (IMAGE, [layers.Conv2D(3, (2, 4), padding="same")]),
    "convolution, wide": (GREY, [layers.Conv2D(3, (1, 5))]),
    "convolutions in a row": (GREY, [layers.Conv2D(3, 3), layers.Conv2D(2, 3)]),
    "1 x 1 convolutions": (IMAGE, [layers.Conv2D(3, 1), layers.Conv2D(2, 1)]),
    "same convolutions in a row": (
        IMAGE,
        [layers.Conv2D(3, 3, padding="same"), layers.Conv2D(2, 5, padding="same")],
    ),
    "pooled": (GREY, [layers.Conv2D(3, 3), layers.MaxPooling2D(2)]),
    "pooled with relu": (
        IMAGE,
        [layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(2)],
    ),
    "pooled by three": (IMAGE, [layers.Conv2D(3, 2), layers.MaxPooling2D(3)]),
    "pooled without bias": (
        IMAGE,
        [layers.Conv2D(3, 3, use_bias=False), layers.MaxPooling2D(2)],
    ),
    "pooled, same": (
        GREY,
        [layers.Conv2D(3, 3, padding="same"), layers.MaxPooling2D(2)],
    ),
    "pooled twice": (
        (13, 14, 1),
        [
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(4, 2, activation="relu"),
            layers.MaxPooling2D(2),
        ],
    ),
    "pooled twice, same, larger kernel": (
        (13, 14, 2),
        [
            layers.Conv2D(3, 5, padding="same"),
            layers.MaxPooling2D(3),
            layers.Conv2D(4, 4, padding="same"),
            layers.MaxPooling2D(2),
        ],
    ),
    "max-pool after tanh": (
        IMAGE,
        [layers.Conv2D(3, 3, activation="tanh"), layers.MaxPooling2D(2)],
    ),
    "max-pool of three after tanh": (
        IMAGE,
        [layers.Conv2D(3, 2, activation="tanh"), layers.MaxPooling2D(3)],
    ),
    "max-pool first": (IMAGE, [layers.MaxPooling2D(2), layers.Conv2D(3, 2)]),
    "max-pool of one": (IMAGE, [layers.Conv2D(3, 2), layers.MaxPooling2D(1)]),
    "average pool": (IMAGE, [layers.Conv2D(3, 2), layers.AveragePooling2D(2)]),
    "average pool of three": (IMAGE, [layers.Conv2D(3, 2), layers.AveragePooling2D(3)]),
    "global average": (IMAGE, [layers.Conv2D(3, 2), layers.GlobalAveragePooling2D()]),
    "dense": ((7,), [layers.Dense(5), layers.Dense(4, use_bias=False)]),
    "activation": ((7,), [layers.Dense(5), layers.Activation("relu")]),
    "relu": ((7,), [layers.Dense(5), layers.ReLU()]),
    "relu6": ((7,), [layers.Dense(50), layers.Rescaling(9.0), layers.ReLU(6)]),
    "relu with a slope": ((7,), [layers.Dense(5), layers.ReLU(negative_slope=0.2)]),
    "leaky relu": ((7,), [layers.Dense(5), layers.LeakyReLU(negative_slope=0.1)]),
    "elu": ((7,), [layers.Dense(5), layers.ELU(alpha=0.7)]),
    "tanh": ((7,), [layers.Dense(5, activation="tanh")]),
    "sigmoid": ((7,), [layers.Dense(5, activation="sigmoid")]),
    "dropout": ((7,), [layers.Dense(40), layers.Dropout(0.3)]),
    "rescaling": ((7,), [layers.Dense(5), layers.Rescaling(0.5, offset=-1.0)]),
    "reshape": (
        (12,),
        [layers.Dense(12), layers.Reshape((2, 3, 2)), layers.Conv2D(3, 2)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_automatic_differentiation(case: str) -> None:
    shape, inner = CASES[case]
    model = keras.Sequential([keras.Input(shape), *_fresh(inner)])
    if len(model.output_shape) > 2:
        model.add(layers.Flatten())
    model.add(layers.Dense(3, activation="softmax"))
    weights = scenario.draw_weights(model)
    examples = scenario.draw_examples(model, 6)

    outputs = Steps(network=Network.of(model)).train(
        **{name: tf.constant(array) for name, array in examples.items()},
        mask=tf.ones(6),
        learning_rate=tf.constant(0.5),
        seed=tf.constant(3),
        weights=tf.constant(weights),
    )

    expected = reference.train(
        model, **examples, learning_rate=0.5, seed=3, weights=weights
    )
    assert np.abs(expected.delta).max() > 1e-3
    np.testing.assert_allclose(
        outputs["delta"].numpy(), expected.delta, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        outputs["loss_sum"].numpy(), expected.loss_sum, rtol=1e-6
    )


def test_every_supported_layer_has_a_case() -> None:
    cased = {type(layer) for _, inner in CASES.values() for layer in inner}

    assert cased | {layers.Flatten} == set(registry.TRANSLATIONS)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 9), (2, 3)])
def test_the_first_of_equal_pixels_wins_the_pool(height: int, width: int) -> None:
    x = np.random.default_rng(0).integers(0, 2, (4, height, width, 3))
    x = tf.constant(x.astype(np.float32))
    layer = MaxPool(tiles=Tiles(image=(height, width, 3), side=2))

    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = tf.nn.max_pool2d(x, 2, 2, "VALID")
    dy = tf.random.stateless_normal(expected.shape, (1, 2))
    y, kept = layer.forward(x, (), Pass(noise=None))
    dx, _ = layer.backward(dy, kept, (), wants_input=True, wants_weights=False)

    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, tape.gradient(expected, x, dy))


@pytest.mark.parametrize(
    ("activation", "bias"),
    list(itertools.product(["relu", "linear"], [-1.0, 0.0, 1.0])),
)
def test_the_first_of_equal_values_wins_the_pool_of_a_convolution(
    activation: str, bias: float
) -> None:
    # whole numbers: ties are exact however a product is summed
    generator = np.random.default_rng(0)
    x = tf.constant(generator.integers(0, 2, (4, 7, 9, 2)).astype(np.float32))
    kernel = generator.integers(-1, 2, (2, 2, 2, 3)).astype(np.float32)
    kernel, bias = tf.Variable(kernel), tf.Variable(tf.fill((3,), bias))
    layer = PooledConvolution(
        window=Window(image=(7, 9, 2), kernel=(2, 2)),
        filters=3,
        use_bias=True,
        pool=2,
        relu=activation == "relu",
    )

    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.nn.conv2d(x, kernel, 1, "VALID") + bias
        expected = tf.nn.max_pool2d(
            tf.nn.relu(z) if activation == "relu" else z, 2, 2, "VALID"
        )
    dy = tf.cast(
        generator.integers(-3, 4, tuple(expected.shape)).astype(np.float32), tf.float32
    )
    weights = (tf.reshape(kernel, (1, 8, 3)), tf.convert_to_tensor(bias))
    y, kept = layer.forward(x, weights, Pass(noise=None))
    dx, (dkernel, dbias) = layer.backward(
        dy, kept, weights, wants_input=True, wants_weights=True
    )

    np.testing.assert_array_equal(y, expected)
    slopes = tape.gradient(expected, (x, kernel, bias), dy)
    np.testing.assert_array_equal(dx, slopes[0])
    np.testing.assert_array_equal(tf.reshape(dkernel, kernel.shape), slopes[1])
    np.testing.assert_array_equal(dbias, slopes[2])


def test_a_convolution_with_relu_and_pool_is_one_stage() -> None:
    model = keras.Sequential(
        [
            keras.Input(GREY),
            layers.Conv2D(3, 3),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )

    kinds = [type(stage.layer).__name__ for stage in Network.of(model).stages]

    assert kinds == ["PooledConvolution", "Reshape", "Dense"]


def _fresh(inner: list[layers.Layer]) -> list[layers.Layer]:
    return [type(layer).from_config(layer.get_config()) for layer in inner]
