"""What an operator does while a task runs: start it, follow it, measure its versions.

Decided here: how often the task is asked for its state, and that the operator measures
each new version itself, on held-out examples that no device has, with the same training
artefact that the devices run.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np

from coordinator.protocol import paths, problems
from coordinator.protocol.manifest import Record
from coordinator.protocol.operations import (
    HeldOutReport,
    MetricsList,
    PrivacyReport,
    RoundList,
    RoundState,
    Score,
    TaskRequest,
    TaskState,
    VersionMetrics,
)
from coordinator.protocol.plans import Plan
from device_sim import attacks, cache, client, identity, trainer
from device_sim.data import Federation
from device_sim.data.federation import to_float

_POLL_S: Final = 0.2


class OtherPlan(Exception):
    """A task of this name exists already, under another plan."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A committed round and how good the version is that it published."""

    round: RoundState
    held_out: Score
    bytes_down: int  #: downloaded by the swarm since the round before


class Operator:
    """The operator's calls on one task."""

    def __init__(self, calls: client.Client, *, token: str, task: str) -> None:
        self._calls = calls
        self._credential = identity.Bearer(token)
        self.task = task

    async def start(self, plan: Plan) -> bool:
        """Start the task, or go on with the one that has this name and this plan.

        Returns:
            Whether the task is new.

        Raises:
            OtherPlan: A task of this name runs under another plan.
            Refused: The coordinator does not take the task.
        """
        request = TaskRequest(id=self.task, plan=plan)
        try:
            await self._post(paths.TASKS, request)
        except client.Refused as refusal:
            if not refusal.is_of(problems.TASK_EXISTS):
                raise
            if (await self.state()).plan != plan:
                raise OtherPlan(
                    f"task {self.task!r} exists under another plan: choose another "
                    "--task, or another --out for a database of its own"
                ) from refusal
            return False
        return True

    async def state(self) -> TaskState:
        """Return where the task is."""
        return client.parse(TaskState, await self._get(paths.task(self.task)))

    async def rounds(self) -> tuple[RoundState, ...]:
        """Return every attempt at every round, oldest first."""
        body = await self._get(paths.rounds(self.task))
        return client.parse(RoundList, body).rounds

    async def metrics(self) -> tuple[VersionMetrics, ...]:
        """Return what is known of every version, oldest first."""
        body = await self._get(paths.metrics(self.task))
        return client.parse(MetricsList, body).versions

    async def privacy(self) -> PrivacyReport:
        """Return what the task has given away so far."""
        body = await self._get(paths.privacy(self.task))
        return client.parse(PrivacyReport, body)

    async def report_held_out(self, version: int, score: Score) -> None:
        """Tell the coordinator how good ``version`` is."""
        report = HeldOutReport(version=version, score=score)
        await self._post(paths.metrics(self.task), report)

    async def _get(self, path: str) -> bytes:
        return await self._calls.send("GET", path, credential=self._credential)

    async def _post(self, path: str, record: Record) -> bytes:
        content = record.model_dump_json().encode()
        return await self._calls.send(
            "POST", path, credential=self._credential, content=content
        )


class Examiner:
    """Measures versions of one model on the held-out examples."""

    def __init__(
        self,
        *,
        model: str,
        library: cache.Library,
        trainers: trainer.TrainerPool,
        federation: Federation,
    ) -> None:
        self._model = model
        self._library = library
        self._trainers = trainers
        self._federation = federation
        self._x = federation.held_out_x
        self._y = federation.held_out_y

    @property
    def examples(self) -> int:
        """How many examples a version is measured on."""
        return len(self._y)

    async def measure(self, version: int) -> Score:
        """Return how good ``version`` is."""
        model, weights = await self._library.version(self._model, version)
        scored = await self._trainers.run(
            model, lambda own: own.score(self._x, self._y, weights=weights)
        )
        return Score(
            examples=scored.examples, loss=scored.loss, accuracy=scored.accuracy
        )

    async def measure_backdoor(self, version: int) -> Score:
        """Return how often ``version`` sees the target where it sees the trigger.

        Measured on the held-out examples that are not of the target class.
        """
        model, weights = await self._library.version(self._model, version)
        others = self._federation.held_out_labels != attacks.TARGET
        x = to_float(attacks.triggered(self._federation.held_out_images[others]))
        y = np.full(len(x), attacks.TARGET, np.int32)
        scored = await self._trainers.run(
            model, lambda own: own.score(x, y, weights=weights)
        )
        return Score(
            examples=scored.examples, loss=scored.loss, accuracy=scored.accuracy
        )


async def follow(
    operator: Operator,
    examiner: Examiner,
    *,
    bytes_down: Callable[[], int],
    on_state: Callable[[TaskState], None],
    on_measured: Callable[[Measured], None],
) -> TaskState:
    """Follow the task to its end, measuring each version that it publishes.

    Args:
        operator: Names the task.
        examiner: Measures.
        bytes_down: How much the swarm has downloaded so far.
        on_state: Called about five times a second.
        on_measured: Called once a committed round, in order.

    Returns:
        The task as it ended, finished or stopped.
    """
    seen_version: int | None = None
    measured: set[int] = set()
    down_before = 0
    while True:
        state = await operator.state()
        on_state(state)
        if state.version == seen_version:
            if state.status == "stopped":
                return state
            if state.status == "finished" and not state.open_rounds:
                return state
            await asyncio.sleep(_POLL_S)
            continue
        seen_version = state.version
        for round_ in await operator.rounds():
            version = round_.result_version
            if version is None or version in measured:
                continue
            score = await examiner.measure(version)
            await operator.report_held_out(version, score)
            down_now = bytes_down()  # with the version itself
            on_measured(
                Measured(
                    round=round_, held_out=score, bytes_down=down_now - down_before
                )
            )
            measured.add(version)
            down_before = down_now
