"""Rounds. Every write compares the revision that was read."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from coordinator.domain.assignments import State
from coordinator.domain.rounds import TERMINAL, NewRound, Phase, Policy, Round
from coordinator.protocol.vocabulary import Kind
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, assignments, he_keys, rounds

_PEEK: Final = sa.select(rounds).where(rounds.c.id == sa.bindparam("id"))
_LOCK: Final = _PEEK.with_for_update()
_COLLECTING: Final = (
    sa.select(rounds)
    .where(rounds.c.phase == Phase.COLLECTING)
    .order_by(rounds.c.kind == Kind.EVALUATE, rounds.c.id)
    .with_for_update()
)
_UNFINISHED: Final = (
    sa.select(rounds).where(rounds.c.phase.not_in(TERMINAL)).order_by(rounds.c.id)
)
_UNDELETED: Final = sa.and_(
    rounds.c.phase.in_(TERMINAL), rounds.c.blobs_deleted.is_(False)
)
#: Devices of these encrypt, and have no key yet.
_KEYLESS: Final = sa.and_(
    rounds.c.phase == Phase.COLLECTING,
    rounds.c.session.is_not(None),
    rounds.c.step_s.is_(None),
    rounds.c.id.not_in(sa.select(he_keys.c.round_id)),
)
#: A phase ends at its deadline, and reaching the goal moves that to the moment.
_OUTLOOK: Final = sa.select(
    sa.or_(
        sa.exists().where(
            rounds.c.phase.not_in(TERMINAL), rounds.c.deadline <= sa.bindparam("now")
        ),
        sa.exists().where(
            assignments.c.state == State.LEASED,
            assignments.c.lease_expires_at <= sa.bindparam("now"),
        ),
        sa.exists().where(_UNDELETED),
        sa.exists().where(_KEYLESS),
    ).label("is_due"),
    sa.exists().where(rounds.c.phase.not_in(TERMINAL)).label("is_open"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a worker finds when it looks."""

    is_due: bool  #: a lease or a phase has run out, or there is something to delete
    is_open: bool  #: a round is open, so that soon something may be due


def insert(tx: Transaction, new: NewRound, *, session: str | None = None) -> Round:
    """Open a round; ``session`` is what its devices join."""
    statement = (
        rounds.insert()
        .values(
            task=new.task,
            kind=new.kind,
            number=new.number,
            attempt=new.attempt,
            model=new.model,
            base_version=new.base_version,
            goal=new.policy.goal,
            minimum=new.policy.minimum,
            over_select=new.policy.over_select,
            lease_s=new.policy.lease_s,
            deadline_s=new.policy.deadline_s,
            concurrency=new.policy.concurrency,
            max_rounds=new.policy.max_rounds,
            min_separation=new.policy.min_separation,
            sampling_rate=new.policy.sampling_rate,
            step_s=new.policy.step_s,
            session=session,
            opened_at=new.opened_at,
            phase=Phase.COLLECTING,
            deadline=new.deadline,
            claims=0,
            blobs_deleted=False,
            revision=0,
            updated_by=tx.name,
        )
        .returning(rounds)
    )
    return from_row(tx.connection.execute(statement).one())


def replace(tx: Transaction, round_: Round) -> None:
    """Write a round that was read at the revision before.

    Raises:
        StaleWrite: It has changed since.
    """
    tx.change_one(
        rounds.update()
        .where(rounds.c.id == round_.id, rounds.c.revision == round_.revision - 1)
        .values(
            phase=round_.phase,
            deadline=round_.deadline,
            claims=round_.claims,
            owner=round_.owner,
            result_version=round_.result_version,
            closed_at=round_.closed_at,
            reason=round_.reason,
            revision=round_.revision,
            updated_by=tx.name,
        )
    )


def get(tx: Transaction, round_id: int) -> Round:
    """Return a round and keep others from changing it until the transaction ends.

    Raises:
        KeyError: There is none; ids come from our own rows.
    """
    row = tx.connection.execute(_LOCK, {"id": round_id}).one_or_none()
    if row is None:
        raise KeyError(round_id)
    return from_row(row)


