"""Training in stock LiteRT, against Keras and automatic differentiation."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from coordinator.protocol.manifest import Vector
from tests.models import scenario
from tflite_models import check, export, flatbuffer, keras_models, reference
from tflite_models.check import Arrays
from tflite_models.network import Network

pytestmark = pytest.mark.tf

STEP = {"learning_rate": np.float32(0.1), "seed": np.int32(5)}


def odd() -> keras.Sequential:
    """Every kind of operator that the shipped models do not use, on odd sizes."""
    return keras.Sequential(
        [
            keras.Input((27, 29, 1)),
            layers.Rescaling(2.0, offset=-1.0),
            layers.Conv2D(3, 3, padding="same", activation="tanh"),
            layers.MaxPooling2D(3),
            layers.Conv2D(4, 2, padding="same"),
            layers.LeakyReLU(negative_slope=0.1),
            layers.AveragePooling2D(2),
            layers.Conv2D(4, 2, activation="relu", padding="same"),
            layers.MaxPooling2D(2),
            layers.ELU(),
            layers.Reshape((2, 2, 4)),
            layers.Conv2D(5, 2, activation="sigmoid", padding="same"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(6, activation="relu6"),
            layers.Dropout(0.25),
            layers.Dense(3),
        ]
    )


def frozen() -> keras.Sequential:
    """A model of which only the middle and the end are trained."""
    model = keras.Sequential(
        [
            keras.Input((9, 9, 1)),
            layers.Conv2D(3, 3, activation="relu", name="base"),
            layers.MaxPooling2D(2),
            layers.Conv2D(2, 2, name="middle"),
            layers.Flatten(),
            layers.Dense(4, name="bridge"),
            layers.Dense(3, name="head"),
        ]
    )
    model.get_layer("base").trainable = False
    model.get_layer("bridge").trainable = False
    return model


@pytest.fixture(scope="module")
def odd_model() -> scenario.InLite:
    return scenario.load_in_lite(odd())


@pytest.fixture(scope="module")
def frozen_model() -> scenario.InLite:
    return scenario.load_in_lite(frozen())


def test_a_step_with_every_operator_is_that_of_keras(
    odd_model: scenario.InLite,
) -> None:
    for count in (5, 1):
        examples = scenario.draw_examples(odd_model.model, count)

        outputs = odd_model.run(
            "train", **examples, **STEP, mask=np.ones(count, np.float32)
        )

        expected = reference.train(
            odd_model.model,
            **examples,
            learning_rate=0.1,
            seed=5,
            weights=odd_model.weights,
        )
        assert_same(outputs, expected)


def test_every_operator_is_builtin(odd_model: scenario.InLite) -> None:
    findings = list(check.check_operators("odd", odd_model.content))

    assert [finding.passed for finding in findings] == [True]


def test_frozen_layers_are_used_but_never_in_the_delta(
    frozen_model: scenario.InLite,
) -> None:
    examples = scenario.draw_examples(frozen_model.model, 6)
    index = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    expected = reference.train_epoch(
        frozen_model.model,
        **examples,
        batches=list(index),
        settings={"learning_rate": 0.1},
        seed=5,
        weights=frozen_model.weights,
    )

    outputs = frozen_model.run(
        "train_epoch",
        **examples,
        **STEP,
        index=index,
        mask=np.ones((2, 3), np.float32),
    )

    trained = sum(
        int(np.prod(weight.shape)) for weight in frozen_model.model.trainable_weights
    )
    assert outputs["delta"].shape == (trained,)
    assert trained == (2 * 2 * 3 * 2 + 2) + (4 * 3 + 3)
    assert_same(outputs, expected)


@pytest.mark.parametrize("name", list(keras_models.BUILDERS))
def test_twenty_steps_are_those_of_keras(name: str) -> None:
    model = keras_models.BUILDERS[name]()
    weights = scenario.draw_weights(model) * np.float32(0.5)
    examples = scenario.draw_examples(model, 100)
    index = np.random.default_rng(0).permuted(
        np.tile(np.arange(100, dtype=np.int32), (2, 1)), axis=1
    )
    index = index.reshape(20, 10)
    runner = Interpreter(model_content=scenario.shipped(name).train, num_threads=1)

    outputs = runner.get_signature_runner("train_epoch")(
        **examples,
        index=index,
        mask=np.ones(index.shape, np.float32),
        learning_rate=np.float32(0.01),
        seed=np.int32(5),
        weights=weights,
    )

    expected = reference.train_epoch(
        model,
        **examples,
        batches=list(index),
        settings={"learning_rate": 0.01},
        seed=5,
        weights=weights,
    )
    assert np.abs(expected.delta).max() > 1e-3
    assert_same(outputs, expected)


def test_padding_changes_nothing(odd_model: scenario.InLite) -> None:
    examples = scenario.draw_examples(odd_model.model, 5)
    short = {name: array[:3] for name, array in examples.items()}

    padded = odd_model.run(
        "train", **examples, **STEP, mask=np.array([1, 1, 1, 0, 0], np.float32)
    )

    exact = odd_model.run("train", **short, **STEP, mask=np.ones(3, np.float32))
    for name, array in exact.items():
        np.testing.assert_allclose(padded[name], array, rtol=1e-6, atol=1e-7)
    assert padded["count"] == 3


def test_a_step_of_padding_alone_moves_nothing(odd_model: scenario.InLite) -> None:
    outputs = odd_model.run(
        "train",
        **scenario.draw_examples(odd_model.model, 2),
        **STEP,
        mask=np.zeros(2, np.float32),
    )

    assert not outputs["delta"].any()
    assert outputs["count"] == outputs["loss_sum"] == outputs["correct"] == 0


def test_an_epoch_of_one_step_is_a_step(odd_model: scenario.InLite) -> None:
    examples = scenario.draw_examples(odd_model.model, 4)

    epoch = odd_model.run(
        "train_epoch",
        **examples,
        **STEP,
        index=np.arange(4, dtype=np.int32)[np.newaxis],
        mask=np.ones((1, 4), np.float32),
    )

    step = odd_model.run("train", **examples, **STEP, mask=np.ones(4, np.float32))
    for name, array in step.items():
        np.testing.assert_allclose(epoch[name], array, rtol=1e-6, atol=1e-7)


def test_the_seed_decides_the_dropout(odd_model: scenario.InLite) -> None:
    examples = scenario.draw_examples(odd_model.model, 4)
    mask = np.ones(4, np.float32)

    def delta(seed: int) -> Vector:
        step = STEP | {"seed": np.int32(seed)}
        return odd_model.run("train", **examples, **step, mask=mask)["delta"]

    np.testing.assert_array_equal(delta(5), delta(5))
    assert not np.array_equal(delta(5), delta(6))


def test_dropout_keeps_the_share_it_states() -> None:
    model = keras.Sequential([keras.Input((1,)), layers.Dropout(0.25), layers.Dense(2)])
    trained = scenario.load_in_lite(model)
    count = 4000

    outputs = trained.run(
        "train",
        x=np.ones((count, 1), np.float32),
        y=np.zeros(count, np.int32),
        mask=np.ones(count, np.float32),
        learning_rate=np.float32(1),
        seed=np.int32(1),
        weights=np.zeros(4, np.float32),
    )

    # kernel's change: half of the mean of the scaled mask, 1 if the share is right
    kept = float(outputs["delta"][0]) * 2 * 0.75
    assert abs(kept - 0.75) < 5 * np.sqrt(0.75 * 0.25 / count)


def test_inference_and_evaluation_drop_nothing(odd_model: scenario.InLite) -> None:
    examples = scenario.draw_examples(odd_model.model, 7)
    mask = np.array([1, 1, 1, 1, 1, 0, 0], np.float32)
    expected = reference.predict(
        odd_model.model, x=examples["x"], weights=odd_model.weights
    )

    predicted = odd_model.run("infer", x=examples["x"])["probabilities"]
    sums = odd_model.run("evaluate", **examples, mask=mask)

    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-6)
    losses = -np.log(expected[np.arange(7), examples["y"]])
    hits = expected.argmax(-1) == examples["y"]
    assert sums["count"] == 5
    assert sums["correct"] == (hits * mask).sum()
    np.testing.assert_allclose(sums["loss_sum"], (losses * mask).sum(), rtol=1e-5)


def test_a_training_file_holds_no_weights(frozen_model: scenario.InLite) -> None:
    largest = max(len(held) for _, held in flatbuffer.constants(frozen_model.content))

    assert largest < 256


def test_a_conversion_is_deterministic(frozen_model: scenario.InLite) -> None:
    again = export.convert_training(Network.of(frozen()))

    assert again == frozen_model.content


def assert_same(outputs: Arrays, expected: reference.Outcome) -> None:
    np.testing.assert_allclose(outputs["delta"], expected.delta, rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs["loss_sum"], expected.loss_sum, rtol=1e-5)
    assert outputs["correct"] == expected.correct
    assert outputs["count"] == expected.count
