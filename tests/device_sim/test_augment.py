"""Changed images: the same ink elsewhere, turned, resized, relit or mirrored."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.plan_training import TrainingPlan
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

    x, y = augment.augmented_epochs(
        dots(30), np.arange(30, dtype=np.int32), plan, np.random.default_rng(2)
    )

    assert x.shape == (90, 9, 7, 1)
    np.testing.assert_array_equal(y, np.tile(np.arange(30), 3))
    assert np.any(x[:30] != x[30:60])
    np.testing.assert_array_equal(x.max(axis=(1, 2, 3)), 1 + y)


def noise(examples: int, height: int = 9, width: int = 9, channels: int = 1):
    shape = (examples, height, width, channels)
    return np.random.default_rng(3).random(shape, dtype=np.float32)


def turned(x: np.ndarray, degrees: float, size: float = 1.0) -> np.ndarray:
    count = len(x)
    return augment.warped(
        x, np.full(count, np.deg2rad(degrees)), np.full(count, float(size))
    )


def test_no_turn_changes_no_bit() -> None:
    x = noise(3, 8, 5, 2)
    np.testing.assert_array_equal(turned(x, 0), x)


@given(st.sampled_from([1, 2, 3]), st.sampled_from([8, 9]))
def test_quarter_turns_are_what_numpy_makes_of_them(quarters: int, side: int) -> None:
    x = noise(4, side, side, 2)
    expected = np.rot90(x, quarters, axes=(1, 2))
    np.testing.assert_allclose(turned(x, 90 * quarters), expected, atol=1e-5)


def test_each_image_is_turned_by_its_own_angle() -> None:
    x = noise(2)
    both = augment.warped(x, np.deg2rad([10.0, -40.0]), np.array([1.0, 1.2]))
    np.testing.assert_array_equal(both[:1], turned(x[:1], 10))
    np.testing.assert_array_equal(both[1:], turned(x[1:], -40, 1.2))


def test_between_pixels_the_shares_of_all_four_are_taken() -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 1, 0] = 1.0
    smaller = turned(x, 0, 0.5)  # pixel 1 of the result is from 1.5 + (1 - 1.5) / 0.5
    assert smaller[0, 1, 1, 0] == 0.25
    assert smaller.sum() == 0.25


def test_a_larger_image_leaves_its_frame_and_a_smaller_one_has_zeros_around() -> None:
    x = np.ones((1, 28, 28, 1), np.float32)
    np.testing.assert_allclose(turned(x, 0, 1.4), 1, atol=1e-6)
    smaller = turned(x, 0, 0.5)
    assert smaller[0, 14, 14, 0] == 1.0
    assert smaller[0, 3].sum() == 0.0
    assert abs(smaller.sum() - 14 * 14) < 30


def test_brightness_is_added_and_contrast_spreads_about_the_mean() -> None:
    x = np.array([0.4, 0.6], np.float32).reshape(1, 1, 2, 1)

    def relit(added: float, factor: float) -> list[float]:
        numbers = [np.full((1, 1, 1, 1), n, np.float32) for n in (added, factor)]
        return augment.relit(x, *numbers).ravel().tolist()

    np.testing.assert_allclose(relit(0.1, 1.0), [0.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose(relit(0.0, 2.0), [0.3, 0.7], rtol=1e-6)
    np.testing.assert_allclose(relit(0.5, 3.0), [0.7, 1.0], rtol=1e-6)
    np.testing.assert_allclose(relit(-0.5, 1.0), [0.0, 0.1], atol=1e-6)


def test_about_half_of_the_images_are_mirrored() -> None:
    x = noise(1000, 3, 4)
    flipped = augment.augmented(x, TrainingPlan(flip=True), np.random.default_rng(0))
    mirrored = (flipped == x[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == x).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 420 < mirrored.sum() < 580


def test_each_augmentation_changes_images_alone_and_keeps_their_type() -> None:
    x = noise(20, 28, 28)
    for changes in (
        {"max_shift": 1},
        {"max_rotation": 10.0},
        {"max_scale": 0.2},
        {"max_brightness": 0.2},
        {"max_contrast": 0.2},
        {"flip": True},
    ):
        plan = TrainingPlan(**changes)
        changed = augment.augmented(x, plan, np.random.default_rng(0))
        assert (changed.shape, changed.dtype) == (x.shape, np.float32)
        assert (changed != x).any()
        again = augment.augmented(x, plan, np.random.default_rng(0))
        np.testing.assert_array_equal(changed, again)
        assert 0 <= changed.min() <= changed.max() <= 1 + 1e-6


def test_moves_draw_what_they_drew_before_there_was_anything_else() -> None:
    x = noise(50)
    plan = TrainingPlan(max_shift=2, epochs=2)
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    moved, _ = augment.augmented_epochs(x, np.zeros(50, np.int32), plan, one)
    np.testing.assert_array_equal(
        moved, np.concatenate([augment.shifted(x, 2, other) for _ in range(2)])
    )
    assert one.random() == other.random()
