"""Dropout's masks: the same everywhere for a seed, and otherwise random."""

import numpy as np
import pytest
import tensorflow as tf

from coordinator.protocol.manifest import Vector
from tflite_models.noise import Noise

pytestmark = pytest.mark.tf


def draw(
    *,
    seed: int = 1,
    step: int = 0,
    stream: int = 0,
    rows: int = 200,
    columns: int = 1000,
) -> Vector:
    noise = Noise.of(seed=tf.constant(seed), step=tf.constant(step), mask=tf.ones(rows))
    return noise.uniform(stream, columns).numpy()


def test_numbers_are_uniform_in_zero_to_one() -> None:
    drawn = draw()

    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=50, range=(0, 1))
    expected = drawn.size / 50
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 49 + 5 * np.sqrt(2 * 49)


def test_the_same_seed_draws_the_same() -> None:
    np.testing.assert_array_equal(draw(), draw())


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"seed": -1}, {"step": 1}, {"stream": 1}]
)
def test_another_seed_step_or_layer_draws_independently(other: dict[str, int]) -> None:
    correlation = np.corrcoef(draw().ravel(), draw(**other).ravel())[0, 1]

    assert abs(correlation) < 5 / np.sqrt(200 * 1000)


def test_rows_and_columns_are_independent() -> None:
    drawn = draw()
    bound = 5 / np.sqrt(drawn.size)

    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < bound
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < bound
    assert len(np.unique(drawn[:, 0])) == len(drawn)


def test_a_row_does_not_depend_on_the_batch() -> None:
    np.testing.assert_array_equal(draw(rows=7), draw(rows=200)[:7])
