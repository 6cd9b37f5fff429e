"""The history: one row for everything that happened. Rows are only ever added."""

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from coordinator.domain.events import MAKES_WORK, Happening, Recorded
from coordinator.domain.rounds import Round
from coordinator.store.engine import Transaction
from coordinator.store.tables import events

_WHO: Final = frozenset({"device", "assignment"})
_INSERT: Final = events.insert().inline()
_LAST: Final = sa.select(sa.func.max(events.c.id))
_NEWEST: Final = sa.select(
    sa.func.max(events.c.id),
    sa.func.max(sa.case((events.c.type.in_(sorted(MAKES_WORK)), events.c.id))),
).where(events.c.id > sa.bindparam("after"))
_AFTER: Final = (
    sa.select(events)
    .where(events.c.id > sa.bindparam("after"))
    .order_by(events.c.id)
    .limit(sa.bindparam("most"))
)


def append(
    tx: Transaction,
    happening: Happening,
    *,
    now: dt.datetime,
    task: str | None = None,
    round_id: int | None = None,
    **data: Any,  # noqa: ANN401 - any JSON
) -> None:
    """Add one event."""
    tx.connection.execute(
        _INSERT,
        {
            "at": now,
            "type": happening,
            "task": task,
            "round_id": round_id,
            "data": data,
        },
    )


def append_of(
    tx: Transaction,
    happening: Happening,
    round_: Round,
    *,
    now: dt.datetime,
    **data: Any,  # noqa: ANN401 - any JSON
) -> None:
    """Add one event of a round, without the device if nobody may learn who it is."""
    if round_.policy.chooses_in_secret:
        data = {name: value for name, value in data.items() if name not in _WHO}
    append(tx, happening, now=now, task=round_.task, round_id=round_.id, **data)


def last_id(tx: Transaction) -> int:
    """Return the id of the newest event, 0 if there is none."""
    last: int | None = tx.connection.execute(_LAST).scalar_one()
    return last or 0


def newest(tx: Transaction, event_id: int) -> tuple[int, int]:
    """Return the ids of the newest event and of the newest that may have made work.

    Only events newer than ``event_id`` count; 0 where there is none.
    """
    last, work = tx.connection.execute(_NEWEST, {"after": event_id}).one()
    return last or 0, work or 0


def after(tx: Transaction, event_id: int, *, limit: int) -> list[Recorded]:
    """Return events newer than ``event_id``, oldest first.

    NOTE: On Postgres, ids are given before the commit, so a transaction that commits
    late may show an event behind a newer one; readers here only need to be woken.
    """
    return [
        Recorded(
            id=row.id,
            at=row.at,
            happening=Happening(row.type),
            task=row.task,
            round_id=row.round_id,
            data=row.data,
        )
        for row in tx.connection.execute(_AFTER, {"after": event_id, "most": limit})
    ]
