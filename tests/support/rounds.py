"""Rounds and assignments with all fields filled in."""

import dataclasses
import datetime as dt

from coordinator.domain.assignments import Assignment, State
from coordinator.domain.rounds import Phase, Policy, Round
from coordinator.protocol.vocabulary import FailureReason, Kind

OPENED = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
DEADLINE = OPENED + dt.timedelta(seconds=120)
LEASE_END = OPENED + dt.timedelta(seconds=60)
INSTANT = dt.timedelta(microseconds=1)  # the least by which two moments differ
POLICY = Policy(goal=4, minimum=2, over_select=0.5, lease_s=60.0, deadline_s=120.0)


def round_in(phase: Phase, **changes: object) -> Round:
    """A round of six places, as it opened but for its phase."""
    round_ = Round(
        id=7,
        task="digits",
        kind=Kind.TRAIN,
        number=3,
        attempt=1,
        model="tiny",
        base_version=2,
        policy=POLICY,
        phase=phase,
        deadline=DEADLINE,
        opened_at=OPENED,
        claims=0,
        owner=None,
        result_version=None,
        closed_at=None,
        reason=None,
        revision=5,
    )
    return dataclasses.replace(round_, **changes)  # type: ignore[arg-type]


def assignment_in(state: State, failure: FailureReason | None = None) -> Assignment:
    """An assignment whose lease began when the round opened."""
    return Assignment(
        id="a" * 32,
        round_id=7,
        base_version=2,
        device_id="d" * 32,
        idempotency_key="key",
        state=state,
        leased_at=OPENED,
        lease_expires_at=LEASE_END,
        ended_at=None if state is State.LEASED else OPENED,
        failure=failure,
    )
