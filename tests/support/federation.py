"""A coordinator without its processes: devices, worker and operator move by hand."""

import dataclasses
import itertools
import pathlib
import secrets
from typing import Any

import numpy as np
import sqlalchemy as sa

from coordinator.domain.models import Model
from coordinator.domain.rounds import Phase, Round
from coordinator.domain.tasks import Task
from coordinator.protocol import digests, encodings
from coordinator.protocol.device_keys import DeviceKey
from coordinator.protocol.manifest import Vector
from coordinator.protocol.messages import EvaluationReport, PersonalizedSums
from coordinator.protocol.plan_he import HePlan
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import (
    AsynchronousPlan,
    EvaluationPlan,
    ParticipationPlan,
    RoundPlan,
)
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.plan_server import GatePlan, ServerPlan
from coordinator.protocol.plan_training import TrainingPlan, UpdatePlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import FailureReason, WaitReason
from coordinator.store import rounds as stored_rounds
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.store.tables import metadata
from coordinator.usecases import devices, models, participation, release, rounds, tasks
from coordinator.usecases.check_in import Work, check_in
from coordinator.usecases.encrypted import KeyAuthority
from tests.support.clock import ManualClock
from tests.support.compute import NumpyCompute
from tests.support.models import update_body, write_tiny_model

ONES = [1.0] * 10
Rows = dict[str, list[tuple[Any, ...]]]


def plan(
    *,
    rounds: int = 3,
    evaluation: EvaluationPlan | None = None,
    training: TrainingPlan | None = None,
    server: ServerPlan | None = None,
    update: UpdatePlan | None = None,
    gate: GatePlan | None = None,
    asynchronous: AsynchronousPlan | None = None,
    participation: ParticipationPlan | None = None,
    privacy: PrivacyPlan | None = None,
    secagg: SecAggPlan | None = None,
    he: HePlan | None = None,
    **round_: Any,  # noqa: ANN401 - any field of RoundPlan
) -> Plan:
    """A plan for two devices: a lease lasts 60 s, a round 120 s, two attempts."""
    settings = {"goal": 2, "minimum": 1, "max_attempts": 2, **round_}
    return Plan(
        model="tiny",
        rounds=rounds,
        seed=7,
        round=RoundPlan(**settings),
        asynchronous=asynchronous,
        training=training or TrainingPlan(),
        server=server or ServerPlan(),
        update=update or UpdatePlan(),
        evaluation=evaluation,
        gate=gate,
        participation=participation or ParticipationPlan(),
        privacy=privacy,
        secagg=secagg,
        he=he,
    )


def dump(store: Store) -> Rows:
    """Every row of every table."""
    with store.engine.connect() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(sa.select(table))), key=repr
            )
            for table in metadata.sorted_tables
        }


