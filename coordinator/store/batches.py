"""Writers that come at a time share one transaction, and one wait for the disk.

SQLite has one writer, and each commit of a durable database waits for the disk. So who
gets the lock runs what everybody behind it wants as well, each between savepoints of
its own, and commits once. Nobody is told of a result before that commit.
"""

import collections
import contextlib
import contextvars
import dataclasses
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

T = TypeVar("T")
#: In one commit; whoever is refused or has lost a race is rolled back alone.
_MOST: Final = 64


class Busy(Exception):
    """Another writer of this process does not let go of the database."""


@dataclasses.dataclass(slots=True, eq=False)
class _Job:
    body: Callable[[sa.Connection], Any]
    #: Of the caller: what the body notes for the log is the caller's.
    context: contextvars.Context
    #: Held until its thread is to go on: the job is done, or the thread is to write.
    turn: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    is_done: bool = False
    result: Any = None
    error: BaseException | None = None

    def run(self, connection: sa.Connection) -> None:
        self.result = self.context.run(self.body, connection)

    def run_between_savepoints(self, connection: sa.Connection) -> None:
        execute_plainly(connection, "SAVEPOINT job")
        try:
            self.run(connection)
        except Exception as error:  # noqa: BLE001 - raised by the caller
            self.error = error
            execute_plainly(connection, "ROLLBACK TO job")
        execute_plainly(connection, "RELEASE job")


class Batches:
    """Runs transactions of many threads one after the other, several a commit."""

    def __init__(self, engine: sa.Engine, *, timeout_s: float) -> None:
        """Write to ``engine``; wait for other writers up to ``timeout_s`` seconds."""
        self._engine = engine
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # held for moments, guards what follows
        self._is_writing = False
        self._waiting: collections.deque[_Job] = collections.deque()

    def run(self, name: str, body: Callable[[sa.Connection], T]) -> T:
        """Run ``body`` and return what it returned, once that is committed.

        Whatever ``body`` raises is raised, and what it did is rolled back. It may be
        run by another thread that writes just now.

        Raises:
            Busy: A writer hangs. What ``name`` wants may still happen if that one had
                taken it on.
        """
        job = _Job(body, contextvars.copy_context())
        job.turn.acquire()
        with self._lock:
            self._waiting.append(job)
            if not self._is_writing:
                self._is_writing = True
                job.turn.release()
        if not job.turn.acquire(timeout=self._timeout_s) and not self._has_turn(job):
            raise Busy(f"{name} waited {self._timeout_s:g} s for another writer")
        if not job.is_done:
            self._write(job)
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def _has_turn(self, job: _Job) -> bool:
        """Return whether a job's turn came at the last moment; else forget the job."""
        with self._lock:
            if job.turn.acquire(blocking=False):
                return True
            with contextlib.suppress(ValueError):  # one that hangs has taken it on
                self._waiting.remove(job)
            return False

    def _write(self, own: _Job) -> None:
        """Commit what waits, and let whoever waits longest write next."""
        with self._lock:
            count = min(_MOST, len(self._waiting))
            jobs = [self._waiting.popleft() for _ in range(count)]
        self._commit(jobs)
        with self._lock:
            self._is_writing = bool(self._waiting)
            if self._waiting:
                self._waiting[0].turn.release()
        for job in jobs:
            job.is_done = True
            if job is not own:
                job.turn.release()

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            with self._engine.begin() as connection:
                if len(jobs) == 1:
                    jobs[0].run(connection)
                else:
                    for job in jobs:
                        job.run_between_savepoints(connection)
        except BaseException as error:  # noqa: BLE001 - raised by every caller
            # Nothing was committed.
            for job in jobs:
                job.error = error


def execute_plainly(connection: sa.Connection, sql: str) -> None:
    """Execute what begins or ends a transaction, or a part of one, on SQLite.

    It has no parameters and no result, and comes with every transaction.

    Raises:
        OperationalError: The database does not do it.
    """
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"only SQLite is spoken to so, got {type(driver)}")
    try:
        driver.execute(sql)
    except sqlite3.OperationalError as error:
        raise exc.OperationalError(sql, None, error) from error
