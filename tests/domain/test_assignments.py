import dataclasses
import datetime as dt
import itertools

import pytest

from coordinator.domain.assignments import TRANSITIONS, Counts, State
from coordinator.domain.errors import (
    AlreadyReported,
    AssignmentEnded,
    DomainError,
    LeaseLapsed,
)
from coordinator.protocol.vocabulary import FailureReason
from tests.support.rounds import INSTANT, LEASE_END, OPENED, assignment_in

MOMENTS = {
    "at once": OPENED,
    "in the last instant": LEASE_END - INSTANT,
    "at the end": LEASE_END,
    "after the end": LEASE_END + INSTANT,
}
ENDS = [State.ACCEPTED, State.FAILED, State.LAPSED]
REFUSALS: dict[State, type[DomainError]] = {
    State.ACCEPTED: AlreadyReported,
    State.FAILED: AssignmentEnded,
    State.LAPSED: LeaseLapsed,
    State.WITHDRAWN: LeaseLapsed,
}


def is_over(now: dt.datetime) -> bool:
    return now >= LEASE_END


@pytest.mark.parametrize("now", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize(("state", "to"), list(itertools.product(State, ENDS)))
def test_an_assignment_ends_once_and_within_its_lease(
    state: State, to: State, now: dt.datetime
) -> None:
    before = assignment_in(state)
    failure = FailureReason.INTERRUPTED if to is State.FAILED else None
    refusal = REFUSALS.get(state)
    if refusal is None and to is not State.LAPSED and is_over(now):
        refusal = LeaseLapsed
    if refusal is None:
        after = before.ended(to, now=now, failure=failure)
        assert after == dataclasses.replace(
            before, state=to, ended_at=now, failure=failure
        )
    else:
        with pytest.raises(refusal, match="a" * 32):
            before.ended(to, now=now, failure=failure)
    assert before == assignment_in(state)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("to", [State.LEASED, State.WITHDRAWN])
def test_no_assignment_ends_by_being_leased_or_withdrawn(
    state: State, to: State
) -> None:
    with pytest.raises((DomainError, ValueError)):
        assignment_in(state).ended(to, now=OPENED)


@pytest.mark.parametrize("state", State)
def test_only_an_accepted_result_is_withdrawn(state: State) -> None:
    before = assignment_in(state)
    if state is State.ACCEPTED:
        after = before.withdrawn(now=LEASE_END)
        assert after == dataclasses.replace(
            before, state=State.WITHDRAWN, ended_at=LEASE_END
        )
    else:
        with pytest.raises(ValueError, match=f"is {state}"):
            before.withdrawn(now=LEASE_END)


def test_the_table_says_what_ending_does() -> None:
    assert set(TRANSITIONS) == set(State)
    allowed = set()
    for state, to in itertools.product(State, ENDS):
        try:
            assignment_in(state).ended(to, now=OPENED)
        except DomainError:
            continue
        allowed.add((state, to))
    allowed.add((State.ACCEPTED, State.WITHDRAWN))  # by another function
    assert allowed == {(state, to) for state, row in TRANSITIONS.items() for to in row}


@pytest.mark.parametrize("now", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("state", State)
def test_only_a_lease_that_runs_is_live(state: State, now: dt.datetime) -> None:
    expected = state is State.LEASED and not is_over(now)
    assert assignment_in(state).is_live(now) is expected


def test_devices_that_gave_up_have_reported_and_silent_ones_have_not() -> None:
    assert Counts(live=1, accepted=20, failed=300, lapsed=4000).reported == 320
