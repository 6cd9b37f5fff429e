import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from device_sim.data import federation, partition

LABELS = st.lists(st.integers(0, 9), min_size=1, max_size=300).map(np.array)
SEEDS = st.integers(0, 2**32)
ALPHAS = st.floats(1e-3, 1e3) | st.sampled_from([1e-300, 1e308, math.inf])


@hypothesis.given(LABELS, st.integers(1, 30), ALPHAS, st.integers(1, 8), SEEDS)
def test_every_example_goes_to_exactly_one_device_and_none_is_short(
    labels: np.ndarray, devices: int, alpha: float, minimum: int, seed: int
):
    hypothesis.assume(devices * minimum <= len(labels))

    def split() -> list[np.ndarray]:
        return partition.by_label_skew(
            labels,
            devices=devices,
            alpha=alpha,
            minimum=minimum,
            rng=np.random.default_rng(seed),
        )

    parts = split()
    assert len(parts) == devices
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert min(map(len, parts)) >= minimum
    for part, again in zip(parts, split(), strict=True):
        assert np.array_equal(part, again)


@hypothesis.given(LABELS, st.floats(0, 1), SEEDS)
def test_splitting_off_keeps_the_labels_in_proportion(
    labels: np.ndarray, share: float, seed: int
):
    count = round(share * len(labels))
    rest, taken = partition.split_off(
        labels, count=count, rng=np.random.default_rng(seed)
    )
    assert len(taken) == count
    assert sorted(np.concatenate([rest, taken])) == list(range(len(labels)))
    for label in np.unique(labels):
        exact = count * (labels == label).mean()
        assert abs((labels[taken] == label).sum() - exact) < 1


def test_another_seed_gives_another_split():
    labels = np.arange(200) % 10

    def split(seed: int) -> list[np.ndarray]:
        return partition.by_label_skew(
            labels, devices=4, alpha=1, minimum=1, rng=np.random.default_rng(seed)
        )

    assert any(
        not np.array_equal(one, other)
        for one, other in zip(split(0), split(1), strict=True)
    )


def test_a_small_alpha_gives_few_labels_and_a_large_one_all_of_them():
    labels = np.arange(4000) % 10

    def labels_a_device(alpha: float) -> float:
        parts = partition.by_label_skew(
            labels, devices=20, alpha=alpha, minimum=1, rng=np.random.default_rng(0)
        )
        return np.mean([len(np.unique(labels[part])) for part in parts])

    assert labels_a_device(0.05) < 4
    assert labels_a_device(100) > 9.9


def test_an_infinite_alpha_gives_sizes_that_differ_by_at_most_one():
    parts = partition.by_label_skew(
        np.arange(103) % 10,
        devices=10,
        alpha=math.inf,
        minimum=1,
        rng=np.random.default_rng(0),
    )
    assert sorted(map(len, parts)) == [10] * 7 + [11] * 3


@pytest.mark.parametrize("alpha", [0, -1, math.nan])
def test_an_alpha_that_is_not_over_zero_is_refused(alpha: float):
    with pytest.raises(federation.DataError, match="alpha must be over 0"):
        partition.by_label_skew(
            np.zeros(10, int),
            devices=2,
            alpha=alpha,
            minimum=1,
            rng=np.random.default_rng(0),
        )


def test_too_few_examples_are_refused_with_the_number_that_would_do():
    with pytest.raises(federation.DataError, match="take 3 devices or fewer"):
        partition.by_label_skew(
            np.zeros(10, int),
            devices=4,
            alpha=1,
            minimum=3,
            rng=np.random.default_rng(0),
        )


def test_sizes_that_do_not_add_up_are_a_bug():
    with pytest.raises(ValueError, match="add up to 3 examples, got 4"):
        partition.by_size(np.arange(3), [2, 2], np.random.default_rng(0))


def test_a_count_beyond_the_examples_is_a_bug():
    with pytest.raises(ValueError, match="count must be 0 to 3, got 4"):
        partition.split_off(np.zeros(3, int), count=4, rng=np.random.default_rng(0))


def test_more_devices_only_add_writers():
    def choose(devices: int) -> list[str]:
        return partition.choose_writers(
            list("abcdefgh"),
            devices=devices,
            origin="file",
            rng=np.random.default_rng(7),
        )

    assert choose(8)[:3] == choose(3)
    assert sorted(choose(8)) == list("abcdefgh")
    with pytest.raises(federation.DataError, match=r"file has 8 writers .* 9 devices"):
        choose(9)
