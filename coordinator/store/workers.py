"""Workers, and when each was last seen."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.store.engine import Transaction
from coordinator.store.tables import workers

_LAST: Final = sa.select(sa.func.max(workers.c.seen_at))


def put(tx: Transaction, name: str, *, now: dt.datetime, starts: bool) -> None:
    """Note that a worker lives; ``starts`` is whether it has just begun to."""
    values = {"seen_at": now} | ({"started_at": now} if starts else {})
    seen = tx.connection.execute(
        workers.update().where(workers.c.name == name).values(values)
    )
    if not seen.rowcount:
        tx.connection.execute(
            workers.insert().values(name=name, started_at=now, seen_at=now)
        )


def remove(tx: Transaction, name: str) -> None:
    """Forget a worker that has ended."""
    tx.connection.execute(workers.delete().where(workers.c.name == name))


def remove_silent(tx: Transaction, since: dt.datetime) -> None:
    """Forget workers that were last seen before ``since``."""
    tx.connection.execute(workers.delete().where(workers.c.seen_at < since))


def last_seen(tx: Transaction) -> dt.datetime | None:
    """Return when any worker was last seen, or none."""
    seen: dt.datetime | None = tx.connection.execute(_LAST).scalar_one()
    return seen


def count_seen(tx: Transaction, since: dt.datetime) -> int:
    """Return how many workers were seen at ``since`` or later."""
    query = sa.select(sa.func.count()).where(workers.c.seen_at >= since)
    count: int = tx.connection.execute(query).scalar_one()
    return count


def insist_writable(tx: Transaction) -> None:
    """Write nothing, which a database that cannot be written refuses."""
    tx.connection.execute(
        workers.update().where(sa.false()).values(seen_at=workers.c.started_at)
    )
