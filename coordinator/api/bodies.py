"""Bodies on their way in: ended when they are too long, pause, or are too slow.

Time is only counted while the other side is waited for. Bodies of updates have places;
when all are taken, the slowest of those that are too slow yields to who comes.
"""

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from coordinator.api.problems import CoordinatorFull
from coordinator.domain.limits import Limits

MAX_JSON_BYTES: Final = 256 * 1024  # a chain of certificates is the longest
_JUDGED_AFTER_S: Final = 1.0


class Body:
    """One request's body. ``receive`` takes the place of the server's."""

    def __init__(
        self, receive: Receive, limits: Limits, places: "Places | None" = None
    ) -> None:
        """Begin.

        Args:
            receive: The server's.
            limits: How slow it may be.
            places: Where an update's body needs one; other bodies are short instead.
        """
        self._receive = receive
        self._limits = limits
        self._places = places
        self._size = 0
        self._waited_s = 0.0
        self._waits_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None  #: that waits
        self._alarm: asyncio.TimerHandle | None = None
        self._is_cut = False
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            HTTPException: 408: it is too slow; 413: it is too long. The one kind that
                the framework lets through while it reads a body.
            CoordinatorFull: It is an update's, and no place is free.
        """
        if self._is_whole:
            return await self._receive()
        if self._is_cut:
            raise _too_slow()
        if self._places is not None:
            self._places.enter(self)
        message = await self._wait()
        self._size += len(message.get("body", b""))
        if self._places is None and self._size > MAX_JSON_BYTES:
            raise HTTPException(413)
        if not message.get("more_body", False):
            self._is_whole = True
            self.end()
        return message

    def shortfall(self, now: float) -> float | None:
        """Return how many bytes a second it is too slow by; none if it is not."""
        waited_s = self._waited_s
        if self._waits_since is not None:
            waited_s += now - self._waits_since
        if waited_s < _JUDGED_AFTER_S:
            return None
        shortfall = self._limits.body_bytes_per_s - self._size / waited_s
        return shortfall if shortfall > 0 else None

    def cut(self) -> None:
        """End it, now or when it is received from next."""
        self._is_cut = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def end(self) -> None:
        """Give its place back; no time counts any more."""
        if self._places is not None:
            self._places.leave(self)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def _wait(self) -> Message:
        since = self._waits_since = self._loop.time()
        if self._alarm is None:
            self._alarm = self._loop.call_at(self._due(), self._look)
        task = self._task = asyncio.current_task(self._loop)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if task is None or not self._is_cut or task.uncancel():
                raise  # somebody else wants the request to end
            raise _too_slow() from None
        finally:
            self._task = self._waits_since = None
            self._waited_s += self._loop.time() - since

    def _due(self) -> float:
        """Return when the wait that goes on has taken too long.

        It has the time of one pause, and what its bytes have earned.
        """
        since = self._loop.time() if self._waits_since is None else self._waits_since
        idle_s = self._limits.body_idle_s
        earned_s = idle_s + self._size / self._limits.body_bytes_per_s - self._waited_s
        return since + min(idle_s, earned_s)

    def _look(self) -> None:
        """Cut it if it is due.

        One alarm a body, set anew when it goes off too early, costs less than one for
        each of its pieces.
        """
        due = self._due()
        if self._waits_since is not None and due <= self._loop.time():
            self._alarm = None
            self.cut()
        else:
            self._alarm = self._loop.call_at(due, self._look)


class Places:
    """Places for bodies of updates that come in at the same time."""

    def __init__(self, most: int) -> None:
        """Have so many places."""
        self._most = most
        self._taken: set[Body] = set()

    @property
    def taken(self) -> int:
        """How many are taken."""
        return len(self._taken)

    def enter(self, body: Body) -> None:
        """Give a body a place, if it has none.

        Raises:
            CoordinatorFull: None is free, and no body is too slow to keep its own.
        """
        if body in self._taken:
            return
        if len(self._taken) >= self._most:
            self._cut_slowest()
        self._taken.add(body)

    def leave(self, body: Body) -> None:
        """Take a body's place back, if it has one."""
        self._taken.discard(body)

    def _cut_slowest(self) -> None:
        now = asyncio.get_running_loop().time()
        slow = [(body.shortfall(now) or 0.0, body) for body in self._taken]
        shortfall, slowest = max(slow, key=lambda pair: pair[0])
        if not shortfall:
            raise CoordinatorFull(f"{self._most} updates are coming in")
        slowest.cut()
        self._taken.discard(slowest)


def _too_slow() -> HTTPException:
    return HTTPException(408, headers={"Connection": "close"})
