"""Assignments, and the results that came with them."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.domain.aggregation import AcceptedUpdate
from coordinator.domain.assignments import Assignment, Counts, Participation, State
from coordinator.domain.errors import AssignmentUnknown
from coordinator.domain.evaluation import Evaluation, Sums
from coordinator.domain.rounds import Phase
from coordinator.protocol.vocabulary import FailureReason, Kind
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, assignments, evaluations, rounds, updates

# Statements of every check-in and every report are built once: building one costs more
# than executing it.
_INSERT: Final = assignments.insert()
_INSERT_UPDATE: Final = updates.insert()
_GET: Final = sa.select(assignments).where(assignments.c.id == sa.bindparam("id"))
_END: Final = (
    assignments.update()
    .where(
        assignments.c.id == sa.bindparam("which"),
        assignments.c.state == State.LEASED,
    )
    .values(
        state=sa.bindparam("state"),
        ended_at=sa.bindparam("ended_at"),
        failure=sa.bindparam("failure"),
        failure_detail=sa.bindparam("failure_detail"),
    )
)
_COUNTS: Final = (
    sa.select(
        assignments.c.state,
        sa.func.count(),
        sa.func.sum(
            sa.case((assignments.c.lease_expires_at > sa.bindparam("now"), 1), else_=0)
        ),
    )
    .where(assignments.c.round_id == sa.bindparam("round_id"))
    .group_by(assignments.c.state)
)
_ACCEPTED: Final = sa.select(sa.func.count()).where(
    assignments.c.round_id == sa.bindparam("round_id"),
    assignments.c.state == State.ACCEPTED,
)
_PARTICIPATION: Final = (
    sa.select(
        sa.func.count().label("rounds"),
        sa.func.max(rounds.c.number).label("last_round"),
    )
    .select_from(assignments.join(rounds))
    .where(
        assignments.c.device_id == sa.bindparam("device_id"),
        assignments.c.state == State.ACCEPTED,
        rounds.c.task == sa.bindparam("task"),
        rounds.c.kind == Kind.TRAIN,
        rounds.c.phase != Phase.ABANDONED,
    )
)


def insert(tx: Transaction, assignment: Assignment) -> None:
    """Lease a place."""
    tx.connection.execute(
        _INSERT,
        {
            "id": assignment.id,
            "round_id": assignment.round_id,
            "base_version": assignment.base_version,
            "device_id": assignment.device_id,
            "idempotency_key": assignment.idempotency_key,
            "leased_at": assignment.leased_at,
            "lease_expires_at": assignment.lease_expires_at,
            "state": assignment.state,
        },
    )


def end(
    tx: Transaction, assignment: Assignment, *, failure_detail: str | None = None
) -> None:
    """Write how a leased assignment ended.

    Raises:
        StaleWrite: It had ended already.
    """
    tx.change_one(
        _END,
        {
            "which": assignment.id,
            "state": assignment.state,
            "ended_at": assignment.ended_at,
            "failure": assignment.failure,
            "failure_detail": failure_detail,
        },
    )


def withdraw(tx: Transaction, assignment: Assignment) -> None:
    """Write that an accepted result counts no more.

    Raises:
        StaleWrite: None is accepted any more.
    """
    tx.change_one(
        assignments.update()
        .where(assignments.c.id == assignment.id, assignments.c.state == State.ACCEPTED)
        .values(state=assignment.state, ended_at=assignment.ended_at)
    )


def get(tx: Transaction, assignment_id: str) -> Assignment:
    """Return an assignment.

    Raises:
        AssignmentUnknown: There is none.
    """
    row = tx.connection.execute(_GET, {"id": assignment_id}).one_or_none()
    if row is None:
        raise AssignmentUnknown(assignment_id)
    return from_row(row)


def expired(tx: Transaction, now: dt.datetime) -> list[Assignment]:
    """Return leased assignments whose lease has run out."""
    query = sa.select(assignments).where(
        assignments.c.state == State.LEASED, assignments.c.lease_expires_at <= now
    )
    return [from_row(row) for row in tx.connection.execute(query)]


def leased_in(tx: Transaction, round_id: int) -> list[Assignment]:
    """Return the leased assignments of a round."""
    query = sa.select(assignments).where(
        assignments.c.round_id == round_id, assignments.c.state == State.LEASED
    )
    return [from_row(row) for row in tx.connection.execute(query)]


def leased_by(tx: Transaction, device_id: str) -> Assignment | None:
    """Return the leased assignment of a device, or none."""
    query = sa.select(assignments).where(
        assignments.c.device_id == device_id, assignments.c.state == State.LEASED
    )
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else from_row(row)


def participation(tx: Transaction, device_id: str, task: str) -> Participation:
    """Return in which training rounds of a task a device took part.

    Updates of abandoned rounds went into no version, so they do not count.
    """
    row = tx.connection.execute(
        _PARTICIPATION, {"device_id": device_id, "task": task}
    ).one()
    return Participation(rounds=row.rounds, last_round=row.last_round)


def move_leases(tx: Transaction, from_round: int, to_round: int) -> None:
    """Let the leased assignments of a round hold places of another."""
    tx.connection.execute(
        assignments.update()
        .where(
            assignments.c.round_id == from_round, assignments.c.state == State.LEASED
        )
        .values(round_id=to_round)
    )


def counts(tx: Transaction, round_id: int, now: dt.datetime) -> Counts:
    """Return how many assignments of a round are where."""
    rows = tx.connection.execute(_COUNTS, {"round_id": round_id, "now": now})
    by_state = {row[0]: (row[1], row[2]) for row in rows}
    leased, unexpired = by_state.get(State.LEASED, (0, 0))
    return Counts(
        live=unexpired,
        accepted=by_state.get(State.ACCEPTED, (0, 0))[0],
        failed=by_state.get(State.FAILED, (0, 0))[0],
        lapsed=by_state.get(State.LAPSED, (0, 0))[0]
        + by_state.get(State.WITHDRAWN, (0, 0))[0]
        + leased
        - unexpired,
    )


def count_leased(tx: Transaction) -> int:
    """Return how many devices hold a place in any round."""
    query = sa.select(sa.func.count()).where(assignments.c.state == State.LEASED)
    count: int = tx.connection.execute(query).scalar_one()
    return count


def count_accepted(tx: Transaction, round_id: int) -> int:
    """Return how many results of a round were accepted."""
    count: int = tx.connection.execute(_ACCEPTED, {"round_id": round_id}).scalar_one()
    return count


def insert_update(
    tx: Transaction, update: AcceptedUpdate, *, round_id: int, now: dt.datetime
) -> None:
    """Accept an update."""
    tx.connection.execute(
        _INSERT_UPDATE,
        {
            "assignment_id": update.assignment_id,
            "round_id": round_id,
            "blob": update.blob,
            "sha256": update.sha256,
            "size_bytes": update.size_bytes,
            "examples": update.examples,
            "train_loss": update.train_loss,
            "train_accuracy": update.train_accuracy,
            "staleness": update.staleness,
            "accepted_at": now,
        },
    )


def update_of(
    tx: Transaction, assignment_id: str
) -> tuple[AcceptedUpdate, dt.datetime] | None:
    """Return the update that was accepted for an assignment, and when, or none."""
    query = sa.select(updates).where(updates.c.assignment_id == assignment_id)
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else (_update(row), row.accepted_at)


def updates_of_round(tx: Transaction, round_id: int) -> list[AcceptedUpdate]:
    """Return the accepted updates of a round, in no order."""
    query = sa.select(updates).where(updates.c.round_id == round_id)
    return [_update(row) for row in tx.connection.execute(query)]


def insert_evaluation(
    tx: Transaction, assignment: Assignment, evaluation: Evaluation, *, now: dt.datetime
) -> None:
    """Accept an evaluation."""
    personalized = evaluation.personalized
    tx.connection.execute(
        evaluations.insert().values(
            assignment_id=assignment.id,
            round_id=assignment.round_id,
            examples=evaluation.examples,
            loss_sum=evaluation.sums.loss_sum,
            correct=evaluation.sums.correct,
            personalized_loss_sum=(
                None if personalized is None else personalized.loss_sum
            ),
            personalized_correct=None if personalized is None else personalized.correct,
            accepted_at=now,
        )
    )


def evaluation_of(tx: Transaction, assignment_id: str) -> Evaluation | None:
    """Return the evaluation that was accepted for an assignment, or none."""
    query = sa.select(evaluations).where(evaluations.c.assignment_id == assignment_id)
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _evaluation(row)


def evaluations_of_round(tx: Transaction, round_id: int) -> list[Evaluation]:
    """Return the accepted evaluations of a round, in no order."""
    query = sa.select(evaluations).where(evaluations.c.round_id == round_id)
    return [_evaluation(row) for row in tx.connection.execute(query)]


def delete_evaluations(tx: Transaction, round_id: int) -> None:
    """Delete the evaluations of a round."""
    tx.connection.execute(evaluations.delete().filter_by(round_id=round_id))


def from_row(row: Row) -> Assignment:
    """Return the assignment in a row of the table."""
    return Assignment(
        id=row.id,
        round_id=row.round_id,
        base_version=row.base_version,
        device_id=row.device_id,
        idempotency_key=row.idempotency_key,
        state=State(row.state),
        leased_at=row.leased_at,
        lease_expires_at=row.lease_expires_at,
        ended_at=row.ended_at,
        failure=None if row.failure is None else FailureReason(row.failure),
    )


def _update(row: Row) -> AcceptedUpdate:
    return AcceptedUpdate(
        assignment_id=row.assignment_id,
        blob=row.blob,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        examples=row.examples,
        train_loss=row.train_loss,
        train_accuracy=row.train_accuracy,
        staleness=row.staleness or 0,
    )


def _evaluation(row: Row) -> Evaluation:
    personalized = None
    if row.personalized_correct is not None:
        personalized = Sums(
            loss_sum=row.personalized_loss_sum, correct=row.personalized_correct
        )
    return Evaluation(
        examples=row.examples,
        sums=Sums(loss_sum=row.loss_sum, correct=row.correct),
        personalized=personalized,
    )
