import dataclasses
import datetime as dt
import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain import rounds
from coordinator.domain.errors import RoundClosed
from coordinator.domain.rounds import (
    Event,
    NewRound,
    Phase,
    Policy,
    due_event,
    step_event,
)
from coordinator.protocol.vocabulary import Kind
from tests.support.rounds import DEADLINE, INSTANT, OPENED, POLICY, round_in

TABLE = {
    (Phase.COLLECTING, Event.GOAL_REACHED): Phase.AGGREGATING,
    (Phase.COLLECTING, Event.MINIMUM_MET): Phase.AGGREGATING,
    (Phase.COLLECTING, Event.MINIMUM_MISSED): Phase.ABANDONED,
    (Phase.COLLECTING, Event.CANCELLED): Phase.ABANDONED,
    (Phase.COLLECTING, Event.GATHERED): Phase.SHARING,
    (Phase.SHARING, Event.SHARED): Phase.MASKING,
    (Phase.SHARING, Event.MINIMUM_MISSED): Phase.ABANDONED,
    (Phase.SHARING, Event.CANCELLED): Phase.ABANDONED,
    (Phase.MASKING, Event.MASKED): Phase.UNMASKING,
    (Phase.MASKING, Event.MINIMUM_MISSED): Phase.ABANDONED,
    (Phase.MASKING, Event.CANCELLED): Phase.ABANDONED,
    (Phase.UNMASKING, Event.REVEALED): Phase.AGGREGATING,
    (Phase.UNMASKING, Event.MINIMUM_MISSED): Phase.ABANDONED,
    (Phase.UNMASKING, Event.CANCELLED): Phase.ABANDONED,
    (Phase.AGGREGATING, Event.CLAIMED): Phase.AGGREGATING,
    (Phase.AGGREGATING, Event.HANDED_BACK): Phase.AGGREGATING,
    (Phase.AGGREGATING, Event.RELEASED): Phase.COMMITTED,
    (Phase.AGGREGATING, Event.GIVEN_UP): Phase.ABANDONED,
    (Phase.AGGREGATING, Event.CANCELLED): Phase.ABANDONED,
}
PRODUCT = list(itertools.product(Phase, Event))
NOW = OPENED + dt.timedelta(seconds=30)
STEP_S = 9
PAUSES_S = {
    Event.CLAIMED: 15,
    Event.HANDED_BACK: 5,
    **dict.fromkeys((Event.GATHERED, Event.SHARED, Event.MASKED), STEP_S),
}
SECURE = dataclasses.replace(POLICY, step_s=STEP_S)


@pytest.mark.parametrize(("phase", "event"), [p for p in PRODUCT if p in TABLE])
def test_a_listed_event_leads_to_its_phase(phase: Phase, event: Event) -> None:
    before = round_in(phase, claims=2, policy=SECURE)
    after = before.after(event, now=NOW)
    pause_s = PAUSES_S.get(event, 0)
    is_closed = TABLE[phase, event] in {Phase.COMMITTED, Phase.ABANDONED}
    assert after == dataclasses.replace(
        before,
        phase=TABLE[phase, event],
        deadline=NOW + dt.timedelta(seconds=pause_s),
        claims={Event.CLAIMED: 3, Event.HANDED_BACK: 1}.get(event, 2),
        closed_at=NOW if is_closed else None,
        revision=6,
    )
    assert after.is_terminal == is_closed
    assert before == round_in(phase, claims=2, policy=SECURE)


@pytest.mark.parametrize(("phase", "event"), [p for p in PRODUCT if p not in TABLE])
def test_any_other_event_is_refused_and_changes_nothing(
    phase: Phase, event: Event
) -> None:
    round_ = round_in(phase)
    with pytest.raises(RoundClosed, match=f"^round 7 is {phase} and takes no {event}$"):
        round_.after(event, now=NOW)
    assert round_ == round_in(phase)


def test_the_table_has_a_row_for_every_phase() -> None:
    assert set(rounds.TRANSITIONS) == set(Phase)
    assert {
        (phase, event): to
        for phase, row in rounds.TRANSITIONS.items()
        for event, to in row.items()
    } == TABLE
    assert {Phase.COMMITTED, Phase.ABANDONED} == rounds.TERMINAL


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_reached_and_every_open_phase_has_a_way_out(
    phase: Phase,
) -> None:
    assert phase in reachable(Phase.COLLECTING)
    if not round_in(phase).is_terminal:
        assert {Phase.COMMITTED, Phase.ABANDONED} <= reachable(phase)
    else:
        assert reachable(phase) == {phase}


def reachable(start: Phase) -> set[Phase]:
    found = {start}
    while more := {to for (of, _), to in TABLE.items() if of in found} - found:
        found |= more
    return found


