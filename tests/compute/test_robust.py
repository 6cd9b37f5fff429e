"""Every rule against numpy, against liars, and however it is cut into pieces."""

import typing
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.compute import cohort, fold, gram, order, robust
from coordinator.compute.backend import ComputeDevice
from coordinator.domain.aggregation import Folded
from coordinator.domain.norms import Tracked
from coordinator.protocol import fixed_point
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_server import AggregationPlan, AggregationRule
from tests.compute.scenario import RULES

pytestmark = pytest.mark.tf

Update = tuple[float, Vector]
Array = npt.NDArray[np.float64]
ROBUST = [rule for rule in RULES if rule != "mean"]


def plan(rule: str = "mean", **settings: object) -> AggregationPlan:
    return AggregationPlan.model_validate({**RULES[rule], "rule": rule, **settings})


def cohort_of(count: int, size: int = 301, seed: int = 0) -> list[Update]:
    """Updates that agree in direction and differ in detail, and in examples."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal(size)
    return [
        (
            float(generator.integers(1, 600)),
            (common + 0.5 * generator.standard_normal(size)).astype(np.float32),
        )
        for _ in range(count)
    ]


def updates_of(*rows: list[float], weights: Sequence[float] = ()) -> list[Update]:
    return [
        (weight, np.array(row, np.float32))
        for row, weight in zip(rows, weights or [1.0] * len(rows), strict=True)
    ]


@pytest.fixture
def aggregate(device: ComputeDevice) -> Callable[..., Folded]:
    def run(
        updates: Sequence[Update],
        settings: AggregationPlan,
        tracked: Tracked | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
        size: int | None = None,
    ) -> Folded:
        return robust.aggregate(
            updates,
            size=size or updates[0][1].size,
            plan=settings,
            tracked=tracked or Tracked(),
            device=device,
            on_progress=on_progress,
        )

    return run


# What numpy makes of it


def numpy_mean(rows: Array, weights: Array) -> Array:
    return np.asarray(weights @ rows / weights.sum())


def numpy_trimmed(rows: Array, _: Array) -> Array:
    cut = int(len(rows) * 0.2)
    return np.asarray(np.sort(rows, axis=0)[cut : len(rows) - cut].mean(axis=0))


def numpy_multi_krum(rows: Array, keep: int) -> Array:
    squared = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    near = np.sort(squared, axis=1)[:, 1 : 1 + len(rows) - 4 - 2]
    kept = np.argsort(near.sum(axis=1))[:keep]
    return np.asarray(rows[np.sort(kept)].mean(axis=0))


def numpy_weiszfeld(rows: Array, _: Array) -> Array:
    point = np.asarray(rows.mean(axis=0))
    for _step in range(100):
        inverse = 1 / np.linalg.norm(rows - point, axis=1)
        point = inverse @ rows / inverse.sum()
    return point


REFERENCES: dict[str, Callable[[Array, Array], Array]] = {
    "mean": numpy_mean,
    "median": lambda rows, _: np.asarray(np.median(rows, axis=0)),
    "trimmed_mean": numpy_trimmed,
    "krum": lambda rows, _: numpy_multi_krum(rows, 1),
    "multi_krum": lambda rows, _: numpy_multi_krum(rows, len(rows) - 4),
    "geometric_median": numpy_weiszfeld,
}


def test_every_rule_is_tested() -> None:
    assert list(RULES) == list(REFERENCES) == list(typing.get_args(AggregationRule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [11, 16, 17, 50])
def test_a_rule_is_what_numpy_makes_of_it(
    rule: str, count: int, aggregate: Callable[..., Folded]
) -> None:
    updates = cohort_of(count)
    weights = np.array([weight for weight, _ in updates])
    rows = np.array([delta for _, delta in updates], np.float64)
    folded = aggregate(updates, plan(rule))
    assert folded.mean.dtype == np.float64
    np.testing.assert_allclose(
        folded.mean, REFERENCES[rule](rows, weights), rtol=1e-11, atol=1e-12
    )


# By hand


def test_a_median_by_hand(aggregate: Callable[..., Folded]) -> None:
    odd = updates_of([1, 9], [2, -8], [300, 0], weights=[1, 1, 1000])
    assert aggregate(odd, plan("median")).mean.tolist() == [2, 0]
    even = updates_of([1, 9], [2, -8], [3, 1], [300, 0])
    assert aggregate(even, plan("median")).mean.tolist() == [2.5, 0.5]


def test_a_trimmed_mean_by_hand(aggregate: Callable[..., Folded]) -> None:
    rows = updates_of([1], [2], [3], [6], [-1000])
    assert aggregate(rows, plan("trimmed_mean", trim=0.2)).mean.tolist() == [2]
    assert aggregate(rows, plan("trimmed_mean", trim=0.4)).mean.tolist() == [2]
    rows = updates_of([1], [2], [5], [6], [-1000])
    assert aggregate(rows, plan("trimmed_mean", trim=0.2)).mean.tolist() == [8 / 3]


def test_krum_by_hand(aggregate: Callable[..., Folded]) -> None:
    rows = updates_of([0, 1], [1, 1], [2, 1], [4, 1], [100, 1], weights=[1, 2, 3, 4, 5])
    assert aggregate(rows, plan("krum", byzantine=1)).mean.tolist() == [1, 1]
    kept = plan("multi_krum", byzantine=1, keep=3)
    assert aggregate(rows, kept).mean.tolist() == [1, 1]  # of 0, 1, 2, not weighted
    kept = plan("multi_krum", byzantine=1)
    assert aggregate(rows, kept).mean.tolist() == [1.75, 1]  # of 0, 1, 2, 4


def test_a_geometric_median_by_hand(aggregate: Callable[..., Folded]) -> None:
    # The corners of a square and its middle, but one corner is very far.
    rows = updates_of([1, 1], [-1, -1], [1, -1], [-1e6, 1e6], [0, 0])
    mean = aggregate(rows, plan("geometric_median", iterations=1000)).mean
    assert np.abs(mean).max() < 1e-3


def test_a_clipped_update_weighs_as_before(aggregate: Callable[..., Folded]) -> None:
    rows = updates_of([3, 4], [0.5, 0], weights=[1, 3])
    folded = aggregate(rows, plan(max_norm=2.5))
    # The first is halved: (1 * [1.5, 2] + 3 * [0.5, 0]) / 4
    assert folded.mean.tolist() == [0.75, 0.5]
    assert folded.report == {
        "rule": "mean",
        "zeroed": 0,
        "clipped": 1,
        "median_norm": 2.75,
        "largest_norm": 5.0,
        "clip_to": 2.5,
    }


def test_a_zeroed_update_does_not_weigh(aggregate: Callable[..., Folded]) -> None:
    rows = updates_of([3, 4], [0, 5], [3e8, 4e8], weights=[1, 3, 1000])
    folded = aggregate(rows, plan(zero_quantile=0.98))
    assert folded.mean.tolist() == [0.75, 4.75]
    assert folded.report is not None
    assert (folded.report["zeroed"], folded.report["zero_above"]) == (1, 20.0)
    assert folded.tracked.zero_norm == pytest.approx(10 * np.exp(2.3 * (0.98 - 2 / 3)))


@pytest.mark.parametrize("rule", RULES)
def test_bounds_come_before_every_rule(
    rule: str, aggregate: Callable[..., Folded]
) -> None:
    updates = cohort_of(12)
    spoilt = [*updates, (1.0, np.full(301, 1e30, np.float32))]
    bounds: dict[str, Any] = {"zero_quantile": 0.98, "max_norm": 8.0}
    folded = aggregate(spoilt, plan(rule, **bounds))
    by_hand = [
        (weight, delta * np.float32(min(1.0, 8 / np.linalg.norm(delta))))
        for weight, delta in updates
    ]
    expected = aggregate(by_hand, plan(rule))
    np.testing.assert_allclose(folded.mean, expected.mean, rtol=1e-5, atol=1e-6)
    assert folded.report is not None
    assert (folded.report["zeroed"], folded.report["clipped"]) == (1, 12)


# Nothing else changes it


def test_the_plain_mean_is_the_fold_to_the_last_bit(
    aggregate: Callable[..., Folded], device: ComputeDevice
) -> None:
    updates = cohort_of(23)
    weighted = [fold.WeightedDelta(weight=w, delta=d) for w, d in updates]
    expected = fold.fold_mean(weighted, size=301, device=device).mean
    folded = aggregate(updates, AggregationPlan())
    np.testing.assert_array_equal(folded.mean, expected)
    assert (folded.tracked, folded.report) == (Tracked(), None)
    # Bounds that nothing touches change no bit either.
    wide = aggregate(updates, plan(max_norm=1e9, zero_quantile=0.98, zero_multiple=1e3))
    np.testing.assert_array_equal(wide.mean, expected)


@pytest.mark.parametrize("rule", RULES)
def test_pieces_are_the_whole(
    rule: str, aggregate: Callable[..., Folded], monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = cohort_of(11)
    settings = plan(rule, clip_quantile=0.5)
    whole = aggregate(updates, settings)
    for window_bytes, columns in ((11 * 4 * 40, 16), (1, 1), (11 * 4 * 100, 64)):
        monkeypatch.setattr(cohort, "_WINDOW_BYTES", window_bytes)
        monkeypatch.setattr(fixed_point, "_PIECE", 7)
        monkeypatch.setattr(order, "_TILE_BYTES", 0)
        monkeypatch.setattr(order, "_LEAST_COLUMNS", columns)
        monkeypatch.setattr(gram, "_TILE_COLUMNS", 16)
        pieces = aggregate(updates, settings)
        np.testing.assert_allclose(pieces.mean, whole.mean, rtol=1e-12, atol=1e-14)
        if rule in {"median", "trimmed_mean"}:
            np.testing.assert_array_equal(pieces.mean, whole.mean)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_the_order_of_devices_changes_no_bit_of_a_sort(
    rule: str, aggregate: Callable[..., Folded]
) -> None:
    updates = cohort_of(13)
    expected = aggregate(updates, plan(rule)).mean
    for seed in range(3):
        shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(13)]
        np.testing.assert_array_equal(aggregate(shuffled, plan(rule)).mean, expected)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_devices_changes_no_rule(
    rule: str, aggregate: Callable[..., Folded]
) -> None:
    updates = cohort_of(13)
    settings = plan(rule, zero_quantile=0.98, clip_quantile=0.5)
    expected = aggregate(updates, settings)
    folded = aggregate(updates[::-1], settings)
    np.testing.assert_allclose(folded.mean, expected.mean, rtol=1e-11, atol=1e-13)
    assert folded.tracked == expected.tracked


@pytest.mark.parametrize("rule", ROBUST)
def test_examples_do_not_weigh_where_devices_may_lie(
    rule: str, aggregate: Callable[..., Folded]
) -> None:
    updates = cohort_of(11)
    alike = [(1.0, delta) for _, delta in updates]
    np.testing.assert_array_equal(
        aggregate(updates, plan(rule)).mean, aggregate(alike, plan(rule)).mean
    )


# Liars


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("times", [-1.0, -10.0, 1e20])
def test_a_fifth_of_liars_moves_the_mean_and_no_robust_rule(
    rule: str, times: float, aggregate: Callable[..., Folded]
) -> None:
    updates = [(1.0, delta) for _, delta in cohort_of(20)]
    settings = plan(rule)
    liars = [(w, d * np.float32(times)) for w, d in updates[:4]]
    clean = aggregate(updates, settings).mean
    moved = aggregate([*liars, *updates[4:]], settings).mean
    share = np.linalg.norm(moved - clean) / np.linalg.norm(clean)
    if rule == "mean":
        assert share > 0.35
    else:
        # Krum takes one honest device's update for another's: half of it is noise.
        assert share < (0.8 if rule == "krum" else 0.3)
        direction = moved @ clean / np.linalg.norm(moved) / np.linalg.norm(clean)
        assert direction > (0.7 if rule == "krum" else 0.95)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_gets_in(
    rule: str, bad: float, aggregate: Callable[..., Folded]
) -> None:
    updates = cohort_of(11)
    updates[3][1][300] = bad
    with pytest.raises(ArithmeticError, match="update 3 of the round holds NaN"):
        aggregate(updates, plan(rule, zero_quantile=0.98, max_norm=1.0))
    with np.errstate(invalid="ignore"):
        if rule != "mean":
            with pytest.raises(ArithmeticError, match="update 3 of the round"):
                aggregate(updates, plan(rule))


def test_a_rule_that_zeroing_leaves_too_little_for_gives_up(
    aggregate: Callable[..., Folded],
) -> None:
    updates = cohort_of(11)
    for _, delta in updates[:3]:
        np.multiply(delta, 1e6, out=delta)
    settings = plan("krum", byzantine=4)
    assert np.abs(aggregate(updates, settings).mean).max() < 10
    with pytest.raises(robust.TooFewUpdates, match="8 of 11 updates, too few for rule"):
        aggregate(updates, plan("krum", byzantine=4, zero_quantile=0.98))


# How it is read


class Counted(Sequence[Update]):
    """Notes which updates are opened."""

    def __init__(self, updates: list[Update]) -> None:
        self._updates = updates
        self.opened: list[int] = []

    def __len__(self) -> int:
        return len(self._updates)

    @overload
    def __getitem__(self, index: int) -> Update: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Update]: ...

    def __getitem__(self, index: int | slice) -> Update | Sequence[Update]:
        assert isinstance(index, int)
        update = self._updates[index]  # IndexError ends an iteration
        self.opened.append(index)
        return update


@pytest.mark.parametrize(
    ("rule", "passes"), [("mean", 1), ("median", 2), ("geometric_median", 3)]
)
def test_updates_are_read_pass_by_pass_and_progress_is_told(
    rule: str, passes: int, aggregate: Callable[..., Folded]
) -> None:
    updates = Counted(cohort_of(9))
    told: list[int] = []
    aggregate(updates, plan(rule), on_progress=told.append, size=301)
    assert updates.opened == list(range(9)) * passes
    assert len(told) >= passes
    assert set(told) <= set(range(1, 10))


def test_krum_reads_the_winner_alone_once_more(
    aggregate: Callable[..., Folded],
) -> None:
    updates = Counted(cohort_of(11))
    aggregate(updates, plan("krum"), size=301)
    assert len(updates.opened) == 11 + 11 + 1


def test_a_window_holds_the_same_memory_however_many_devices_there_are() -> None:
    for count in (3, 50, 1000, 4096):
        width = cohort.window_width(count, 10_000_000)
        assert 60 << 20 < 4 * count * width <= 64 << 20
    assert cohort.window_width(3, 100) == 100
    assert cohort.window_width(1 << 30, 100) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 64, 65])
def test_sorting_by_a_network_sorts(count: int, device: ComputeDevice) -> None:
    generator = np.random.default_rng(count)
    rows = generator.integers(-3, 4, (count, 33)).astype(np.float32)  # with ties
    updates = [(1.0, row) for row in rows]
    for cut in range((count + 1) // 2):
        mean = order.middle_mean(
            updates,
            range(count),
            [1.0] * count,
            cut=cut,
            size=33,
            device=device,
            on_progress=lambda _: None,
        )
        expected = np.sort(rows, axis=0)[cut : count - cut].astype(np.float64).mean(0)
        np.testing.assert_allclose(mean, expected, rtol=1e-14, atol=1e-15)


def test_a_cut_of_half_leaves_nothing(device: ComputeDevice) -> None:
    with pytest.raises(ValueError, match="below half of 2 updates, got 1"):
        order.middle_mean(
            cohort_of(2),
            [0, 1],
            [1.0, 1.0],
            cut=1,
            size=301,
            device=device,
            on_progress=lambda _: None,
        )


def test_an_empty_cohort_has_no_aggregate(aggregate: Callable[..., Folded]) -> None:
    with pytest.raises(ValueError, match="at least one update, got none"):
        aggregate([], plan("median"), size=1)


def test_a_delta_of_another_size_is_refused(aggregate: Callable[..., Folded]) -> None:
    updates = [*cohort_of(5), *cohort_of(1, size=300)]
    with pytest.raises(ValueError, match=r"shape \(301,\), got \(300,\)"):
        aggregate(updates, plan("median"))
