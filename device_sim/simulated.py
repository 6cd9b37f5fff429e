"""The swarm on a simulated clock: what happens next happens first.

A discrete-event simulation with real HTTP calls and real training. Every device checks
in, has its update ready, and delivers it at simulated times that its profile gives; the
swarm takes one such event after the other, in the order of these times. So who reports
first, who comes too late and which version a device starts from are functions of the
seed, and a run says how long it would have taken on such devices.

The coordinator's own work takes no simulated time: the clock stands still while a round
is aggregated. Its leases and deadlines go by real time, as ever. Evaluations take no
simulated time either. A device that drops out says so, frees its
place, and asks for work again.
"""

import asyncio
import collections
import heapq
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from coordinator.protocol.messages import Assignment
from coordinator.protocol.operations import TaskState
from coordinator.protocol.vocabulary import Kind
from device_sim import behaviour
from device_sim.participant import Participant
from device_sim.steps import Action, Progressed
from device_sim.swarm import Tally
from device_sim.trace import Profile

_POLL_S: Final = 0.02
_Event = tuple[float, float, int, Callable[[], Awaitable[None]]]
_OpenRounds = frozenset[tuple[Kind, int, int]]


class SimulatedSwarm:
    """Runs participants by a simulated clock until their task has ended."""

    def __init__(
        self,
        participants: Sequence[Participant],
        *,
        profiles: Sequence[Profile],
        habits: behaviour.Behaviour,
        on_assignment: Callable[[Assignment], None] | None = None,
    ) -> None:
        """Take the devices.

        Args:
            participants: The devices.
            profiles: How fast and reliable each is.
            habits: Who comes in which round.
            on_assignment: Called for each assignment to train.
        """
        self.tally = Tally()
        self.now = 0.0  #: simulated seconds since the run began
        self._participants = participants
        self._profiles = profiles
        self._habits = habits
        self._on_assignment = on_assignment
        self._events: list[_Event] = []
        self._idle: set[int] = set(range(len(participants)))
        self._has_graph: set[int] = set()
        self._work: dict[int, asyncio.Task[Progressed | None]] = {}
        self._ask: asyncio.Future[Callable[[], Awaitable[TaskState]]] | None = None
        self._open: _OpenRounds = frozenset()
        self._round = 0
        self._dropped: collections.Counter[tuple[int, int, int]] = collections.Counter()
        self._closed: dict[int, float] = {}
        self._first = 0  # round that was open when the run began

    def begin(self, state: Callable[[], Awaitable[TaskState]]) -> None:
        """Say how to ask for the task's state; devices check in from then on."""
        self._asking().set_result(state)

    def seconds_of(self, round_number: int) -> float | None:
        """Return the simulated seconds a round took; None: this run did not see it."""
        closed = self._closed.get(round_number)
        if closed is None:
            return None
        return closed - self._closed.get(round_number - 1, 0.0)

    def tell(self, state: TaskState) -> None:
        """Say where the task is: rounds that closed, closed at the present event."""
        self._first = self._first or state.rounds_committed + 1
        for number in range(self._first, state.rounds_committed + 1):
            self._closed.setdefault(number, self.now)
        self._round = state.rounds_committed + 1
        open_ = frozenset((r.kind, r.number, r.attempt) for r in state.open_rounds)
        if open_ != self._open:
            self._open = open_
            for device in sorted(self._idle):
                self._wake(device)
            self._idle.clear()

    async def run(self) -> None:
        """Run all devices to the task's end. Raises what a device's ``step`` raises."""
        async with asyncio.TaskGroup() as group:
            for participant in self._participants:
                group.create_task(self._enrol(participant))
        ask = await self._asking()
        try:
            while await self._settle(ask):
                if not self._events:  # only time can help: a lease or a deadline
                    await asyncio.sleep(_POLL_S)
                    continue
                self.now, _, _, happen = heapq.heappop(self._events)
                await happen()
        finally:
            for working in self._work.values():
                working.cancel()

    def _asking(self) -> asyncio.Future[Callable[[], Awaitable[TaskState]]]:
        if self._ask is None:
            self._ask = asyncio.get_running_loop().create_future()
        return self._ask

    async def _enrol(self, participant: Participant) -> None:
        while not participant.state.is_enrolled:
            await participant.step()
        self.tally.enrolled += 1

    async def _settle(self, ask: Callable[[], Awaitable[TaskState]]) -> bool:
        """Wait until no round is being aggregated. Returns whether the task goes on."""
        while True:
            state = await ask()
            if all(round_.phase != "aggregating" for round_ in state.open_rounds):
                self.tell(state)
                return state.status == "running" or bool(state.open_rounds)
            await asyncio.sleep(_POLL_S)

    def _at(
        self, time_s: float, device: int, happen: Callable[[], Awaitable[None]]
    ) -> None:
        # Devices that are equally early come in an order drawn for the round.
        draw = behaviour.tie_break(
            seed=self._habits.seed, round_number=self._round, device=device
        )
        heapq.heappush(self._events, (time_s, draw, device, happen))

    def _wake(self, device: int) -> None:
        when = self._profiles[device].next_available(self.now)
        self._at(when, device, lambda: self._check_in(device))

    async def _check_in(self, device: int) -> None:
        if not self._habits.comes(round_number=self._round, device=device):
            self._idle.add(device)
            return
        participant = self._participants[device]
        await participant.step()
        assignment = participant.state.assignment
        if assignment is None:
            self._idle.add(device)
        elif assignment.kind is Kind.EVALUATE:
            step = await self._work_on(participant)
            if step is not None and step.action is Action.GAVE_UP:
                self._count_failure(step.why)
            else:
                self.tally.evaluations += 1
            self._wake(device)
        else:
            self._start(device, assignment)

    def _start(self, device: int, assignment: Assignment) -> None:
        if self._on_assignment is not None:
            self._on_assignment(assignment)
        profile, participant = self._profiles[device], self._participants[device]
        size = assignment.weights.size_bytes
        if device not in self._has_graph:
            size += assignment.train_graph.size_bytes + assignment.manifest.size_bytes
            self._has_graph.add(device)
        examples = participant.examples(assignment)
        ready_in = size / profile.down_bytes_per_s + (
            examples * profile.seconds_per_example
        )
        drawn = behaviour.dropout_generator(
            seed=self._habits.seed,
            round_number=assignment.round,
            attempt=assignment.attempt,
            device=device,
            before=self._dropped[assignment.round, assignment.attempt, device],
        )
        if drawn.random() < profile.dropout:
            after = drawn.random() * ready_in
            self._dropped[assignment.round, assignment.attempt, device] += 1
            self._at(self.now + after, device, lambda: self._drop_out(device))
            return
        self._work[device] = asyncio.create_task(self._work_on(participant))
        self._at(self.now + ready_in, device, lambda: self._finish(device))

    async def _work_on(self, participant: Participant) -> Progressed | None:
        """Step until there is an update to send, or the assignment has ended."""
        last = None
        while participant.state.assignment is not None:
            if participant.state.body is not None:
                break
            step = await participant.step()
            last = step if isinstance(step, Progressed) else last
        return last

    async def _drop_out(self, device: int) -> None:
        self.tally.vanished += 1
        await self._participants[device].interrupt()
        self._wake(device)

    async def _finish(self, device: int) -> None:
        """The update is ready: it arrives when all of its bytes have."""
        step = await self._work.pop(device)
        body = self._participants[device].state.body
        if body is None:
            self._count_failure(None if step is None else step.why)
            self._wake(device)
            return
        sent_in = len(body) / self._profiles[device].up_bytes_per_s
        self._at(self.now + sent_in, device, lambda: self._report(device))

    async def _report(self, device: int) -> None:
        step = await self._participants[device].step()
        if isinstance(step, Progressed) and step.action is Action.REPORTED:
            self.tally.updates += 1
        elif isinstance(step, Progressed):
            self._count_failure(step.why)
        self._wake(device)

    def _count_failure(self, why: str | None) -> None:
        self.tally.gave_up[why or "no reason"] += 1
