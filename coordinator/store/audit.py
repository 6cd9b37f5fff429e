"""The audit log: rows are added, and the count of a refusal grows; nothing else."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.domain.audit import Decision, Entry
from coordinator.store.engine import Transaction
from coordinator.store.tables import audit

#: Rows of a reason a minute; beyond them subjects are not told apart any more, so that
#: nobody who only asks can fill the disk. Each reason has its own: results that come
#: late, as they do when a round ends, do not hide who tries keys.
MOST_ROWS_A_MINUTE: Final = 50
_GROW: Final = (
    audit.update()
    .where(
        audit.c.minute == sa.bindparam("of_minute"),
        audit.c.reason == sa.bindparam("of_reason"),
        audit.c.subject == sa.bindparam("of_subject"),
    )
    .values(times=audit.c.times + 1, last_at=sa.bindparam("now"))
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


def refuse(tx: Transaction, reason: str, *, subject: str, now: dt.datetime) -> None:
    """Add a refusal, or count it with those alike of the same minute."""
    minute = int(now.timestamp()) // 60
    if _grow(tx, minute, reason, subject, now):
        return
    query = sa.select(sa.func.count()).where(
        audit.c.minute == minute, audit.c.reason == reason
    )
    full = tx.connection.execute(query).scalar_one() >= MOST_ROWS_A_MINUTE
    if full and _grow(tx, minute, reason, "", now):
        return
    tx.connection.execute(
        audit.insert().values(
            at=now,
            decision=Decision.REFUSED,
            subject="" if full else subject,
            reason=reason,
            minute=minute,
            times=1,
            last_at=now,
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


def _grow(
    tx: Transaction, minute: int, reason: str, subject: str, now: dt.datetime
) -> bool:
    changed = tx.connection.execute(
        _GROW,
        {
            "of_minute": minute,
            "of_reason": reason,
            "of_subject": subject,
            "now": now,
        },
    )
    return changed.rowcount == 1
