"""Many devices in one process: each steps on by itself, few of them work at a time.

Decided here: how many devices may hold a result in memory at once, how long a vanished
device stays away, and what is counted. What a device does is ``participant``; when a
swarm ends is the caller's to decide.
"""

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Final

from coordinator.protocol.messages import Assignment
from coordinator.protocol.vocabulary import Kind
from device_sim.participant import Participant
from device_sim.steps import Action, Done, Progressed, Vanished, Waiting
from device_sim.turns import Turns

_LOG: Final = logging.getLogger(__name__)
_AT_WORK_PER_THREAD: Final = 4  # one trains, the others' updates are on their way


@dataclasses.dataclass(slots=True, kw_only=True)
class Tally:
    """What the devices of a swarm did. Grows while it runs."""

    enrolled: int = 0
    updates: int = 0  #: accepted ones
    evaluations: int = 0
    vanished: int = 0
    gave_up: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )  #: by reason


class Swarm:
    """Runs participants until every task has ended or each contributed enough."""

    def __init__(
        self,
        participants: Sequence[Participant],
        *,
        threads: int,
        contributions: int | None = None,
        turns: Turns | None = None,
        on_assignment: Callable[[Assignment], None] | None = None,
    ) -> None:
        """Take the devices.

        Args:
            participants: The devices.
            threads: How many of them train at the same time.
            contributions: Updates after which a device leaves; None: when tasks end.
            turns: Says when a device may check in; None: always.
            on_assignment: Called for the first assignment of each round.
        """
        self.tally = Tally()
        self._participants = participants
        self._contributions = contributions
        self._turns = turns
        self._on_assignment = on_assignment
        self._at_work = asyncio.Semaphore(threads * _AT_WORK_PER_THREAD)
        self._newest: tuple[str, int, int] | None = None  # task, round, attempt
        self._round_opened = asyncio.Event()

    async def run(self) -> None:
        """Run all devices to their end. Raises what a device's ``step`` raises."""
        async with asyncio.TaskGroup() as devices:
            for participant in self._participants:
                devices.create_task(self._live(participant))

    async def _live(self, participant: Participant) -> None:
        while not self._has_left(participant):
            if participant.state.assignment is not None:
                if not participant.waits_for_others:
                    await self._contribute(participant)
                    continue
            elif self._turns is not None and participant.state.is_enrolled:
                await self._turns.due(participant.index)
            step = await participant.step()
            match step:
                case Progressed():
                    self._count(participant, step)
                case Vanished(assignment=assignment):
                    self.tally.vanished += 1
                    self._see(assignment)
                    if self._turns is not None:
                        self._turns.done(participant.index, assignment)
                    await self._stay_away(assignment)
                case Waiting(seconds=seconds):
                    await self._rest(seconds)
                case Done():
                    return

    async def _contribute(self, participant: Participant) -> None:
        async with self._at_work:
            while (
                participant.state.assignment is not None
                and not participant.waits_for_others
            ):
                step = await participant.step()
                if isinstance(step, Progressed):
                    self._count(participant, step)

    def _count(self, participant: Participant, step: Progressed) -> None:
        if step.assignment is not None:
            self._see(step.assignment)
        if step.action is Action.ENROLLED:
            self.tally.enrolled += 1
        elif step.action is Action.REPORTED:
            self.tally.updates += 1
            if self._turns is not None and step.assignment is not None:
                self._turns.done(participant.index, step.assignment)
        elif step.action is Action.SCORED:
            self.tally.evaluations += 1
        elif step.action is Action.GAVE_UP:
            self.tally.gave_up[step.why or "no reason"] += 1
            _LOG.warning("a device gave its assignment up: %s", step.why)

    async def _rest(self, seconds: float) -> None:
        if self._turns is None:
            await asyncio.sleep(seconds)
        else:
            await self._turns.rest(seconds)

    def _has_left(self, participant: Participant) -> bool:
        return (
            self._contributions is not None
            and participant.state.contributions >= self._contributions
        )

    def _see(self, assignment: Assignment) -> None:
        if assignment.kind is not Kind.TRAIN:
            return
        seen = (assignment.task, assignment.round, assignment.attempt)
        if seen == self._newest:
            return
        if self._newest is None or seen[0] != self._newest[0] or seen > self._newest:
            self._newest = seen
            self._round_opened.set()
            self._round_opened = asyncio.Event()
            if self._on_assignment is not None:
                self._on_assignment(assignment)

    async def _stay_away(self, assignment: Assignment) -> None:
        """Wait until a newer round is seen, or at the latest until the lease is over.

        A real phone comes back at any time; coming back between rounds keeps the number
        of devices that a seed gives to every round.
        """
        own = (assignment.task, assignment.round, assignment.attempt)
        if self._newest is not None and self._newest > own:
            return
        try:
            async with asyncio.timeout(assignment.lease_s):
                await self._round_opened.wait()
        except TimeoutError:
            return
