"""Every rule of an epoch against Keras's own optimizers and automatic gradients."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from coordinator.protocol.manifest import Vector
from tests.models import scenario
from tflite_models import keras_models, reference
from tflite_models.check import Arrays
from tflite_models.optimizers import RULES

pytestmark = pytest.mark.tf

# rates so low that hardly a ReLU changes sides, which lets a last bit grow
SGD = {"learning_rate": 0.005}
MOMENTUM = SGD | {"momentum": 0.9, "nesterov": 0.0, "clip_norm": 0.0}
ADAM = {
    "learning_rate": 0.0003,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-4,
    "clip_norm": 0.0,
}
PROXIMAL = {"proximal": 1.0}
CLIPPED = {"clip_norm": 0.3}  # shorter than most gradients here
CASES = {
    "sgd": ("train_epoch", SGD),
    "proximal": ("train_epoch_proximal", SGD | PROXIMAL | {"clip_norm": 0.0}),
    "clipped": ("train_epoch_proximal", SGD | CLIPPED | {"proximal": 0.0}),
    "proximal, clipped": ("train_epoch_proximal", SGD | PROXIMAL | CLIPPED),
    "momentum": ("train_epoch_momentum", MOMENTUM),
    "nesterov": ("train_epoch_momentum", MOMENTUM | {"nesterov": 1.0}),
    "nesterov, clipped": (
        "train_epoch_momentum",
        MOMENTUM | {"nesterov": 1.0} | CLIPPED,
    ),
    "nesterov, clipped, proximal": (
        "train_epoch_momentum_proximal",
        MOMENTUM | {"nesterov": 1.0} | CLIPPED | PROXIMAL,
    ),
    "adam": ("train_epoch_adam", ADAM),
    "adam with other betas": (
        "train_epoch_adam",
        ADAM | {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-7},
    ),
    "adam, clipped": ("train_epoch_adam", ADAM | CLIPPED),
    "adam, clipped, proximal": (
        "train_epoch_adam_proximal",
        ADAM | CLIPPED | PROXIMAL,
    ),
}
SEED = {"seed": np.int32(5)}


def tiny() -> keras.Sequential:
    """A small `cnn_deep` for odd sizes, its first and its third kernel frozen."""
    model = keras.Sequential(
        [
            keras.Input((15, 13, 1)),
            layers.Conv2D(3, 3, activation="relu", name="base"),
            layers.MaxPooling2D(2),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(9, activation="tanh", name="bridge"),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.get_layer("base").trainable = False
    model.get_layer("bridge").trainable = False
    return model


@pytest.fixture(scope="module")
def tiny_model() -> scenario.InLite:
    return scenario.load_in_lite(tiny())


@pytest.fixture(scope="module", params=list(keras_models.BUILDERS))
def shipped_model(request: pytest.FixtureRequest) -> scenario.InLite:
    content = scenario.shipped(request.param).train
    model = keras_models.BUILDERS[request.param]()
    return scenario.InLite(
        model=model,
        content=content,
        interpreter=Interpreter(model_content=content, num_threads=1),
        weights=scenario.draw_weights(model, 1) * np.float32(0.5),
    )


def as_inputs(settings: dict[str, float]) -> Arrays:
    return {name: np.float32(value) for name, value in settings.items()}


def one_step(
    trained: scenario.InLite, signature: str, settings: dict[str, float]
) -> Vector:
    return steps(trained, signature, settings, np.arange(6, dtype=np.int32)[np.newaxis])


def steps(
    trained: scenario.InLite,
    signature: str,
    settings: dict[str, float],
    index: Vector,
) -> Vector:
    return trained.run(
        signature,
        **scenario.draw_examples(trained.model, 6),
        **as_inputs(settings),
        **SEED,
        index=index,
        mask=np.ones(index.shape, np.float32),
    )["delta"]


def insist_twenty_steps_are_those_of_keras(
    trained: scenario.InLite, signature: str, settings: dict[str, float]
) -> None:
    """Twenty steps of seven, each tenth one short."""
    examples = scenario.draw_examples(trained.model, 67, 1)
    index = np.zeros((20, 7), np.int32)
    mask = np.ones((20, 7), np.float32)
    rows = np.random.default_rng(0)
    for epoch in (0, 10):
        index[epoch : epoch + 10].flat[:67] = rows.permutation(67)
        mask[epoch + 9, 4:] = 0

    outputs = trained.run(
        signature,
        **examples,
        **as_inputs(settings),
        **SEED,
        index=index,
        mask=mask,
    )

    expected = reference.train_epoch(
        trained.model,
        **examples,
        batches=[row[present > 0] for row, present in zip(index, mask, strict=True)],
        settings=settings,
        seed=5,
        weights=trained.weights,
    )
    assert np.abs(expected.delta).max() > 1e-3
    np.testing.assert_allclose(outputs["delta"], expected.delta, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["loss_sum"], expected.loss_sum, rtol=1e-5)
    assert outputs["correct"] == expected.correct
    assert outputs["count"] == expected.count == 134


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_those_of_keras(
    shipped_model: scenario.InLite, case: str
) -> None:
    insist_twenty_steps_are_those_of_keras(shipped_model, *CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_with_frozen_layers_are_those_of_keras(
    tiny_model: scenario.InLite, case: str
) -> None:
    insist_twenty_steps_are_those_of_keras(tiny_model, *CASES[case])


def test_every_rule_has_a_case() -> None:
    assert {signature for signature, _ in CASES.values()} == set(RULES)


def test_settings_that_are_off_leave_plain_sgd_to_the_bit(
    tiny_model: scenario.InLite,
) -> None:
    index = np.array([[0, 1, 2], [3, 4, 5], [1, 3, 5]], np.int32)
    plain = steps(tiny_model, "train_epoch", SGD, index)
    off = MOMENTUM | {"momentum": 0.0, "proximal": 0.0}

    for signature in (
        "train_epoch_proximal",
        "train_epoch_momentum",
        "train_epoch_momentum_proximal",
    ):
        settings = {name: off[name] for name in RULES[signature].settings}
        np.testing.assert_array_equal(
            steps(tiny_model, signature, settings, index), plain
        )


def test_a_step_is_as_long_as_the_clipping_norm_or_shorter(
    tiny_model: scenario.InLite,
) -> None:
    settings = {"learning_rate": 0.5, "proximal": 0.0, "clip_norm": 0.0}
    free = one_step(tiny_model, "train_epoch_proximal", settings)
    length = float(np.linalg.norm(free))

    for share in (0.25, 4.0):
        clip_norm = share * length / 0.5
        clipped = one_step(
            tiny_model, "train_epoch_proximal", settings | {"clip_norm": clip_norm}
        )
        np.testing.assert_allclose(
            clipped, free * min(1.0, share), rtol=1e-5, atol=1e-7
        )


def test_the_proximal_term_pulls_from_the_second_step_on(
    tiny_model: scenario.InLite,
) -> None:
    free = {"learning_rate": 0.1, "proximal": 0.0, "clip_norm": 0.0}
    held = free | {"proximal": 5.0}
    index = np.array([[0, 1, 2]] * 20, np.int32)

    np.testing.assert_array_equal(
        one_step(tiny_model, "train_epoch_proximal", held),
        one_step(tiny_model, "train_epoch_proximal", free),
    )
    far = np.linalg.norm(steps(tiny_model, "train_epoch_proximal", free, index))
    near = np.linalg.norm(steps(tiny_model, "train_epoch_proximal", held, index))
    assert near < far / 2


def test_the_first_step_of_adam_is_the_rate_in_the_gradients_direction(
    tiny_model: scenario.InLite,
) -> None:
    gradient = -one_step(tiny_model, "train_epoch", {"learning_rate": 1.0})

    delta = one_step(tiny_model, "train_epoch_adam", ADAM | {"epsilon": 1e-10})

    moves = np.abs(gradient) > 1e-5
    assert moves.mean() > 0.3
    np.testing.assert_allclose(
        delta[moves], -0.0003 * np.sign(gradient[moves]), rtol=1e-3
    )
