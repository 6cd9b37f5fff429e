"""Workers say that they live, and others look."""

import datetime as dt
from typing import Final

from coordinator.store import workers
from coordinator.store.engine import Store, Transaction

BEAT_EVERY: Final = dt.timedelta(seconds=5)
SILENT_AFTER: Final = dt.timedelta(seconds=30)
_FORGET_AFTER: Final = dt.timedelta(days=1)


def beat(store: Store, *, worker: str, now: dt.datetime, starts: bool = False) -> None:
    """Note that a worker lives."""

    def body(tx: Transaction) -> None:
        workers.put(tx, worker, now=now, starts=starts)
        if starts:
            workers.remove_silent(tx, now - _FORGET_AFTER)

    store.run("beat", body)


def leave(store: Store, *, worker: str) -> None:
    """Note that a worker has ended."""
    store.run("leave", lambda tx: workers.remove(tx, worker))


def last_seen(store: Store) -> dt.datetime | None:
    """Return when any worker was last seen, or none, if the database can be written."""

    def body(tx: Transaction) -> dt.datetime | None:
        workers.insist_writable(tx)
        return workers.last_seen(tx)

    return store.run("probe", body)
