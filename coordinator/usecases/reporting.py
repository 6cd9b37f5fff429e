"""What every report of a device is checked by, and noted as."""

import datetime as dt

from coordinator import logs
from coordinator.domain.assignments import Assignment, State
from coordinator.domain.errors import (
    AssignmentEnded,
    BetweenRounds,
    ForeignAssignment,
    RoundClosed,
    WrongKind,
)
from coordinator.domain.events import Happening
from coordinator.domain.rounds import Round
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, events, rounds
from coordinator.store.engine import Transaction


def own(
    tx: Transaction,
    device_id: str,
    assignment_id: str,
    kind: Kind | None,
    *,
    lock: bool = False,
) -> tuple[Assignment, Round]:
    """Return a device's assignment and its round.

    Args:
        tx: The transaction.
        device_id: Who reports.
        assignment_id: On what.
        kind: That the report is of; none: of any.
        lock: Whether nobody may change the round until the transaction ends.

    Raises:
        AssignmentUnknown, ForeignAssignment, WrongKind: As their names say.
    """
    assignment = assignments.get(tx, assignment_id)
    logs.note(assignment=assignment_id, round=assignment.round_id)
    if assignment.device_id != device_id:
        raise ForeignAssignment(assignment_id)
    round_ = (rounds.get if lock else rounds.peek)(tx, assignment.round_id)
    if kind is not None and round_.kind is not kind:
        raise WrongKind(assignment_id, round_.kind)
    if lock:
        # Another report may have ended it while this one waited for the round.
        assignment = assignments.get(tx, assignment_id)
    return assignment, round_


def insist_open(assignment: Assignment, round_: Round, now: dt.datetime) -> None:
    """Check that a result may come now.

    Raises:
        AssignmentEnded, LeaseLapsed, RoundClosed, BetweenRounds: As their names say.
    """
    if assignment.state is State.FAILED:
        raise AssignmentEnded(assignment.id)
    takes_results = round_.takes_results(now)
    if not takes_results and not round_.keeps_leases(now):
        raise RoundClosed(round_.id, round_.phase, "result")
    assignment.ended(State.ACCEPTED, now=now)  # raises unless the lease is live
    if not takes_results:
        raise BetweenRounds(round_.id)


def note(
    tx: Transaction,
    happening: Happening,
    round_: Round,
    assignment: Assignment,
    now: dt.datetime,
    **data: int | str,
) -> None:
    """Note what became of a device in a round."""
    events.append_of(
        tx,
        happening,
        round_,
        now=now,
        device=assignment.device_id,
        assignment=assignment.id,
        **data,
    )
