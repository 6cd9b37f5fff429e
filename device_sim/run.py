"""One run of a swarm, from its settings to its report.

Decided here: what is started in which order, what ends a run, and that everything it
started is ended with it.
"""

import asyncio
import collections
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from coordinator.protocol.digests import sha256_hex
from coordinator.protocol.operations import TaskState, VersionMetrics
from coordinator.protocol.plans import Plan
from device_sim import (
    attacks,
    behaviour,
    cache,
    client,
    data,
    evaluations,
    fitting,
    report,
    trace,
    trainer,
)
from device_sim.account import Account
from device_sim.attacks import Attack
from device_sim.connector import Connector
from device_sim.data import Dealing
from device_sim.embedded import EmbeddedCoordinator
from device_sim.embedded_authority import EmbeddedAuthority, read_public_key
from device_sim.enlisting import enlist
from device_sim.operator import Examiner, Operator, follow
from device_sim.participant import Participant
from device_sim.progress import Progress
from device_sim.simulated import SimulatedSwarm
from device_sim.swarm import Swarm
from device_sim.trace import Trace
from device_sim.turns import Turns

WEIGHTS_FILE: Final = "weights.safetensors"
_REFRESH_S: Final = 0.25


class TaskStopped(Exception):
    """The task ended without its rounds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is asked for; see the command line's help."""

    devices: int  #: that come in each round
    population: int | None  #: devices there are; None: every writer of the data
    plan: Plan
    plan_name: str
    task: str
    data: str
    way: Dealing
    dropout: float
    flaky: float
    attacks: tuple[Attack, ...]
    trace: Trace | None  #: runs on a simulated clock
    coordinator: str | None  #: None: start one
    operator_token: str | None = dataclasses.field(repr=False)
    enrolment_token: str | None = dataclasses.field(repr=False)
    authority_key: pathlib.Path | None  #: of the authority that devices trust
    database_url: str | None = dataclasses.field(repr=False)
    contributions: int | None  #: updates a device, where no task is started
    out: pathlib.Path
    shares_downloads: bool
    threads: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What every kind of run needs."""

    calls: client.Client
    library: cache.Library
    trainers: trainer.TrainerPool
    federation: data.Federation
    participants: Sequence[Participant]
    swarm: Swarm | SimulatedSwarm
    turns: Turns | None


def load(settings: Settings) -> data.Federation:
    """Load the data that a run is asked for.

    Raises:
        DataError: There is no such data.
    """
    return data.load(
        settings.data,
        devices=settings.population,
        seed=settings.plan.seed,
        way=settings.way,
    )


class Run:
    """One run. ``run`` returns when it is over and leaves nothing running."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._habits = behaviour.Behaviour(devices=settings.devices)  # until loaded
        self._began = time.monotonic()
        self._account = Account(progress)
        self._notes: list[str] = []
        self._attackers: dict[int, Attack] = {}
        self.embedded: EmbeddedCoordinator | None = None
        self._authority: EmbeddedAuthority | None = None

    async def run(self) -> None:
        """Run to the end.

        Raises:
            TaskStopped: The task did not get through its rounds.
            CoordinatorFailed: The embedded coordinator did not start or ended early.
            DataError: There is no such data.
            Refused, Unreachable, UnexpectedAnswer: The coordinator elsewhere failed;
                possibly within an exception group.
        """
        settings = self._settings
        try:
            if settings.coordinator is None:
                settings.out.mkdir(parents=True, exist_ok=True)
                if settings.plan.he is not None:
                    self._authority = EmbeddedAuthority(settings.out)
                    await self._authority.start()
                self.embedded = EmbeddedCoordinator(
                    settings.out,
                    database_url=settings.database_url,
                    settings=(
                        None if self._authority is None else self._authority.settings()
                    ),
                )
                self.embedded.start()
            # Loaded while the coordinator starts.
            federation = await asyncio.to_thread(load, settings)
            self._habits = self._habits_of(federation)
            self._attackers = attacks.attackers(
                settings.attacks,
                devices=len(federation.shards),
                seed=settings.plan.seed,
            )
            async with self._parts(federation) as parts:
                await self._live(parts)
        finally:
            if self.embedded is not None:
                self.embedded.stop()
            if self._authority is not None:
                self._authority.stop()

    def _trusted_authority(self) -> bytes | None:
        """Return the public key of the authority that devices trust, if any."""
        if self._authority is not None:
            return self._authority.public_key()
        path = self._settings.authority_key
        return None if path is None else read_public_key(path)

    def _habits_of(self, federation: data.Federation) -> behaviour.Behaviour:
        settings = self._settings
        population = len(federation.shards)
        if population < settings.devices:
            raise data.DataError(
                f"{settings.data} has {population} writers with train and test "
                f"examples, too few for {settings.devices} devices a round"
            )
        return behaviour.Behaviour(
            # Where the coordinator's coins choose, all come and are told who may.
            devices=population if self._by_coin else settings.devices,
            population=population,
            dropout=settings.dropout,
            flaky=settings.flaky,
            seed=settings.plan.seed,
        )

    @contextlib.asynccontextmanager
    async def _parts(self, federation: data.Federation) -> AsyncIterator[_Parts]:
        settings = self._settings
        embedded = self.embedded
        url = settings.coordinator if embedded is None else embedded.url
        trainers = trainer.TrainerPool(settings.threads)
        traffic = client.Traffic()
        try:
            async with Connector(
                url or "",
                traffic=traffic,
                trusts_environment=embedded is None,  # no proxy to our own
            ) as connector:
                calls = await connector.client()
                if embedded is not None:
                    await embedded.wait_until_ready(calls)
                library = cache.Library(cache.DownloadCache(calls))
                turns = Turns(self._habits) if self._takes_turns else None
                participants = await enlist(
                    federation,
                    connector=connector,
                    library=library if settings.shares_downloads else None,
                    trainers=trainers,
                    habits=self._habits,
                    attackers=self._attackers,
                    waits_there=turns is None and settings.trace is None,
                    enrolment_token=settings.enrolment_token,
                    authority=self._trusted_authority(),
                )
                yield _Parts(
                    calls=calls,
                    library=library,
                    trainers=trainers,
                    federation=federation,
                    participants=participants,
                    swarm=self._swarm(participants, turns, threads=trainers.threads),
                    turns=turns,
                )
        finally:
            trainers.close()

    def _swarm(
        self, participants: Sequence[Participant], turns: Turns | None, *, threads: int
    ) -> Swarm | SimulatedSwarm:
        settings = self._settings
        if settings.trace is None:
            return Swarm(
                participants,
                threads=threads,
                contributions=settings.contributions,
                turns=turns,
                on_assignment=self._account.note_assignment,
            )
        return SimulatedSwarm(
            participants,
            profiles=trace.profiles(
                settings.trace, devices=len(participants), seed=settings.plan.seed
            ),
            habits=self._habits,
            on_assignment=self._account.note_assignment,
        )

    @property
    def _is_population(self) -> bool:
        """Whether there are more devices than come in a round."""
        return self._habits.population != self._habits.devices

    @property
    def _takes_turns(self) -> bool:
        """Whether devices must be told when to come; a simulated swarm knows."""
        return self._is_population and self._settings.trace is None

    @property
    def _by_coin(self) -> bool:
        privacy = self._settings.plan.privacy
        return privacy is not None and privacy.sampling == "poisson"

    async def _live(self, parts: _Parts) -> None:
        token = self._settings.operator_token
        if self.embedded is not None:
            token = self.embedded.operator_token()
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(self._tick(parts))
            living = group.create_task(parts.swarm.run())
            if token is None:
                await living
            else:
                await self._operate(parts, token)
                living.cancel()
            ticking.cancel()
        self._account.show_again()
        tally = parts.swarm.tally
        self._progress.note(
            f"{tally.enrolled} devices sent {tally.updates} updates and "
            f"{tally.evaluations} evaluations; {tally.vanished} times one vanished, "
            f"{tally.gave_up.total()} times one gave up"
        )
        traffic = parts.calls.traffic
        if traffic.broken:
            self._progress.note(
                f"the network broke {traffic.broken} bodies off; in all "
                f"{traffic.bytes_up / 1e6:.2f} MB were sent"
            )

    async def _operate(self, parts: _Parts, token: str) -> None:
        """Start the task, follow it to its end, and write the report."""
        settings = self._settings
        operator = Operator(parts.calls, token=token, task=settings.task)
        plan, self._notes = fitting.fit(settings.plan, self._habits)
        for note in self._notes:
            self._progress.note(f"note: {note}")
        if self._by_coin:
            await _all_enrolled(parts.participants)
        if not await operator.start(plan):
            self._progress.note(f"going on with task {settings.task}")
        examiner = Examiner(
            model=plan.model,
            library=parts.library,
            trainers=parts.trainers,
            federation=parts.federation,
        )
        if isinstance(parts.swarm, SimulatedSwarm):
            parts.swarm.begin(operator.state)
        async with asyncio.TaskGroup() as group:
            watching = (
                None
                if parts.turns is None
                else group.create_task(parts.turns.watch(operator.state))
            )
            state = await follow(
                operator,
                examiner,
                bytes_down=lambda: parts.calls.traffic.bytes_down,
                on_state=self._account.note_state,
                on_measured=lambda measured: self._account.note_measured(
                    measured, plan
                ),
            )
            if watching is not None:
                watching.cancel()
        if isinstance(parts.swarm, SimulatedSwarm):
            self._account.note_simulated(parts.swarm, state)
        if plan.privacy is not None:  # an older coordinator knows of none
            self._account.note_privacy(await operator.privacy())
        await self._write(state, await operator.metrics(), parts.library, examiner)
        if state.status == "stopped":
            raise TaskStopped(f"task {state.id} stopped: {state.reason}")

    def _attackers_by_kind(self) -> dict[str, int]:
        kinds = (str(attack.kind) for attack in self._attackers.values())
        return dict(sorted(collections.Counter(kinds).items()))

    async def _note_attacks(self, examiner: Examiner, version: int) -> float | None:
        """Say who attacked. Returns how well a backdoor worked, if there was one."""
        found = self._attackers_by_kind()
        if not found:
            return None
        listed = ", ".join(f"{count} {kind}" for kind, count in found.items())
        self._progress.note(
            f"{len(self._attackers)} of {self._habits.population} devices are "
            f"attackers: {listed}"
        )
        if attacks.Kind.BACKDOOR not in found:
            return None
        score = await examiner.measure_backdoor(version)
        self._progress.note(
            f"the backdoor works on {score.accuracy:.4f} of {score.examples} held-out "
            "examples with the trigger"
        )
        return score.accuracy

    async def _write(
        self,
        state: TaskState,
        versions: Sequence[VersionMetrics],
        library: cache.Library,
        examiner: Examiner,
    ) -> None:
        settings = self._settings
        self._account.rows = evaluations.into_rows(self._account.rows, versions)
        accuracy = next(  # of the version it ends with: a gate may have gone back
            (
                version.held_out.accuracy
                for version in versions
                if version.version == state.version and version.held_out is not None
            ),
            None,
        )
        weights = await library.weights(state.plan.model, state.version)
        backdoor = await self._note_attacks(examiner, state.version)
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / WEIGHTS_FILE).write_bytes(weights)
        result = report.RunReport(
            plan=settings.plan_name,
            data=settings.data,
            seed=settings.plan.seed,
            devices=settings.devices,
            population=self._habits.population if self._is_population else None,
            seconds=time.monotonic() - self._began,
            held_out_accuracy=accuracy,
            rounds=tuple(self._account.rows),
            simulated_s=None if settings.trace is None else self._account.simulated_s(),
            attackers=self._attackers_by_kind(),
            backdoor_success=backdoor,
            bytes_up_a_device=self._account.bytes_up_a_device(),
            bytes_down_a_device=len(weights),
            delta=self._account.delta,
            stopped=state.reason if state.status == "stopped" else None,
            note=(*self._notes, f"weights have SHA-256 {sha256_hex(weights)}"),
        )
        paths = await asyncio.to_thread(report.write, result, settings.out)
        if accuracy is not None:
            self._progress.note(
                f"accuracy on {examiner.examples} held-out examples: {accuracy:.4f}, "
                f"after {len(self._account.rows)} rounds in {result.seconds:.1f} s"
            )
        for line in evaluations.lines(versions):
            self._progress.note(line)
        reference = state.plan.reference
        if reference is not None:
            self._progress.note(
                f"for comparison: {reference.held_out_accuracy:.4f}, {reference.source}"
            )
        if result.bytes_up_a_device is not None:
            self._progress.note(
                f"for a round a device downloads {len(weights) / 1e6:.2f} MB of "
                f"weights and sends {result.bytes_up_a_device / 1e6:.2f} MB"
            )
        self._progress.note(f"weights: SHA-256 {sha256_hex(weights)}")
        self._progress.note(f"wrote {', '.join(map(str, paths))}")

    async def _tick(self, parts: _Parts) -> None:
        """Show the present, and notice when the embedded coordinator has died."""
        while True:
            self._account.show(
                seconds=time.monotonic() - self._began,
                updates=parts.swarm.tally.updates,
                bytes_up=parts.calls.traffic.bytes_up,
                bytes_down=parts.calls.traffic.bytes_down,
            )
            if self.embedded is not None:
                self.embedded.check()
            await asyncio.sleep(_REFRESH_S)


async def _all_enrolled(participants: Sequence[Participant]) -> None:
    """Wait until coins have every device to choose among."""
    while True:
        if all(each.state.is_enrolled for each in participants):
            return
        await asyncio.sleep(_REFRESH_S)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's event loop where it is installed, else Python's own."""
    try:
        # Optional: it halves what a request costs, but a device installs without it.
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
