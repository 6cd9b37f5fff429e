"""Writers that come at a time share one transaction, and one wait for the disk.

SQLite has one writer, and each commit of a durable database waits for the disk. So who
gets the lock runs what everybody behind it wants as well, each between savepoints of
its own, and commits once. Nobody is told of a result before that commit.
"""

import collections
import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import sqlalchemy as sa

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
    is_done: bool = False
    result: Any = None
    error: BaseException | None = None

    def run(self, connection: sa.Connection) -> None:
        self.result = self.context.run(self.body, connection)

    def run_between_savepoints(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("SAVEPOINT job")
        try:
            self.run(connection)
        except Exception as error:  # noqa: BLE001 - raised by the caller
            self.error = error
            connection.exec_driver_sql("ROLLBACK TO job")
        connection.exec_driver_sql("RELEASE job")


class Batches:
    """Runs transactions of many threads one after the other, several a commit."""

    def __init__(self, engine: sa.Engine, *, timeout_s: float) -> None:
        """Write to ``engine``; wait for other writers up to ``timeout_s`` seconds."""
        self._engine = engine
        self._timeout_s = timeout_s
        self._writing = threading.Lock()
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
        self._waiting.append(job)
        if not self._writing.acquire(timeout=self._timeout_s):
            with contextlib.suppress(ValueError):
                self._waiting.remove(job)
            raise Busy(f"{name} waited {self._timeout_s:g} s for another writer")
        try:
            while not job.is_done:
                self._commit(self._take())
        finally:
            self._writing.release()
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        with contextlib.suppress(
            IndexError
        ):  # whoever waited too long takes itself out
            while len(jobs) < _MOST:
                jobs.append(self._waiting.popleft())
        return jobs

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
        for job in jobs:
            job.is_done = True