def test_a_claim_names_its_owner_and_the_next_event_forgets_it() -> None:
    claimed = round_in(Phase.AGGREGATING, claims=2).after(
        Event.CLAIMED, now=NOW, owner="w"
    )
    assert (claimed.owner, claimed.claims) == ("w", 3)
    assert claimed.deadline == NOW + rounds.FOLD_LEASE
    released = claimed.after(Event.RELEASED, now=NOW, result_version=9)
    assert (released.owner, released.claims) == (None, 3)
    assert (released.result_version, released.reason) == (9, None)
    given_up = claimed.after(Event.GIVEN_UP, now=NOW, reason="not finite")
    assert (given_up.result_version, given_up.reason) == (None, "not finite")


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    ("now", "is_before"),
    [
        (OPENED, True),
        (DEADLINE - INSTANT, True),
        (DEADLINE, False),
        (DEADLINE + INSTANT, False),
    ],
)
def test_results_are_taken_while_collecting_before_the_deadline(
    phase: Phase, now: dt.datetime, *, is_before: bool
) -> None:
    expected = is_before and phase is Phase.COLLECTING
    assert round_in(phase).takes_results(now) is expected


EARLY, LATE = DEADLINE - INSTANT, DEADLINE + INSTANT


@pytest.mark.parametrize(
    ("accepted", "now", "event"),
    [
        (0, OPENED, None),
        (0, EARLY, None),
        (0, DEADLINE, Event.MINIMUM_MISSED),
        (1, DEADLINE, Event.MINIMUM_MISSED),
        (1, LATE, Event.MINIMUM_MISSED),
        (2, EARLY, None),
        (2, DEADLINE, Event.MINIMUM_MET),
        (3, EARLY, None),
        (3, DEADLINE, Event.MINIMUM_MET),
        (3, LATE, Event.MINIMUM_MET),
        (4, OPENED, Event.GOAL_REACHED),
        (4, EARLY, Event.GOAL_REACHED),
        (4, DEADLINE, Event.GOAL_REACHED),
        (4, LATE, Event.GOAL_REACHED),
        (5, OPENED, Event.GOAL_REACHED),
    ],
)
@pytest.mark.parametrize("phase", Phase)
def test_what_is_due_follows_from_results_and_time(
    phase: Phase, accepted: int, now: dt.datetime, event: Event | None
) -> None:
    round_ = round_in(phase)
    due = due_event(round_, now=now, accepted=accepted, goal=4)
    if phase is not Phase.COLLECTING:
        assert due is None
        return
    assert due is event
    if due is not None:
        assert round_.after(due, now=now).phase is not Phase.COLLECTING


@pytest.mark.parametrize(
    ("accepted", "now", "event"),
    [
        (1, DEADLINE, Event.MINIMUM_MISSED),
        (3, EARLY, None),
        (3, DEADLINE, Event.GATHERED),
        (4, OPENED, Event.GATHERED),
    ],
)
def test_under_secure_aggregation_those_who_joined_gather(
    accepted: int, now: dt.datetime, event: Event | None
) -> None:
    round_ = round_in(Phase.COLLECTING, policy=SECURE)
    assert due_event(round_, now=now, accepted=accepted, goal=4) is event


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.SHARING, Event.SHARED),
        (Phase.MASKING, Event.MASKED),
        (Phase.UNMASKING, Event.REVEALED),
    ],
)
def test_a_step_leads_on_with_the_minimum(phase: Phase, event: Event) -> None:
    round_ = round_in(phase, policy=SECURE)
    assert step_event(round_, left=2) is event
    assert step_event(round_, left=1) is Event.MINIMUM_MISSED


@pytest.mark.parametrize(
    ("chosen", "accepted", "event"),
    [
        (3, 2, None),
        (3, 3, Event.GOAL_REACHED),
        (1, 1, None),  # fewer were chosen than the minimum of 2
        (1, 2, Event.GOAL_REACHED),
        (0, 0, None),
    ],
)
def test_a_round_ends_when_all_who_were_chosen_have_come(
    chosen: int, accepted: int, event: Event | None
) -> None:
    round_ = round_in(Phase.COLLECTING)
    assert due_event(round_, now=OPENED, accepted=accepted, goal=chosen) is event


@pytest.mark.parametrize(
    ("goal", "over_select", "places"),
    [
        (1, 0.0, 1),
        (1, 0.01, 2),
        (3, 0.3, 4),
        (10, 0.0, 10),
        (10, 0.1, 11),
        (10, 0.3, 13),
        (10, 0.31, 14),
        (50, 0.14, 57),  # 50 * 0.14 is 7.000000000000001
        (100, 0.07, 107),  # and 100 * 0.07 too
        (100_000, 4.0, 500_000),
    ],
)
def test_places_are_the_goal_and_a_share_of_it(
    goal: int, over_select: float, places: int
) -> None:
    policy = dataclasses.replace(POLICY, goal=goal, over_select=over_select)
    assert policy.places == places


@given(st.integers(1, 100_000), st.integers(0, 4_0000))
def test_places_are_counted_as_on_paper(goal: int, ten_thousandths: int) -> None:
    policy = dataclasses.replace(POLICY, goal=goal, over_select=ten_thousandths / 1e4)
    more = goal * Fraction(ten_thousandths, 10_000)
    assert policy.places == goal + -(-more.numerator // more.denominator)


def test_a_new_round_ends_its_collecting_after_the_policys_time() -> None:
    new = NewRound(
        task="digits",
        kind=Kind.EVALUATE,
        number=1,
        attempt=1,
        model="tiny",
        base_version=0,
        policy=Policy(
            goal=1, minimum=1, over_select=0.0, lease_s=1.0, deadline_s=90.25
        ),
        opened_at=OPENED,
    )
    assert new.deadline == OPENED + dt.timedelta(seconds=90, milliseconds=250)
