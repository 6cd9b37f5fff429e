"""Whose turn it is: devices of a population come for the rounds of their cohorts only.

The operator's view of the task says which round is open. A device that is in its cohort
checks in; all others stay away, as phones do that are not idle. Nobody waits at the
coordinator for a round that may be another's: between rounds devices wait here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from coordinator.protocol.messages import Assignment
from coordinator.protocol.operations import TaskState
from coordinator.protocol.vocabulary import Kind
from device_sim import behaviour

_POLL_S: Final = 0.2  # while the cohort is at work
_IMPATIENT_POLL_S: Final = 0.02  # once it is done: the next round is near


class Turns:
    """Which round is open, and which devices of its cohort are done with it."""

    def __init__(self, habits: behaviour.Behaviour) -> None:
        self._habits = habits
        self._open: tuple[int, int] | None = None  # round and attempt
        self._is_scoring = False
        self._cohort: frozenset[int] = frozenset()
        self._trained: dict[
            int, tuple[int, int]
        ] = {}  # last round and attempt, by device
        self._changed = asyncio.Event()
        self._all_done = asyncio.Event()

    def tell(self, state: TaskState) -> None:
        """Say where the task is; wakes the devices that wait where that is news."""
        training = [r for r in state.open_rounds if r.kind is Kind.TRAIN]
        number = state.rounds_committed + 1
        attempt = training[0].attempt if training else 1
        is_scoring = any(r.kind is Kind.EVALUATE for r in state.open_rounds)
        if (number, attempt) == self._open and is_scoring == self._is_scoring:
            return
        self._open = number, attempt
        self._is_scoring = is_scoring
        self._cohort = frozenset(self._habits.cohort(number))
        self._all_done.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def due(self, device: int) -> None:
        """Return once ``device`` should ask for work."""
        while not self._is_due(device):
            await self._changed.wait()

    async def rest(self, seconds: float) -> None:
        """Wait for news of the task, or for so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def done(self, device: int, assignment: Assignment) -> None:
        """Note that ``device`` has reported on a training assignment, or vanished."""
        if assignment.kind is not Kind.TRAIN:
            return
        self._trained[device] = assignment.round, assignment.attempt
        if all(self._trained.get(member) == self._open for member in self._cohort):
            self._all_done.set()

    async def watch(self, state: Callable[[], Awaitable[TaskState]]) -> None:
        """Ask for the task's state until cancelled, more often when all are done."""
        while True:
            self.tell(await state())
            if self._all_done.is_set():
                await asyncio.sleep(_IMPATIENT_POLL_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._all_done.wait()

    def _is_due(self, device: int) -> bool:
        if self._open is None or device not in self._cohort:
            return False
        return self._is_scoring or self._trained.get(device) != self._open
