"""Moved images: the same ink elsewhere."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.plans import TrainingPlan
from device_sim import augment


def dots(examples: int) -> np.ndarray:
    """One dot an image, of its own brightness, in the middle of 9 x 7 pixels."""
    x = np.zeros((examples, 9, 7, 1), np.float32)
    x[:, 4, 3, 0] = np.arange(1, examples + 1)
    return x


@given(st.integers(1, 3), st.integers(0, 1000))
def test_a_dot_moves_by_no_more_than_it_may(most: int, seed: int) -> None:
    moved = augment.shifted(dots(20), most, np.random.default_rng(seed))

    which, row, column, _ = np.nonzero(moved)
    np.testing.assert_array_equal(which, np.arange(20))
    np.testing.assert_array_equal(moved[moved > 0], np.arange(1, 21))
    assert np.abs(row - 4).max() <= most
    assert np.abs(column - 3).max() <= most


def test_every_move_happens_and_none_is_more_likely() -> None:
    moved = augment.shifted(dots(9000), 1, np.random.default_rng(0))

    _, row, column, _ = np.nonzero(moved)
    counts = np.bincount((row - 3) * 3 + (column - 2), minlength=9)
    assert len(counts) == 9
    assert np.abs(counts - 1000).max() < 150


def test_ink_that_leaves_the_image_is_gone() -> None:
    x = np.ones((50, 4, 4, 1), np.float32)

    moved = augment.shifted(x, 2, np.random.default_rng(1))

    sums = moved.sum(axis=(1, 2, 3))
    assert set(sums) <= {16.0, 12.0, 9.0, 8.0, 6.0, 4.0}
    assert len(set(sums)) > 3


def test_each_epoch_moves_the_images_anew() -> None:
    plan = TrainingPlan(epochs=3, max_shift=2)

    x, y = augment.shifted_epochs(
        dots(30), np.arange(30, dtype=np.int32), plan, np.random.default_rng(2)
    )

    assert x.shape == (90, 9, 7, 1)
    np.testing.assert_array_equal(y, np.tile(np.arange(30), 3))
    assert np.any(x[:30] != x[30:60])
    np.testing.assert_array_equal(x.max(axis=(1, 2, 3)), 1 + y)
