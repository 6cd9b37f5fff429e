"""The noisy mean: exact but for noise, and noise as wide as was said."""

import dataclasses
import math

import numpy as np
import pytest

from coordinator.compute.private import PrivateFolder, square_root_taps
from coordinator.domain.aggregation import Folded
from coordinator.domain.privacy import AdaptiveClip, PrivateFold, RoundKeys
from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.manifest import Vector

SIZE = 20_000
SECRET = bytes(range(32))
UNIT = 2.0**-24  # a whole number's worth where clip_norm is 1
#: So little noise that rounding hides it.
SILENT = PrivateFold(
    clip_norm=1.0,
    noise_multiplier=1e-12,
    denominator=4,
    keys=RoundKeys(SECRET, 1),
)


def fold(
    updates: list[tuple[float, Vector]],
    settings: PrivateFold = SILENT,
    *,
    clip_norm: float | None = None,
    folder: PrivateFolder | None = None,
    size: int = SIZE,
) -> Folded:
    return (folder or PrivateFolder()).fold(
        updates, settings, size=size, clip_norm=clip_norm, on_progress=lambda _: None
    )


def unit(seed: int, length: float = 1.0, size: int = SIZE) -> Vector:
    vector = np.random.default_rng(seed).standard_normal(size)
    return (length * vector / np.linalg.norm(vector)).astype(np.float32)


def test_every_update_counts_alike_and_the_divisor_is_fixed() -> None:
    updates = [(1.0, unit(1, 0.5)), (1000.0, unit(2, 0.5))]

    mean = fold(updates).mean

    np.testing.assert_allclose(
        mean, (unit(1, 0.5) + unit(2, 0.5)) / 4, atol=2 * UNIT / 4
    )


def test_a_long_update_is_scaled_down_to_the_clip_norm() -> None:
    long = fold([(1.0, unit(1, 100.0))])

    np.testing.assert_allclose(long.mean, unit(1) / 4, atol=2 * UNIT / 4)
    assert long.clipped_to == 1.0
    np.testing.assert_allclose(
        fold([(1.0, unit(1, 100.0))], clip_norm=0.25).mean,
        unit(1, 0.25) / 4,
        atol=2 * UNIT / 16,
    )


def test_no_noise_is_added_to_what_has_it_and_who_is_longer_than_noise_is_cut() -> None:
    local = LocalNoise(clip_norm=1.0, noise_multiplier=2.0)
    settings = dataclasses.replace(SILENT, noise_multiplier=2.0, noise_from="devices")
    noisy = [local.add(unit(seed), key=bytes([seed]) * 32) for seed in (1, 2)]
    liar = unit(3, 1e6)

    folded = fold([(1.0, each) for each in (*noisy, liar)], settings)

    longest = local.longest(SIZE)
    expected = (noisy[0] + noisy[1] + unit(3, longest)) / 4
    np.testing.assert_allclose(folded.mean, expected, atol=1e-3)
    assert folded.clipped_to == 1.0


def test_no_update_at_all_is_noise_alone() -> None:
    settings = dataclasses.replace(SILENT, noise_multiplier=2.0)

    noise = fold([], settings).mean

    assert noise.std() == pytest.approx(2.0 / 4, rel=0.02)


def test_the_noise_is_as_wide_as_was_said_and_the_rounds_own() -> None:
    def noise_of(round_id: int) -> np.ndarray:
        settings = dataclasses.replace(
            SILENT, noise_multiplier=1.5, keys=RoundKeys(SECRET, round_id)
        )
        return fold([(1.0, unit(1))], settings).mean - unit(1) / 4

    first, second = noise_of(1), noise_of(2)

    # 1.5 / 4; the deviation of a deviation of 20,000 is 0.5 %
    assert first.std() == pytest.approx(0.375, rel=0.02)
    assert first.mean() == pytest.approx(0, abs=5 * 0.375 / math.sqrt(SIZE))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_a_round_that_is_folded_again_gives_the_same_bits() -> None:
    settings = dataclasses.replace(SILENT, noise_multiplier=1.0)
    updates = [(1.0, unit(seed)) for seed in range(5)]

    once, again = fold(updates, settings), fold(updates, settings)

    assert once.mean.tobytes() == again.mean.tobytes()


def test_what_is_released_is_whole_numbers_of_one_unit() -> None:
    settings = dataclasses.replace(SILENT, noise_multiplier=1.0)

    units = fold([(1.0, unit(1))], settings).mean * 4 / UNIT

    np.testing.assert_array_equal(units, np.rint(units))


