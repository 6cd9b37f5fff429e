"""Wakes who waits for news: long check-ins and event streams.

The history in the database is the news. One task of the process looks for new events
while anybody waits, so that a thousand waiting devices cost one query a look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from coordinator.store.engine import Store
from coordinator.usecases import tasks

log = logging.getLogger(__name__)


class Watcher:
    """Tells waiting coroutines of the process when something has happened."""

    def __init__(self, store: Store, *, interval_s: float) -> None:
        """Look every ``interval_s`` seconds while anybody waits."""
        self._store = store
        self._interval_s = interval_s
        self._seen = 0  # newest event that was looked at
        self._work = 0  # newest event that may have made work
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._news = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = False

    @property
    def newest_work(self) -> int:
        """Id of the newest known event after which a check-in may succeed."""
        return self._work

    @property
    def waiting(self) -> int:
        """How many requests wait for news."""
        return self._waiting

    async def run(self) -> None:
        """Look until told to stop; never leaves a query behind."""
        self._loop = asyncio.get_running_loop()
        await self._guard(self._skip_history)
        while not self.stopped:
            await self._wanted.wait()
            await self._guard(self._look)
            await asyncio.sleep(self._interval_s)

    async def wait_for_work(self, after: int, timeout_s: float) -> None:
        """Return when an event newer than ``after`` may have made work, or in time.

        Args:
            after: ``newest_work`` as it was before the check-in that found nothing.
            timeout_s: Seconds to wait at most.
        """
        await self._wait(lambda: self._work > after, timeout_s)

    async def wait_for_events(self, after: int, timeout_s: float) -> None:
        """Return when there are events newer than ``after``, or in time."""
        await self._wait(lambda: self._seen > after, timeout_s)

    def stop_soon(self) -> None:
        """Let go of everyone who waits: the process ends. Safe in a signal handler."""
        self.stopped = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        self._wanted.set()

        async def wake() -> None:
            async with self._news:
                self._news.notify_all()

        self._waking = asyncio.create_task(wake())

    async def _guard(self, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except Exception:  # the edge of the loop
            log.exception("could not look for news")

    async def _skip_history(self) -> None:
        # If this fails, the whole history counts as news: too many are woken, once.
        self._seen = await run_in_threadpool(tasks.last_event_id, self._store)

    async def _look(self) -> None:
        newest, work = await run_in_threadpool(
            tasks.newest_events, self._store, after=self._seen
        )
        if not newest:
            return
        async with self._news:
            self._seen = newest
            self._work = max(self._work, work)
            self._news.notify_all()

    async def _wait(self, happened: Callable[[], bool], timeout_s: float) -> None:
        self._waiting += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: happened() or self.stopped)
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
            if self._waiting == 0 and not self.stopped:
                self._wanted.clear()
