"""The audit log: rows are added, and the count of a refusal grows; nothing else."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.domain.audit import (
    MOST_SUBJECTS_A_MINUTE,
    Decision,
    Entry,
    Refusals,
)
from coordinator.store.engine import Transaction
from coordinator.store.tables import audit

_GROW: Final = (
    audit.update()
    .where(
        audit.c.minute == sa.bindparam("of_minute"),
        audit.c.reason == sa.bindparam("of_reason"),
        audit.c.subject == sa.bindparam("of_subject"),
    )
    .values(times=audit.c.times + sa.bindparam("more"), last_at=sa.bindparam("now"))
)


def append(
    tx: Transaction,
    decision: Decision,
    *,
    now: dt.datetime,
    subject: str,
    by: str | None = None,
    reason: str | None = None,
) -> None:
    """Add one decision."""
    tx.connection.execute(
        audit.insert().values(
            at=now,
            decision=decision,
            subject=subject,
            by=by,
            reason=reason,
            times=1,
            last_at=now,
        )
    )


def refuse(tx: Transaction, refusals: Refusals) -> None:
    """Add refusals, or count them with those alike of the same minute."""
    if _grow(tx, refusals):
        return
    query = sa.select(sa.func.count()).where(
        audit.c.minute == refusals.minute, audit.c.reason == refusals.reason
    )
    if tx.connection.execute(query).scalar_one() >= MOST_SUBJECTS_A_MINUTE:
        refusals = refusals.of_nobody()
        if _grow(tx, refusals):
            return
    tx.connection.execute(
        audit.insert().values(
            at=refusals.first_at,
            decision=Decision.REFUSED,
            subject=refusals.subject,
            reason=refusals.reason,
            minute=refusals.minute,
            times=refusals.times,
            last_at=refusals.last_at,
        )
    )


def after(tx: Transaction, entry_id: int, *, limit: int) -> list[Entry]:
    """Return entries newer than ``entry_id``, oldest first."""
    query = (
        sa.select(audit).where(audit.c.id > entry_id).order_by(audit.c.id).limit(limit)
    )
    return [
        Entry(
            id=row.id,
            at=row.at,
            decision=Decision(row.decision),
            subject=row.subject,
            by=row.by,
            reason=row.reason,
            times=row.times,
            last_at=row.last_at,
        )
        for row in tx.connection.execute(query)
    ]


def _grow(tx: Transaction, refusals: Refusals) -> bool:
    changed = tx.connection.execute(
        _GROW,
        {
            "of_minute": refusals.minute,
            "of_reason": refusals.reason,
            "of_subject": refusals.subject,
            "more": refusals.times,
            "now": refusals.last_at,
        },
    )
    return changed.rowcount == 1
