"""All that is kept of one device, in whatever table: to show it, and to erase it.

A table that refers to a device or to an assignment has its place in ``KEPT``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from coordinator.domain.assignments import Assignment, State
from coordinator.domain.rounds import TERMINAL, Phase
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments as stored_assignments
from coordinator.store.engine import Transaction
from coordinator.store.tables import (
    assignments,
    audit,
    chosen,
    devices,
    evaluations,
    events,
    nonces,
    partial_uploads,
    rounds,
    secagg_members,
    updates,
)

_WHO: Final = sa.bindparam("device_id", type_=sa.String)
#: Who takes part in rounds whose devices coins choose is nobody's business.
_IN_SECRET: Final = sa.select(rounds.c.id).where(rounds.c.sampling_rate.is_not(None))
_OWN: Final = sa.select(assignments.c.id).where(assignments.c.device_id == _WHO)
#: How the rows of a device are told in each table that has some, in the order in which
#: they are shown.
KEPT: Final[Mapping[sa.Table, sa.ColumnElement[bool]]] = {
    devices: devices.c.id == _WHO,
    nonces: nonces.c.device_id == _WHO,
    assignments: assignments.c.device_id == _WHO,
    chosen: chosen.c.device_id == _WHO,
    updates: updates.c.assignment_id.in_(_OWN),
    partial_uploads: partial_uploads.c.assignment_id.in_(_OWN),
    evaluations: evaluations.c.assignment_id.in_(_OWN),
    secagg_members: secagg_members.c.assignment_id.in_(_OWN),
    events: events.c.data["device"].as_string() == _WHO,
    audit: audit.c.subject == _WHO,
}
#: Kept of a token: what it cannot be found from, and what it is of no use to show.
_NOT_SHOWN: Final = frozenset({devices.c.token_hash})
_ACCEPTED: Final = (
    sa.select(assignments, rounds.c.phase.label("phase"), rounds.c.kind.label("kind"))
    .join(rounds, rounds.c.id == assignments.c.round_id)
    .where(assignments.c.device_id == _WHO, assignments.c.state == State.ACCEPTED)
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contributions:
    """Updates of a device that are, or may become, part of a version."""

    in_versions: int  #: of rounds that are committed
    under_way: int  #: of rounds that are being summed up


def show(
    tx: Transaction, device_id: str, *, with_secret: bool
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a device by table, each by column.

    Args:
        tx: The transaction.
        device_id: Of the device.
        with_secret: Also those of rounds whose devices are chosen in secret.
    """
    shown = {}
    for table, is_own in KEPT.items():
        query = sa.select(*(c for c in table.c if c not in _NOT_SHOWN)).where(is_own)
        if not with_secret:
            query = _without_secret(query, table)
        rows = tx.connection.execute(
            query.order_by(*table.primary_key), {"device_id": device_id}
        )
        shown[table.name] = [dict(row) for row in rows.mappings()]
    return shown


def _without_secret(
    query: sa.Select[*tuple[Any, ...]], table: sa.Table
) -> sa.Select[*tuple[Any, ...]]:
    if "round_id" in table.c and table is not events:  # those name nobody
        return query.where(table.c.round_id.not_in(_IN_SECRET))
    if "assignment_id" in table.c:
        secret = sa.select(assignments.c.id).where(
            assignments.c.round_id.in_(_IN_SECRET)
        )
        return query.where(table.c.assignment_id.not_in(secret))
    return query


def withdrawable(tx: Transaction, device_id: str) -> list[Assignment]:
    """Return assignments whose results came in and are not being summed up yet."""
    query = _ACCEPTED.where(rounds.c.phase == Phase.COLLECTING).order_by(rounds.c.id)
    return [
        stored_assignments.from_row(row)
        for row in tx.connection.execute(query, {"device_id": device_id})
    ]


def contributions(tx: Transaction, device_id: str) -> Contributions:
    """Count what of a device cannot be taken back, secret rounds left out."""
    query = _ACCEPTED.where(rounds.c.sampling_rate.is_(None))
    rows = tx.connection.execute(query, {"device_id": device_id}).all()
    return Contributions(
        in_versions=sum(
            row.phase == Phase.COMMITTED and row.kind == Kind.TRAIN for row in rows
        ),
        under_way=sum(row.phase not in TERMINAL for row in rows),
    )


def forget_result(tx: Transaction, assignment: Assignment) -> str | None:
    """Delete what came in for an assignment.

    Returns:
        The name of its update's file in the blob store, which is the caller's to
        delete after the commit; none: it sent no update.
    """
    own = {"assignment_id": assignment.id}
    query = sa.select(updates.c.blob).filter_by(**own)
    blob: str | None = tx.connection.execute(query).scalar_one_or_none()
    for table in (updates, evaluations, secagg_members):
        tx.connection.execute(table.delete().filter_by(**own))
    return blob


def forget(tx: Transaction, device_id: str) -> None:
    """Delete or blank what nothing needs of a device that is shut out.

    Its row, and the places that it held, stay under its id alone: the sums of rounds
    that have ended, and how often it took part, must not change.
    """
    who = {"device_id": device_id}
    for table in (nonces, chosen):
        tx.connection.execute(table.delete().filter_by(**who))
    tx.connection.execute(
        assignments.update()
        .filter_by(**who)
        .values(idempotency_key=assignments.c.id, failure_detail=None)
    )
    ended = sa.select(assignments.c.id).where(
        assignments.c.device_id == device_id,
        assignments.c.round_id.in_(
            sa.select(rounds.c.id).where(rounds.c.phase.in_(TERMINAL))
        ),
    )
    _blank_figures(tx, updates.c.assignment_id.in_(ended))


def forget_figures(tx: Transaction, round_id: int) -> None:
    """Blank what erased devices said of their training for a round that has ended."""
    erased = (
        sa.select(assignments.c.id)
        .join(devices, devices.c.id == assignments.c.device_id)
        .where(assignments.c.round_id == round_id, devices.c.erased_at.is_not(None))
    )
    _blank_figures(tx, updates.c.assignment_id.in_(erased))


def _blank_figures(tx: Transaction, which: sa.ColumnElement[bool]) -> None:
    tx.connection.execute(
        updates.update()
        .where(which)
        .values(examples=1, train_loss=0.0, train_accuracy=0.0)
    )