def peek(tx: Transaction, round_id: int) -> Round:
    """Return a round, to look at only.

    Raises:
        KeyError: There is none; ids come from our own rows.
    """
    row = tx.connection.execute(_PEEK, {"id": round_id}).one_or_none()
    if row is None:
        raise KeyError(round_id)
    return from_row(row)


def unfinished(tx: Transaction, task: str | None = None) -> list[Round]:
    """Return rounds that are not terminal, oldest first; of one task or of all."""
    rows = tx.connection.execute(_UNFINISHED)
    return [from_row(row) for row in rows if task is None or row.task == task]


def collecting(tx: Transaction) -> list[Round]:
    """Return rounds that take results, training first, and keep others from them."""
    return [from_row(row) for row in tx.connection.execute(_COLLECTING)]


def of_task(tx: Transaction, task: str) -> list[Round]:
    """Return every attempt at every round of a task, oldest first."""
    query = sa.select(rounds).where(rounds.c.task == task).order_by(rounds.c.id)
    return [from_row(row) for row in tx.connection.execute(query)]


def outlook(tx: Transaction, now: dt.datetime) -> Outlook:
    """Say whether there is anything for a worker to do."""
    row = tx.connection.execute(_OUTLOOK, {"now": now}).one()
    return Outlook(is_due=bool(row.is_due), is_open=bool(row.is_open))


def keyless(tx: Transaction) -> list[Round]:
    """Return the rounds whose devices encrypt, and that have no key yet."""
    rows = tx.connection.execute(sa.select(rounds).where(_KEYLESS))
    return [from_row(row) for row in rows]


def claimable(tx: Transaction, now: dt.datetime) -> int | None:
    """Return the id of a round to fold that no worker holds, or none.

    On Postgres, rounds that another worker is claiming right now are passed over.
    """
    query = (
        sa.select(rounds.c.id)
        .where(rounds.c.phase == Phase.AGGREGATING, rounds.c.deadline <= now)
        .order_by(rounds.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    round_id: int | None = tx.connection.execute(query).scalar_one_or_none()
    return round_id


def renew(tx: Transaction, round_id: int, owner: str, until: dt.datetime) -> None:
    """Extend a worker's hold on a round.

    Raises:
        StaleWrite: The worker no longer holds it.
    """
    tx.change_one(
        rounds.update()
        .where(
            rounds.c.id == round_id,
            rounds.c.owner == owner,
            rounds.c.phase == Phase.AGGREGATING,
        )
        .values(deadline=until)
    )


def with_undeleted_blobs(
    tx: Transaction, closed_before: dt.datetime | None = None
) -> Sequence[int]:
    """Return ids of terminal rounds whose updates still lie in the blob store."""
    query = sa.select(rounds.c.id).where(_UNDELETED)
    if closed_before is not None:
        query = query.where(rounds.c.closed_at < closed_before)
    return tx.connection.execute(query).scalars().all()


def mark_blobs_deleted(tx: Transaction, round_id: int) -> None:
    """Note that a terminal round's updates are gone."""
    tx.change_one(
        rounds.update().where(rounds.c.id == round_id).values(blobs_deleted=True)
    )


def from_row(row: Row) -> Round:
    """Return the round in a row of the table."""
    return Round(
        id=row.id,
        task=row.task,
        kind=Kind(row.kind),
        number=row.number,
        attempt=row.attempt,
        model=row.model,
        base_version=row.base_version,
        policy=Policy(
            goal=row.goal,
            minimum=row.minimum,
            over_select=row.over_select,
            lease_s=row.lease_s,
            deadline_s=row.deadline_s,
            concurrency=row.concurrency,
            max_rounds=row.max_rounds,
            min_separation=row.min_separation,
            sampling_rate=row.sampling_rate,
            step_s=row.step_s,
            is_encrypted=row.session is not None and row.step_s is None,
        ),
        phase=Phase(row.phase),
        deadline=row.deadline,
        opened_at=row.opened_at,
        claims=row.claims,
        owner=row.owner,
        result_version=row.result_version,
        closed_at=row.closed_at,
        reason=row.reason,
        revision=row.revision,
        session=row.session,
    )
