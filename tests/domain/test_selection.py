import dataclasses
import datetime as dt

import pytest

from coordinator.domain.assignments import Assignment, Counts, State
from coordinator.domain.rounds import Phase
from coordinator.domain.selection import MAX_FAILURES, jittered, reason_to_wait
from coordinator.protocol.vocabulary import WaitReason
from tests.support.rounds import (
    DEADLINE,
    INSTANT,
    OPENED,
    POLICY,
    assignment_in,
    round_in,
)

COLLECTING = round_in(Phase.COLLECTING)  # six places
EMPTY = Counts(live=0, accepted=0, failed=0, lapsed=0)
FULL = Counts(live=6, accepted=0, failed=0, lapsed=0)
FAILED = assignment_in(State.FAILED)
LAPSED = assignment_in(State.LAPSED)
ACCEPTED = assignment_in(State.ACCEPTED)


def test_a_device_that_comes_first_gets_a_place() -> None:
    assert reason_to_wait(COLLECTING, EMPTY, [], now=OPENED) is None


@pytest.mark.parametrize(
    ("phase", "now", "reason"),
    [
        (Phase.COLLECTING, DEADLINE - INSTANT, None),
        (Phase.COLLECTING, DEADLINE, WaitReason.NO_OPEN_ROUND),
        (Phase.AGGREGATING, OPENED, WaitReason.NO_OPEN_ROUND),
        (Phase.COMMITTED, OPENED, WaitReason.NO_OPEN_ROUND),
        (Phase.ABANDONED, OPENED, WaitReason.NO_OPEN_ROUND),
    ],
)
def test_only_a_round_that_collects_has_places(
    phase: Phase, now: dt.datetime, reason: WaitReason | None
) -> None:
    assert reason_to_wait(round_in(phase), EMPTY, [], now=now) is reason


@pytest.mark.parametrize(
    ("live", "accepted", "reason"),
    [
        (5, 0, None),
        (6, 0, WaitReason.ROUND_FULL),
        (2, 3, None),
        (3, 3, WaitReason.ROUND_FULL),
        (0, 6, WaitReason.ROUND_FULL),
        (7, 0, WaitReason.ROUND_FULL),
    ],
)
def test_leases_and_results_fill_the_places(
    live: int, accepted: int, reason: WaitReason | None
) -> None:
    counts = Counts(live=live, accepted=accepted, failed=100, lapsed=100)
    assert reason_to_wait(COLLECTING, counts, [], now=OPENED) is reason


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ([ACCEPTED], WaitReason.ALREADY_REPORTED),
        ([LAPSED, FAILED, ACCEPTED], WaitReason.ALREADY_REPORTED),
        ([FAILED] * (MAX_FAILURES - 1), None),
        ([FAILED] * MAX_FAILURES, WaitReason.NO_OPEN_ROUND),
        ([LAPSED] * (MAX_FAILURES + 1), None),
        ([FAILED, LAPSED, FAILED], None),
    ],
)
def test_what_a_device_did_in_the_round_counts(
    own: list[Assignment], reason: WaitReason | None
) -> None:
    assert reason_to_wait(COLLECTING, EMPTY, own, now=OPENED) is reason


def test_the_reason_nearest_to_the_device_is_named_first() -> None:
    closed = round_in(Phase.COMMITTED)
    reason = reason_to_wait(closed, FULL, [ACCEPTED], now=OPENED)
    assert reason is WaitReason.NO_OPEN_ROUND
    reason = reason_to_wait(COLLECTING, FULL, [ACCEPTED], now=OPENED)
    assert reason is WaitReason.ALREADY_REPORTED
    given_up = [FAILED] * MAX_FAILURES
    reason = reason_to_wait(COLLECTING, FULL, given_up, now=OPENED)
    assert reason is WaitReason.NO_OPEN_ROUND


@pytest.mark.parametrize(
    ("draw", "wait_s"), [(0.0, 1.0), (0.25, 1.5), (0.5, 2.0), (0.75, 2.5)]
)
def test_a_wait_is_spread_around_its_mean(draw: float, wait_s: float) -> None:
    assert jittered(2.0, draw) == wait_s


@pytest.mark.parametrize(
    ("live", "accepted", "reason"),
    [(2, 0, None), (2, 9, None), (3, 0, WaitReason.ROUND_FULL)],
)
def test_only_leases_fill_the_places_of_an_asynchronous_round(
    live: int, accepted: int, reason: WaitReason | None
) -> None:
    policy = dataclasses.replace(POLICY, over_select=0.0, concurrency=3)
    counts = Counts(live=live, accepted=accepted, failed=0, lapsed=0)
    round_ = round_in(Phase.COLLECTING, policy=policy)
    assert reason_to_wait(round_, counts, [], now=OPENED) is reason