def without_traces(rows: Rows) -> Rows:
    """The rows but for what refusals may leave: entries in the log, used nonces."""
    return {
        name: kept for name, kept in rows.items() if name not in {"audit", "nonces"}
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Everything that the use cases work on, and short words for them."""

    store: Store
    blobs: BlobStore
    clock: ManualClock
    folder: pathlib.Path
    compute: NumpyCompute = dataclasses.field(default_factory=NumpyCompute)
    _keys: "itertools.count[int]" = dataclasses.field(default_factory=itertools.count)

    # Operators

    def register(self, name: str = "tiny") -> Model:
        folder = self.folder / "models" / name
        if not folder.exists():
            write_tiny_model(folder.parent, name)
        return models.register(self.store, self.blobs, folder, now=self.clock.now())

    def start(self, task_id: str = "task", settings: Plan | None = None) -> Task:
        """Register the model and start a task with it."""
        self.register()
        return tasks.create(
            self.store,
            self.blobs,
            task_id=task_id,
            plan=settings or plan(),
            has_authority=True,
            now=self.clock.now(),
        ).task

    def task(self, task_id: str = "task") -> Task:
        view = tasks.look(self.store, task_id=task_id, now=self.clock.now())
        return view.task

    def attempts(self, task_id: str = "task") -> list[Round]:
        views = tasks.list_rounds(self.store, task_id=task_id, now=self.clock.now())
        return [view.round for view in views]

    def phases(self, task_id: str = "task") -> list[Phase]:
        return [round_.phase for round_ in self.attempts(task_id)]

    def counts(self, round_id: int, task_id: str = "task") -> tuple[int, int, int, int]:
        """Live, accepted, failed and lapsed assignments of a round."""
        views = tasks.list_rounds(self.store, task_id=task_id, now=self.clock.now())
        counts = next(view.counts for view in views if view.round.id == round_id)
        return counts.live, counts.accepted, counts.failed, counts.lapsed

    def happenings(self) -> list[str]:
        return [
            str(event.happening)
            for event in tasks.list_events(self.store, after=0, limit=10_000)
        ]

    # Devices

    def enrol(self, key: DeviceKey | None = None) -> str:
        applicant = devices.Applicant(key=key)
        device, _ = devices.enrol(self.store, applicant, now=self.clock.now())
        return device.id

    def check_in(self, device_id: str, key: str | None = None) -> Work | WaitReason:
        return check_in(
            self.store,
            device_id=device_id,
            idempotency_key=key or f"key-{next(self._keys)}",
            assignment_id=secrets.token_hex(16),
            now=self.clock.now(),
        )

    def lease(self, device_id: str | None = None) -> Work:
        """Check in where there must be work; a new device if none is named."""
        work = self.check_in(device_id or self.enrol())
        assert isinstance(work, Work), work
        return work

    def submit(
        self,
        work: Work,
        body: bytes,
        *,
        device_id: str | None = None,
        digest: str | None = None,
        coding: str = "identity",
    ) -> participation.Accepted:
        """Post a body, as the API does it."""
        caller = device_id or work.assignment.device_id
        expected = participation.expect_update(
            self.store,
            device_id=caller,
            assignment_id=work.assignment.id,
            now=self.clock.now(),
        )
        incoming = self.blobs.new_incoming()
        incoming.write_bytes(body)
        try:
            return participation.submit_update(
                self.store,
                self.blobs,
                expected,
                participation.Sent(
                    path=incoming,
                    content_digest=digest or digests.sha256_hex(body),
                    coding=coding,
                ),
                device_id=caller,
                assignment_id=work.assignment.id,
                now=self.clock.now(),
            )
        finally:
            incoming.unlink(missing_ok=True)

    def take_part(
        self,
        delta: Vector | list[float] = ONES,
        *,
        examples: int = 1,
        device_id: str | None = None,
    ) -> Work:
        """Check in and post an update that is accepted."""
        work = self.lease(device_id)
        self.submit(work, update_body(delta, examples=examples))
        return work

    def evaluate(
        self,
        work: Work,
        *,
        examples: int = 10,
        loss_sum: float = 5.0,
        correct: int = 5,
        personalized: tuple[float, int] | None = None,
    ) -> None:
        """Post an evaluation; ``personalized`` are loss sum and right answers."""
        tuned = None
        if personalized is not None:
            tuned = PersonalizedSums(loss_sum=personalized[0], correct=personalized[1])
        participation.submit_evaluation(
            self.store,
            EvaluationReport(
                examples=examples,
                loss_sum=loss_sum,
                correct=correct,
                personalized=tuned,
            ),
            device_id=work.assignment.device_id,
            assignment_id=work.assignment.id,
            now=self.clock.now(),
        )

    def give_up(
        self, work: Work, reason: FailureReason = FailureReason.INTERRUPTED
    ) -> None:
        participation.report_failure(
            self.store,
            device_id=work.assignment.device_id,
            assignment_id=work.assignment.id,
            reason=reason,
            detail=None,
            now=self.clock.now(),
        )

    # The worker

    def advance(self) -> int:
        """Do what is due, and insist that a worker that looks would have found it."""
        is_due = rounds.look(self.store, now=self.clock.now()).is_due
        changed = rounds.advance(self.store, now=self.clock.now())
        assert is_due or not changed
        return changed

    def claim(self, worker: str = "worker") -> rounds.Claim | None:
        is_due = rounds.look(self.store, now=self.clock.now()).is_due
        claim = rounds.claim(self.store, worker=worker, now=self.clock.now())
        assert is_due or claim is None
        return claim

    def must_claim(self, worker: str = "worker") -> rounds.Claim:
        claim = self.claim(worker)
        assert claim is not None
        return claim

    def release(
        self, claim: rounds.Claim, authority: KeyAuthority | None = None
    ) -> int | None:
        return release.release(
            self.store,
            self.blobs,
            self.compute,
            claim,
            authority=authority,
            on_progress=lambda _: None,
            now=self.clock.now,
        )

    def weights(self, number: int) -> Vector:
        """The weights of a version of the tiny model."""
        model, version = models.find_version(self.store, "tiny", number)
        body = self.blobs.get(version.weights_sha256)
        return np.array(encodings.decode_weights(model.manifest, body))

    def round(self, round_id: int) -> Round:
        return self.store.read(lambda tx: stored_rounds.peek(tx, round_id))

    # What is kept

    def rows(self) -> Rows:
        """Every row, but for what refusals may leave."""
        return without_traces(dump(self.store))

    def files(self) -> dict[str, bytes]:
        """Every file of the blob store by its name."""
        root = self.folder / "blobs"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }

    def state(self) -> tuple[Rows, dict[str, bytes]]:
        """All that a refused request must leave as it was."""
        return self.rows(), self.files()
