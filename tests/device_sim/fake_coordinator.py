"""A coordinator of one task, in memory, behind httpx's mock transport."""

import dataclasses
import datetime as dt
import itertools
import json
import pathlib
import uuid

import httpx
import numpy as np

from coordinator.protocol import digests, encodings, paths, problems
from coordinator.protocol.manifest import Manifest
from coordinator.protocol.messages import (
    Assignment,
    CheckIn,
    Download,
    Enrolment,
    EvaluationReceipt,
    EvaluationReport,
    FailureReceipt,
    FailureReport,
    Receipt,
)
from coordinator.protocol.operations import RoundState, TaskState
from coordinator.protocol.plan_training import TrainingPlan, UpdatePlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind, WaitReason

ARTEFACTS = pathlib.Path(__file__).parents[2] / "tflite_models" / "artefacts" / "cnn"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@dataclasses.dataclass(kw_only=True)
class FakeCoordinator:
    """Hands every device one assignment a round, and remembers what it was sent."""

    rounds: int = 1
    kind: Kind = Kind.TRAIN
    plan: TrainingPlan = dataclasses.field(
        default_factory=lambda: TrainingPlan(batch_size=4, learning_rate=0.05)
    )
    personalization: TrainingPlan | None = None  #: asked for with kind evaluate
    update: UpdatePlan = dataclasses.field(default_factory=UpdatePlan)
    goal: int | None = None  #: updates that open the next round; None: ever a next one
    is_forgiving: bool = False  #: whether who gave up may try again
    refuse_reports_with: problems.ProblemType | None = None
    corrupt: bool = False  #: whether downloads have a wrong byte

    def __post_init__(self) -> None:
        self.manifest_bytes = (ARTEFACTS / "manifest.json").read_bytes()
        self.manifest = Manifest.model_validate_json(self.manifest_bytes)
        weights = np.random.default_rng(5).normal(0, 0.05, self.manifest.size)
        self.weights = encodings.encode_weights(
            self.manifest, weights.astype(np.float32)
        )
        self.files = {
            paths.manifest("cnn"): self.manifest_bytes,
            paths.train_graph("cnn"): (ARTEFACTS / "train.tflite").read_bytes(),
            paths.weights("cnn", 0): self.weights,
        }
        self.names: dict[str, str] = {}  #: by token
        self.by_key: dict[tuple[str, str], Assignment] = {}
        self.taken: dict[str, int] = {}  #: assignments a device was given
        self.updates: list[tuple[str, int, bytes]] = []  #: name, round, body
        self.evaluations: list[EvaluationReport] = []
        self.failures: list[FailureReport] = []
        self.downloads: list[str] = []
        self._reports: dict[str, bytes] = {}
        self._ids = itertools.count(1)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url="http://coordinator.test",
            transport=httpx.MockTransport(self._answer),
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == paths.DEVICES:
            token = uuid.uuid4().hex
            self.names[token] = json.loads(request.content)["name"]
            record = Enrolment(device_id=uuid.uuid4().hex, token=token)
        elif path == paths.CHECK_INS:
            record = self._check_in(_token(request), request.headers["Idempotency-Key"])
        elif path in self.files:
            self.downloads.append(path)
            content = self.files[path]
            if self.corrupt:
                content = content[:-1] + bytes([content[-1] ^ 1])
            return httpx.Response(200, content=content)
        else:
            return self._report(request)
        return httpx.Response(200, content=record.model_dump_json())

    def _check_in(self, token: str, key: str) -> CheckIn:
        name = self.names[token]
        known = self.by_key.get((token, key))
        if known is None and self.goal is not None:
            if self.is_finished or self.taken.get(name) == self.open_round:
                return CheckIn(
                    assignment=None,
                    wait_reason=WaitReason.NO_OPEN_ROUND,
                    retry_after_s=60.0,
                )
            self.taken[name] = self.open_round
            known = self._assignment(self.open_round)
            self.by_key[token, key] = known
        elif known is None:
            self.taken[name] = self.taken.get(name, 0) + 1
            if self.taken[name] > self.rounds:
                return CheckIn(
                    assignment=None,
                    wait_reason=WaitReason.TASKS_ENDED,
                    retry_after_s=1.0,
                )
            known = self._assignment(self.taken[name])
            self.by_key[token, key] = known
        return CheckIn(assignment=known, wait_reason=None, retry_after_s=None)

    @property
    def open_round(self) -> int:
        """With a goal: the round that is open."""
        assert self.goal is not None
        return len(self.updates) // self.goal + 1

    @property
    def is_finished(self) -> bool:
        return self.open_round > self.rounds

    async def state(self) -> TaskState:
        """With a goal: what an operator is told."""
        return TaskState(
            id="fake",
            status="finished" if self.is_finished else "running",
            reason=None,
            plan=Plan(),
            version=0,
            rounds_committed=self.open_round - 1,
            created_at=NOW,
            open_rounds=()
            if self.is_finished
            else (round_of(Kind.TRAIN, self.open_round),),
        )

    def _assignment(self, number: int) -> Assignment:
        name = f"{next(self._ids):032x}"
        is_training = self.kind is Kind.TRAIN
        return Assignment(
            id=name,
            kind=self.kind,
            task="fake",
            round=number,
            attempt=1,
            model="cnn",
            version=0,
            seed=7,
            training=self.plan if is_training else None,
            personalization=self.personalization,
            encoding=self.update.encoding,
            topk_share=self.update.topk_share,
            error_feedback=self.update.error_feedback,
            manifest=self._download(paths.manifest("cnn")),
            train_graph=self._download(paths.train_graph("cnn")),
            weights=self._download(paths.weights("cnn", 0)),
            report_to=(paths.update if is_training else paths.evaluation)(name),
            failure_to=paths.failure(name),
            lease_expires_at=NOW + dt.timedelta(seconds=60),
            lease_s=60,
            max_report_bytes=encodings.max_update_bytes(self.manifest),
        )

    def _download(self, url: str) -> Download:
        content = self.files[url]
        return Download(
            url=url, sha256=digests.sha256_hex(content), size_bytes=len(content)
        )

    def _report(self, request: httpx.Request) -> httpx.Response:
        _, _, _, assignment, what = request.url.path.split("/")
        body = request.content
        if what == "failure":
            self.failures.append(FailureReport.model_validate_json(body))
            if self.is_forgiving:
                self.taken.pop(self.names[_token(request)])
            record = FailureReceipt(assignment=assignment, ended_at=NOW)
            return httpx.Response(200, content=record.model_dump_json())
        if self.refuse_reports_with is not None:
            kind = self.refuse_reports_with
            return httpx.Response(int(kind.status), json=problems.document(kind))
        if what == "evaluation":
            self.evaluations.append(EvaluationReport.model_validate_json(body))
            record = EvaluationReceipt(assignment=assignment, accepted_at=NOW)
            return httpx.Response(200, content=record.model_dump_json())
        return self._accept(request, assignment, body)

    def _accept(
        self, request: httpx.Request, assignment: str, body: bytes
    ) -> httpx.Response:
        sha256 = digests.sha256_hex(body)
        assert digests.parse_content_digest(request.headers[digests.FIELD]) == sha256
        update = encodings.decode_update(
            self.manifest, body, max_examples=self.plan.max_examples
        )
        if self._reports.setdefault(assignment, body) is body:
            given = next(a for a in self.by_key.values() if a.id == assignment)
            self.updates.append((self.names[_token(request)], given.round, body))
        assert self._reports[assignment] == body, "another body for one assignment"
        record = Receipt(
            assignment=assignment,
            sha256=sha256,
            size_bytes=len(body),
            examples=update.examples,
            accepted_at=NOW,
        )
        return httpx.Response(200, content=record.model_dump_json())


def round_of(kind: Kind, number: int, attempt: int = 1) -> RoundState:
    return RoundState(
        id=1,
        task="fake",
        kind=kind,
        number=number,
        attempt=attempt,
        phase="collecting",
        base_version=0,
        result_version=None,
        goal=2,
        minimum=1,
        places=2,
        assigned=0,
        reported=0,
        accepted=0,
        failed=0,
        lapsed=0,
        bytes_up=0,
        examples=0,
        train_loss=None,
        train_accuracy=None,
        opened_at=NOW,
        deadline=NOW,
        closed_at=None,
        reason=None,
    )


def _token(request: httpx.Request) -> str:
    return request.headers["Authorization"].removeprefix("Bearer ")
