import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain import norms
from coordinator.domain.norms import Tracked
from coordinator.protocol.plan_server import AggregationPlan

LENGTHS = st.lists(st.floats(0, 1e30), min_size=1, max_size=30)


def test_without_bounds_every_update_counts_as_it_is() -> None:
    bounded = norms.bound([1.0, 0.0, 1e30], AggregationPlan(rule="median"), Tracked())
    assert bounded.kept == (0, 1, 2)
    assert bounded.factors == (1.0, 1.0, 1.0)
    assert bounded.tracked == Tracked()
    assert (bounded.zero_above, bounded.clip_to) == (math.inf, math.inf)


def test_a_fixed_bound_scales_longer_updates_down_to_it() -> None:
    plan = AggregationPlan(max_norm=2.0)
    bounded = norms.bound([1.0, 2.0, 4.0, 8.0], plan, Tracked())
    assert bounded.factors == (1.0, 1.0, 0.5, 0.25)
    assert bounded.clipped == 2
    assert bounded.tracked == Tracked()


def test_a_clipping_length_starts_as_the_first_rounds_quantile() -> None:
    plan = AggregationPlan(clip_quantile=0.5, clip_rate=1.0)
    bounded = norms.bound([1.0, 2.0, 3.0, 4.0, 100.0], plan, Tracked())
    assert bounded.clip_to == 3.0
    assert bounded.factors == (1.0, 1.0, 1.0, 0.75, 0.03)
    # Three of five lie at or below 3: a tenth too many, so the length shrinks.
    assert bounded.tracked.clip_norm == pytest.approx(3 * math.exp(-0.1))


def test_a_clipping_length_goes_on_from_where_it_was() -> None:
    plan = AggregationPlan(clip_quantile=0.75, clip_rate=0.5)
    bounded = norms.bound([1.0, 2.0, 4.0, 8.0], plan, Tracked(clip_norm=2.0))
    assert bounded.factors == (1.0, 1.0, 0.5, 0.25)
    assert bounded.tracked.clip_norm == pytest.approx(2 * math.exp(0.5 * 0.25))


def test_a_clipping_length_comes_to_its_quantile() -> None:
    plan = AggregationPlan(clip_quantile=0.8)
    lengths = [float(i) for i in range(1, 101)]
    tracked = Tracked(clip_norm=1e-3)
    for _ in range(200):
        tracked = norms.bound(lengths, plan, tracked).tracked
    assert tracked.clip_norm == pytest.approx(80, rel=0.02)


def test_the_fixed_bound_caps_the_adaptive_one() -> None:
    plan = AggregationPlan(clip_quantile=0.5, max_norm=2.0)
    assert norms.bound([4.0, 4.0], plan, Tracked()).factors == (0.5, 0.5)
    assert norms.bound([4.0, 4.0], plan, Tracked(clip_norm=1.0)).factors == (0.25, 0.25)


def test_an_update_much_longer_than_the_others_is_zeroed() -> None:
    plan = AggregationPlan(zero_quantile=0.75, zero_multiple=2.0, zero_rate=1.0)
    bounded = norms.bound([1.0, 2.0, 3.0, 4.0, 4.1], plan, Tracked(zero_norm=2.0))
    # Tracked is 2, but the median is 3: twice that is 6, and all are kept.
    assert bounded.kept == (0, 1, 2, 3, 4)
    assert bounded.zero_above == 6.0
    # Two of five lie at or below 2, of which three quarters should.
    assert bounded.tracked.zero_norm == pytest.approx(2 * math.exp(0.75 - 0.4))
    bounded = norms.bound([1.0, 1.0, 1.0, 5.0, 3.9], plan, Tracked(zero_norm=2.0))
    assert bounded.kept == (0, 1, 2, 4)
    assert bounded.factors == (1.0, 1.0, 1.0, 1.0)


def test_a_zeroing_length_starts_as_the_first_rounds_quantile() -> None:
    plan = AggregationPlan(zero_quantile=0.75, zero_multiple=3.0)
    bounded = norms.bound([1.0, 2.0, 2.5, 3.0, 9.1], plan, Tracked())
    assert bounded.kept == (0, 1, 2, 3)
    assert bounded.zero_above == 3 * 3.0


def test_outliers_of_the_first_round_are_zeroed_by_its_median() -> None:
    plan = AggregationPlan(zero_quantile=0.98, zero_rate=1.0)
    bounded = norms.bound([1.0, 1e30, 1.0, 1.9, 2.1], plan, Tracked())
    assert bounded.kept == (0, 2, 3, 4)
    assert bounded.zero_above == 2 * 2 * 1.9
    assert bounded.tracked.zero_norm == pytest.approx(2 * 1.9 * math.exp(0.98 - 0.8))


def test_what_is_zeroed_has_no_say_in_clipping() -> None:
    plan = AggregationPlan(zero_quantile=0.98, clip_quantile=0.5)
    bounded = norms.bound([1.0, 2.0, 3.0, 1e9, 1e9], plan, Tracked(zero_norm=2.0))
    assert bounded.kept == (0, 1, 2)
    assert bounded.clip_to == 2.0


def test_a_round_of_zeros_leaves_the_start_to_the_next() -> None:
    plan = AggregationPlan(zero_quantile=0.98, clip_quantile=0.5)
    bounded = norms.bound([0.0, 0.0, 0.0, 1.0], plan, Tracked())
    assert bounded.kept == (0, 1, 2, 3)
    assert bounded.factors == (1.0, 1.0, 1.0, 1.0)
    assert bounded.tracked == Tracked()


@given(LENGTHS, st.floats(1e-30, 1e30) | st.none(), st.floats(1e-30, 1e30) | st.none())
def test_at_least_half_are_kept_and_bounds_stay_lengths(
    lengths: list[float], clip_norm: float | None, zero_norm: float | None
) -> None:
    plan = AggregationPlan(zero_quantile=0.9, zero_multiple=1.0, clip_quantile=0.5)
    bounded = norms.bound(
        lengths, plan, Tracked(clip_norm=clip_norm, zero_norm=zero_norm)
    )
    assert 2 * len(bounded.kept) >= len(lengths)
    assert len(bounded.factors) == len(bounded.kept)
    assert all(0 < factor <= 1 for factor in bounded.factors)
    for norm in (bounded.tracked.clip_norm, bounded.tracked.zero_norm):
        assert norm is None or (norm > 0 and math.isfinite(norm))
