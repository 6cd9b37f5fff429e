"""Updates as whole numbers: never longer than they may be, right on average."""

import hashlib
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import strategies

from coordinator.protocol import fixed_point
from coordinator.protocol.keystream import Keystream

BITS = 24


def encoded(
    delta: np.ndarray, clip_norm: float = 1.0, bits: int = BITS, label: str = ""
) -> np.ndarray:
    key = hashlib.sha256(label.encode()).digest()
    return fixed_point.encode(
        delta, clip_norm=clip_norm, bits=bits, stream=Keystream(key)
    )


@hypothesis.given(
    arrays.arrays(
        np.float32,
        strategies.integers(1, 50),
        elements=strategies.floats(
            -(2.0**120), 2.0**120, width=32, allow_subnormal=False
        ),
    ),
    strategies.sampled_from([1e-6, 0.1, 1.0, 1e6]),
)
def test_no_update_comes_out_longer_than_it_may(
    delta: np.ndarray, clip_norm: float
) -> None:
    whole = encoded(delta, clip_norm)

    assert sum(int(value) ** 2 for value in whole) <= (
        fixed_point.longest(BITS, delta.size) ** 2
    )


def test_a_short_update_keeps_its_length_and_a_long_one_its_direction() -> None:
    rng = np.random.default_rng(1)
    delta = rng.standard_normal(1000).astype(np.float32)
    norm = float(np.linalg.norm(delta.astype(np.float64)))

    kept = encoded(delta, clip_norm=2 * norm) / 2**BITS * 2 * norm
    clipped = encoded(delta, clip_norm=norm / 5) / 2**BITS * norm / 5

    np.testing.assert_allclose(kept, delta, atol=2 * norm / 2**BITS)
    np.testing.assert_allclose(clipped, delta / 5, atol=norm / 5 / 2**BITS)


def test_values_between_two_whole_numbers_are_right_on_average() -> None:
    # 0.3 of a unit each, and short enough not to be clipped
    delta = np.full(200_000, 0.3 / 2**16, np.float32)

    whole = encoded(delta, clip_norm=1.0, bits=16)

    assert set(np.unique(whole)) == {0, 1}
    assert whole.mean() == pytest.approx(0.3, abs=0.005)
    assert not np.array_equal(whole, encoded(delta, bits=16, label="other"))


def test_zeros_stay_zeros() -> None:
    assert not encoded(np.zeros(10, np.float32)).any()


def test_the_length_is_that_of_exact_numbers() -> None:
    delta = np.random.default_rng(0).standard_normal(200_001).astype(np.float32)

    exact = math.sqrt(math.fsum(float(value) ** 2 for value in delta))

    assert fixed_point.length(delta) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        encoded(np.array([0.0, value], np.float32))


def test_another_dtype_or_shape_is_refused() -> None:
    for delta in (np.zeros(3), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match="float32 vector"):
            encoded(delta)
