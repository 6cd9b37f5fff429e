"""Whole-numbered noise, compared with its exact distribution."""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.protocol import discrete_gaussian
from coordinator.protocol.keystream import Keystream

COUNT = 400_000


def drawn(stddev: float, size: int, label: str = "") -> np.ndarray:
    key = hashlib.sha256(f"{stddev} {label}".encode()).digest()
    return discrete_gaussian.sample(Keystream(key), stddev=stddev, size=size)


def right() -> np.ndarray:
    return drawn(2.5, COUNT)


def chi_square(sample: np.ndarray, stddev: float) -> tuple[float, int]:
    """The statistic against the exact pmf, and its degrees of freedom."""
    reach = math.ceil(12 * stddev) + 2
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-(support.astype(float) ** 2) / (2 * stddev**2))
    expected = sample.size * weights / weights.sum()
    observed = np.bincount(sample + reach, minlength=support.size)
    # Cells of which a few are expected are one cell.
    common = expected >= 10
    rest = expected[~common].sum()
    statistic = ((observed - expected)[common] ** 2 / expected[common]).sum()
    statistic += (observed[~common].sum() - rest) ** 2 / rest
    return float(statistic), int(common.sum())


def is_unlikely(statistic: float, degrees: int) -> bool:
    """Whether chance gives more once in a million times (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return (statistic / degrees) ** (1 / 3) > 1 - spread + 4.75 * math.sqrt(spread)


@pytest.mark.parametrize("stddev", [0.3, 0.7, 1.0, 2.5, 7.0, 40.0])
def test_the_sampler_has_the_exact_distribution(stddev: float) -> None:
    sample = drawn(stddev, COUNT)

    assert sample.shape == (COUNT,)
    assert sample.dtype == np.int64
    assert not is_unlikely(*chi_square(sample, stddev))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: right()[right() != 0], id="zeros rejected"),
        pytest.param(lambda: np.abs(right()), id="no signs"),
        pytest.param(lambda: drawn(2.53, COUNT), id="1 % too wide"),
        pytest.param(
            lambda: np.rint(np.random.default_rng(0).laplace(0, 1.8, COUNT)),
            id="Laplace",
        ),
    ],
)
def test_the_comparison_finds_other_distributions(
    wrong: Callable[[], np.ndarray],
) -> None:
    sample = wrong().astype(np.int64)

    assert is_unlikely(*chi_square(sample[np.abs(sample) < 32], 2.5))


def test_a_wide_distribution_is_normal_for_all_that_one_sees() -> None:
    stddev = 1.7e7
    scaled = drawn(stddev, COUNT) / stddev

    edges = np.linspace(-4, 4, 81)
    cdf = np.array([0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges])
    expected = np.diff(cdf) * COUNT
    observed, _ = np.histogram(scaled, edges)
    assert not is_unlikely(float(((observed - expected) ** 2 / expected).sum()), 79)
    low_bits = np.bincount((scaled * stddev).astype(np.int64) & 7, minlength=8)
    assert not is_unlikely(float(((low_bits - COUNT / 8) ** 2 / (COUNT / 8)).sum()), 7)


def test_the_same_key_gives_the_same_noise_and_another_key_another() -> None:
    noise = drawn(1e7, 1000, "a")

    np.testing.assert_array_equal(noise, drawn(1e7, 1000, "a"))
    assert np.mean(noise == drawn(1e7, 1000, "b")) < 0.01


@pytest.mark.parametrize("stddev", [0.0, -1.0, math.nan, math.inf, 2.0**47])
def test_a_width_that_is_none_is_refused(stddev: float) -> None:
    with pytest.raises(ValueError, match="stddev must lie in"):
        discrete_gaussian.sample(Keystream(bytes(32)), stddev=stddev, size=1)
