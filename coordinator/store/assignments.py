"""Assignments, and the results that came with them."""

import datetime as dt
import math

import sqlalchemy as sa

from coordinator.domain.aggregation import AcceptedUpdate, Score
from coordinator.domain.assignments import Assignment, Counts, State
from coordinator.domain.errors import AssignmentUnknown
from coordinator.protocol.vocabulary import FailureReason
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, assignments, evaluations, updates


def insert(tx: Transaction, assignment: Assignment) -> None:
    """Lease a place."""
    tx.connection.execute(
        assignments.insert().values(
            id=assignment.id,
            round_id=assignment.round_id,
            device_id=assignment.device_id,
            idempotency_key=assignment.idempotency_key,
            leased_at=assignment.leased_at,
            lease_expires_at=assignment.lease_expires_at,
            state=assignment.state,
        )
    )


def end(
    tx: Transaction, assignment: Assignment, *, failure_detail: str | None = None
) -> None:
    """Write how a leased assignment ended.

    Raises:
        StaleWrite: It had ended already.
    """
    tx.change_one(
        assignments.update()
        .where(assignments.c.id == assignment.id, assignments.c.state == State.LEASED)
        .values(
            state=assignment.state,
            ended_at=assignment.ended_at,
            failure=assignment.failure,
            failure_detail=failure_detail,
        )
    )


def get(tx: Transaction, assignment_id: str) -> Assignment:
    """Return an assignment.

    Raises:
        AssignmentUnknown: There is none.
    """
    query = sa.select(assignments).where(assignments.c.id == assignment_id)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        raise AssignmentUnknown(assignment_id)
    return _assignment(row)


def with_key(tx: Transaction, device_id: str, key: str) -> Assignment | None:
    """Return the assignment that a device got with an idempotency key, or none."""
    query = sa.select(assignments).where(
        assignments.c.device_id == device_id, assignments.c.idempotency_key == key
    )
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _assignment(row)


def leased_to(tx: Transaction, device_id: str) -> Assignment | None:
    """Return the assignment that a device holds, lapsed or not, or none."""
    query = sa.select(assignments).where(
        assignments.c.device_id == device_id, assignments.c.state == State.LEASED
    )
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _assignment(row)


def of_device(tx: Transaction, device_id: str, round_id: int) -> list[Assignment]:
    """Return a device's assignments in a round."""
    query = sa.select(assignments).where(
        assignments.c.device_id == device_id, assignments.c.round_id == round_id
    )
    return [_assignment(row) for row in tx.connection.execute(query)]


def expired(tx: Transaction, now: dt.datetime) -> list[Assignment]:
    """Return leased assignments whose lease has run out."""
    query = sa.select(assignments).where(
        assignments.c.state == State.LEASED, assignments.c.lease_expires_at <= now
    )
    return [_assignment(row) for row in tx.connection.execute(query)]


def leased_in(tx: Transaction, round_id: int) -> list[Assignment]:
    """Return the leased assignments of a round."""
    query = sa.select(assignments).where(
        assignments.c.round_id == round_id, assignments.c.state == State.LEASED
    )
    return [_assignment(row) for row in tx.connection.execute(query)]


def counts(tx: Transaction, round_id: int, now: dt.datetime) -> Counts:
    """Return how many assignments of a round are where."""
    live = assignments.c.lease_expires_at > now
    query = (
        sa.select(
            assignments.c.state,
            sa.func.count(),
            sa.func.sum(sa.case((live, 1), else_=0)),
        )
        .where(assignments.c.round_id == round_id)
        .group_by(assignments.c.state)
    )
    by_state = {row[0]: (row[1], row[2]) for row in tx.connection.execute(query)}
    leased, unexpired = by_state.get(State.LEASED, (0, 0))
    return Counts(
        live=unexpired,
        accepted=by_state.get(State.ACCEPTED, (0, 0))[0],
        failed=by_state.get(State.FAILED, (0, 0))[0],
        lapsed=by_state.get(State.LAPSED, (0, 0))[0] + leased - unexpired,
    )


def insert_update(
    tx: Transaction, update: AcceptedUpdate, *, round_id: int, now: dt.datetime
) -> None:
    """Accept an update."""
    tx.connection.execute(
        updates.insert().values(
            assignment_id=update.assignment_id,
            round_id=round_id,
            blob=update.blob,
            sha256=update.sha256,
            size_bytes=update.size_bytes,
            examples=update.examples,
            train_loss=update.train_loss,
            train_accuracy=update.train_accuracy,
            accepted_at=now,
        )
    )


def update_of(tx: Transaction, assignment_id: str) -> AcceptedUpdate | None:
    """Return the update that was accepted for an assignment, or none."""
    query = sa.select(updates).where(updates.c.assignment_id == assignment_id)
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _update(row)


def updates_of_round(tx: Transaction, round_id: int) -> list[AcceptedUpdate]:
    """Return the accepted updates of a round, in no order."""
    query = sa.select(updates).where(updates.c.round_id == round_id)
    return [_update(row) for row in tx.connection.execute(query)]


def insert_evaluation(
    tx: Transaction,
    assignment: Assignment,
    *,
    examples: int,
    loss_sum: float,
    correct: int,
    now: dt.datetime,
) -> None:
    """Accept an evaluation."""
    tx.connection.execute(
        evaluations.insert().values(
            assignment_id=assignment.id,
            round_id=assignment.round_id,
            examples=examples,
            loss_sum=loss_sum,
            correct=correct,
            accepted_at=now,
        )
    )


def evaluation_of(tx: Transaction, assignment_id: str) -> tuple[int, float, int] | None:
    """Return examples, loss sum and right answers of an assignment, or none."""
    query = sa.select(
        evaluations.c.examples, evaluations.c.loss_sum, evaluations.c.correct
    ).where(evaluations.c.assignment_id == assignment_id)
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else (row.examples, row.loss_sum, row.correct)


def evaluation_score(tx: Transaction, round_id: int) -> Score | None:
    """Return the score over all evaluations of a round; none if there are none."""
    query = sa.select(
        evaluations.c.examples, evaluations.c.loss_sum, evaluations.c.correct
    ).where(evaluations.c.round_id == round_id)
    rows = tx.connection.execute(query).all()
    examples = sum(row.examples for row in rows)
    if examples == 0:
        return None
    return Score(
        examples=examples,
        # fsum: exactly rounded, so the order of arrival does not show.
        loss=math.fsum(row.loss_sum for row in rows) / examples,
        accuracy=sum(row.correct for row in rows) / examples,
    )


def _assignment(row: Row) -> Assignment:
    return Assignment(
        id=row.id,
        round_id=row.round_id,
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
    )
