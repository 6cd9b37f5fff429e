"""Noise that a device adds by itself: as wide as was said, whatever is under it."""

import math

import numpy as np
import pydantic
import pytest

from coordinator.protocol import fixed_point
from coordinator.protocol.local_noise import BITS, LocalNoise

SIZE = 20_000
KEY = bytes(range(32))
NOISE = LocalNoise(clip_norm=2.0, noise_multiplier=0.5)


def delta(length: float) -> np.ndarray:
    vector = np.random.default_rng(1).standard_normal(SIZE)
    return (length * vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.mark.parametrize("length", [0.0, 1.0, 100.0])
def test_the_update_is_clipped_and_the_noise_as_wide_as_was_said(length: float) -> None:
    noise = NOISE.add(delta(length), key=KEY) - delta(min(length, 2.0))

    # of what rounding can make an update, and four deviations of the estimates
    stddev = 0.5 * 2.0 * fixed_point.longest(BITS, SIZE) / (1 << BITS)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 4 * stddev / math.sqrt(SIZE)
    assert abs(noise.std() / stddev - 1) < 4 / math.sqrt(2 * SIZE)


def test_noise_is_the_keys_own_and_as_wide_for_every_element() -> None:
    first, again = (NOISE.add(delta(1.0), key=KEY) for _ in range(2))
    other = NOISE.add(delta(1.0), key=b"o" * 32)

    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.05


def test_no_honest_update_is_longer_than_the_bound_and_few_are_much_shorter() -> None:
    norm = np.linalg.norm(NOISE.add(delta(2.0), key=KEY))

    assert 0.8 * NOISE.longest(SIZE) < norm < NOISE.longest(SIZE)


def test_what_is_no_update_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        NOISE.add(np.array([1.0, math.nan], np.float32), key=KEY)
    with pytest.raises(pydantic.ValidationError):
        LocalNoise(clip_norm=1.0, noise_multiplier=0.0)
