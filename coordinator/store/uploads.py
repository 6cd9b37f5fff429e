"""Rows of partial uploads. Every write compares the revision that was read."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.domain.assignments import State
from coordinator.domain.rounds import TERMINAL, Phase
from coordinator.domain.uploads import Part, PartialUpload, Whole
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, assignments, partial_uploads, rounds

#: Its lease is over, or it landed in a round that is. A masked vector is sent when the
#: lease is over, and while its round waits for it.
_ENDED: Final = (
    sa.select(partial_uploads)
    .join(assignments, assignments.c.id == partial_uploads.c.assignment_id)
    .join(rounds, rounds.c.id == assignments.c.round_id)
    .where(
        sa.or_(
            rounds.c.phase.in_(TERMINAL),
            sa.and_(
                partial_uploads.c.is_complete.is_(False),
                rounds.c.phase != Phase.MASKING,
                sa.or_(
                    assignments.c.state != State.LEASED,
                    assignments.c.lease_expires_at <= sa.bindparam("now"),
                ),
            ),
        )
    )
)


def get(tx: Transaction, assignment_id: str) -> PartialUpload | None:
    """Return what has come in for an assignment, or none."""
    query = sa.select(partial_uploads).filter_by(assignment_id=assignment_id)
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _from_row(row)


def insert(tx: Transaction, upload: PartialUpload, *, reserved_bytes: int) -> None:
    """Begin a partial upload."""
    tx.connection.execute(
        partial_uploads.insert().values(
            assignment_id=upload.whole.assignment_id,
            sha256=upload.whole.sha256,
            coding=upload.whole.coding,
            length=upload.whole.length,
            reserved_bytes=reserved_bytes,
            parts=_parts(upload),
            is_complete=upload.is_complete,
            revision=upload.revision,
        )
    )


def replace(
    tx: Transaction,
    upload: PartialUpload,
    *,
    seen: PartialUpload,
    reserved_bytes: int | None = None,
) -> None:
    """Write what an upload has come to; ``reserved_bytes`` where that changes.

    Raises:
        StaleWrite: It is not any more what was ``seen``.
    """
    reserved = {} if reserved_bytes is None else {"reserved_bytes": reserved_bytes}
    tx.change_one(
        partial_uploads.update()
        .where(
            partial_uploads.c.assignment_id == upload.whole.assignment_id,
            partial_uploads.c.sha256 == seen.whole.sha256,
            partial_uploads.c.revision == seen.revision,
        )
        .values(
            length=upload.whole.length,
            parts=_parts(upload),
            is_complete=upload.is_complete,
            revision=upload.revision,
            **reserved,
        )
    )


def delete(tx: Transaction, upload: PartialUpload) -> None:
    """Delete a partial upload.

    Raises:
        StaleWrite: It is not any more what it was.
    """
    tx.change_one(
        partial_uploads.delete().filter_by(
            assignment_id=upload.whole.assignment_id,
            sha256=upload.whole.sha256,
            revision=upload.revision,
        )
    )


def forget_of(tx: Transaction, device_id: str) -> list[PartialUpload]:
    """Delete all partial uploads of a device, and return what they were."""
    own = sa.select(assignments.c.id).where(assignments.c.device_id == device_id)
    statement = (
        partial_uploads.delete()
        .where(partial_uploads.c.assignment_id.in_(own))
        .returning(partial_uploads)
    )
    return [_from_row(row) for row in tx.connection.execute(statement)]


def reserved_bytes(tx: Transaction) -> int:
    """Return how many bytes all partial uploads together may come to."""
    query = sa.select(
        sa.func.coalesce(sa.func.sum(partial_uploads.c.reserved_bytes), 0)
    )
    return int(tx.connection.execute(query).scalar_one())


def ended(tx: Transaction, now: dt.datetime) -> list[PartialUpload]:
    """Return uploads whose lease is over, or that landed in a round that is."""
    return [_from_row(row) for row in tx.connection.execute(_ENDED, {"now": now})]


def files(tx: Transaction) -> frozenset[str]:
    """Return the names of the files that hold parts."""
    found = tx.connection.execute(sa.select(partial_uploads.c.parts)).scalars()
    return frozenset(name for parts in found for name, _ in parts)


def _parts(upload: PartialUpload) -> list[tuple[str, int]]:
    return [(part.name, part.size_bytes) for part in upload.parts]


def _from_row(row: Row) -> PartialUpload:
    return PartialUpload(
        whole=Whole(
            assignment_id=row.assignment_id,
            sha256=row.sha256,
            coding=row.coding,
            length=row.length,
        ),
        parts=tuple(Part(name=name, size_bytes=size) for name, size in row.parts),
        revision=row.revision,
        is_complete=row.is_complete,
    )