@pytest.mark.parametrize(
    "delta", [np.zeros(SIZE - 1, np.float32), np.zeros(SIZE, np.float64)]
)
def test_a_delta_of_another_kind_is_refused(delta: Vector) -> None:
    with pytest.raises(ValueError, match="delta must"):
        fold([(1.0, delta)])


def test_the_clip_norm_follows_noisy_counts_alone() -> None:
    adaptive = AdaptiveClip(quantile=0.5, rate=0.2, stddev=1e-6)
    settings = dataclasses.replace(SILENT, adaptive=adaptive)
    updates = [(1.0, unit(seed, 3.0)) for seed in range(3)] + [(1.0, unit(9, 0.5))]

    folded = fold(updates, settings)
    following = fold(updates, settings, clip_norm=folded.tracked.clip_norm)

    # 1 of 4 is short: the norm grows by exp(0.2 * 0.25), and again
    assert folded.tracked.clip_norm == pytest.approx(math.exp(0.05))
    assert following.tracked.clip_norm == pytest.approx(math.exp(0.1))
    assert following.clipped_to == folded.tracked.clip_norm
    assert folded.tracked.zero_norm is None
    assert fold(updates).tracked.clip_norm is None


def test_the_counts_have_noise_of_their_own() -> None:
    norms = []
    for round_id in range(200):
        settings = dataclasses.replace(
            SILENT,
            adaptive=AdaptiveClip(quantile=0.5, rate=1.0, stddev=2.0),
            keys=RoundKeys(SECRET, round_id),
        )
        tracked = fold([(1.0, unit(1, 0.5, 10))], settings, size=10).tracked.clip_norm
        assert tracked is not None
        norms.append(math.log(tracked))

    # one short update of four: surplus 1, so below = 0.5 + (1 + noise) / 8
    assert np.mean(norms) == pytest.approx(-1 / 8, abs=5 * 0.25 / math.sqrt(200))
    assert np.std(norms) == pytest.approx(2 / 8, rel=0.2)


# Noise that is taken back


def bsr(bands: int, released: int) -> PrivateFold:
    keys = [RoundKeys(SECRET, round_id) for round_id in range(1, released + 2)]
    return PrivateFold(
        clip_norm=1.0,
        noise_multiplier=1.0,
        denominator=1,
        keys=keys[-1],
        bands=bands,
        past=tuple(each.key("noise") for each in keys[:-1]),
    )


def test_the_column_is_that_of_a_square_root_and_has_length_one() -> None:
    taps = square_root_taps(4)

    np.testing.assert_allclose(taps / taps[0], [1, 1 / 2, 3 / 8, 5 / 16])
    assert (taps**2).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("bands", "rounds", "rms"), [(8, 100, 3.24), (16, 100, 2.71), (67, 100, 2.35)]
)
def test_the_models_noise_is_as_small_as_in_the_literature(
    bands: int, rounds: int, rms: float
) -> None:
    # rms over rounds of the deviation of the sum of all noise so far; independent: 7.11
    size, folder = 2000, PrivateFolder()
    total, squares = np.zeros(size), []
    for released in range(rounds):
        total += fold([], bsr(bands, released), folder=folder, size=size).mean
        squares.append(np.mean(total**2))

    assert math.sqrt(np.mean(squares)) == pytest.approx(rms, rel=0.05)


def test_what_was_noised_can_be_put_together_from_what_was_drawn() -> None:
    # C times the noise that was added is the noise that was drawn, and that is fresh.
    bands, size, folder = 4, 5000, PrivateFolder()
    added = [
        fold([], bsr(bands, released), folder=folder, size=size).mean
        for released in range(10)
    ]
    taps = square_root_taps(bands)

    drawn = [
        sum(taps[lag] * added[at - lag] for lag in range(min(bands, at + 1)))
        for at in range(10)
    ]

    assert np.std(drawn) == pytest.approx(1, rel=0.02)
    correlations = np.corrcoef(drawn) - np.eye(10)
    assert np.abs(correlations).max() < 5 / math.sqrt(size)


def test_a_worker_that_starts_anew_adds_the_same_noise() -> None:
    folder = PrivateFolder()
    kept = [
        fold([], bsr(3, released), folder=folder, size=100).mean
        for released in range(6)
    ]

    # the same round again, an older one, another task between, and from nothing
    for released in (5, 5, 2, 4):
        again = fold([], bsr(3, released), folder=folder, size=100).mean
        np.testing.assert_array_equal(again, kept[released])
    fold([], dataclasses.replace(bsr(3, 1), past=(bytes(32),)), folder=folder, size=100)
    anew = fold([], bsr(3, 5), folder=folder, size=100).mean
    np.testing.assert_array_equal(anew, kept[5])
    np.testing.assert_array_equal(fold([], bsr(3, 5), size=100).mean, kept[5])
