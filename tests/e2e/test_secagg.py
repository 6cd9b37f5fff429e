"""Secure aggregation with real processes: devices vanish, processes are killed.

What is in the sum is exact, and nothing that lies on the coordinator's disk or in its
log tells an update.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence

import httpx
import numpy as np
import pytest

from coordinator.clock import SystemClock
from coordinator.protocol import digests, encodings, paths
from coordinator.protocol.manifest import Manifest, Record, Vector
from coordinator.protocol.messages import CheckIn
from coordinator.protocol.secagg import device, session, summands
from coordinator.protocol.secagg.messages import (
    InboxAnswer,
    RosterAnswer,
    SurvivorsAnswer,
)
from coordinator.protocol.secagg.scrutiny import Policy
from coordinator.store.engine import Store
from coordinator.usecases import tasks
from tests.support.processes import (
    Coordinator,
    FixedDevice,
    fixed_update,
    wait_until,
    write_wide_model,
)
from tests.support.transcripts import all_that_is_kept, insist_update_absent

pytestmark = [pytest.mark.slow, pytest.mark.tf]
DEVICES = 40
VANISH = 4  # at each of the three steps
SIZE = 1000
CLIP = 64.0
TASK = "secure"
PLAN = {
    "model": "wide",
    "rounds": 1,
    "round": {"goal": DEVICES, "minimum": 20, "deadline_s": 120},
    "secagg": {
        "clip_norm": CLIP,
        "max_examples": 30,
        "dropout": 0.3,
        "cohort_minimum": 20,
        "step_s": 12,  # an API that was killed starts again in much less
    },
}


class Phone(FixedDevice):
    """A device that takes the steps one by one, over HTTP."""

    def train(self) -> None:
        """Get an assignment, and make keys for its round."""
        answer = CheckIn.model_validate_json(self.check_in().content)
        assert answer.assignment is not None
        assert answer.assignment.secagg is not None
        self.assignment = answer.assignment
        self.steps = answer.assignment.secagg.path
        update, examples = fixed_update(self._number, 1, SIZE)
        self.delta: Vector = update
        self.report_ = encodings.Report(
            examples=examples, train_loss=1.0, train_accuracy=0.5
        )
        self.state = device.join(
            session.session_of(self.assignment), self.device_id, None
        )

    def join(self) -> None:
        self._post("announcement", self.state.announcement)

    def deal(self) -> None:
        told = RosterAnswer.model_validate_json(self._ask("roster")).roster
        assert told is not None
        self.state, dealing = device.deal(self.state, told, Policy())
        self._post("dealing", dealing)

    def send(self) -> None:
        found = InboxAnswer.model_validate_json(self._ask("inbox")).inbox
        assert found is not None
        assert self.state.roster is not None
        self.encoding = self.state.roster.manifest.encoding
        self.vector = summands.encode(
            self.delta, self.report_, self.encoding, key=bytes(32)
        )
        self.state, self.masked = device.mask(self.state, found, self.vector)
        sha256 = digests.sha256_hex(self.masked)
        fields = {"Content-Digest": digests.content_digest(sha256)}
        self._send(
            "POST",
            self.assignment.report_to,
            headers=self.headers | fields,
            content=self.masked,
        ).raise_for_status()

    def reveal(self) -> bool:
        """Reveal, unless the round waits for no more shares."""
        asked = self._send(
            "GET", f"{self.steps}/survivors?wait_s=20", headers=self.headers
        )
        if asked.status_code == 409:
            assert "takes no question" in asked.text
            return False
        told = SurvivorsAnswer.model_validate_json(asked.content).survivors
        assert told is not None
        self.state, reveal = device.reveal(self.state, told, Policy())
        answer = self._send(
            "POST",
            f"{self.steps}/reveal",
            headers=self.headers | {"Content-Type": "application/json"},
            content=reveal.model_dump_json(),
        )
        return answer.status_code == 204

    def _ask(self, step: str) -> bytes:
        answer = self._send(
            "GET", f"{self.steps}/{step}?wait_s=20", headers=self.headers
        )
        answer.raise_for_status()
        return answer.content

    def _post(self, step: str, content: Record) -> None:
        self._send(
            "POST",
            f"{self.steps}/{step}",
            headers=self.headers | {"Content-Type": "application/json"},
            content=content.model_dump_json(exclude_none=True),
        ).raise_for_status()


@pytest.fixture
def coordinator(
    tmp_path: pathlib.Path, empty_database_url: str
) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", SIZE)
    running = Coordinator(
        tmp_path,
        database_url=empty_database_url,
        models_dir=tmp_path / "models",
        settings={"SHOAL_LOG_LEVEL": "debug"},
    )
    running.start("api")
    running.start("worker")
    wait_until(lambda: "computes with" in running.log, "the worker")
    yield running
    running.stop()


def gather(coordinator: Coordinator, manifest: Manifest) -> list[Phone]:
    httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": TASK, "plan": PLAN},
    ).raise_for_status()
    phones = [Phone(coordinator.url, n, manifest) for n in range(DEVICES)]
    for phone in phones:
        phone.train()
        phone.join()
    return phones


def take(
    step: Callable[[Phone], object],
    phones: Sequence[Phone],
    coordinator: Coordinator,
    role: str,
) -> None:
    """Let devices take a step, and kill a process in the middle of it."""
    half = len(phones) // 2
    for phone in phones[:half]:
        step(phone)
    coordinator.kill(role)
    coordinator.start(role)
    for phone in phones[half:]:
        step(phone)


def test_a_third_vanishes_processes_are_killed_and_the_sum_is_exact(
    coordinator: Coordinator, tmp_path: pathlib.Path, empty_database_url: str
) -> None:
    manifest = write_wide_model(tmp_path / "again", SIZE)
    phones = gather(coordinator, manifest)
    take(Phone.deal, phones[VANISH:], coordinator, "api")
    take(Phone.send, phones[2 * VANISH :], coordinator, "worker")
    kept = all_masked_is_kept(coordinator, empty_database_url)
    take(Phone.reveal, phones[3 * VANISH :], coordinator, "api")
    wait_until(
        lambda: coordinator.get(paths.task(TASK))["status"] == "finished", "the round"
    )
    counted = phones[2 * VANISH :]
    weights = np.array([min(phone.report_.examples, 30) / 30 for phone in counted])
    deltas = np.stack([phone.delta for phone in counted]).astype(np.float64)
    expected = weights @ deltas / weights.sum()
    before, after = (
        np.array(
            encodings.decode_weights(
                manifest, httpx.get(coordinator.url + paths.weights("wide", n)).content
            )
        )
        for n in (0, 1)
    )
    # The sum is exact: what is left is the rounding of each device, and of float32.
    np.testing.assert_allclose(after - before, expected, rtol=0, atol=2e-5)
    assert coordinator.run("doctor").returncode == 0
    insist_nothing_is_told(kept, counted)
    for phone in phones:
        phone.close()


def all_masked_is_kept(coordinator: Coordinator, database_url: str) -> bytes:
    """Return all that is stored or logged while all masked vectors are there."""
    store = Store(database_url, durable=False)
    wait_until(lambda: step_of(store) == "unmasking", "the masked vectors")
    kept = all_that_is_kept(coordinator, store)
    store.close()
    return kept


def insist_nothing_is_told(kept: bytes, phones: Sequence[Phone]) -> None:
    for phone in phones:
        assert phone.masked in kept, "what is searched holds what was sent"
        insist_update_absent(phone.delta, phone.vector, kept)
    insist_uniform(b"".join(phone.masked for phone in phones))


def insist_uniform(masked: bytes) -> None:
    """Check by chi-square that masked bytes look like any bytes: 255 degrees."""
    counts = np.bincount(np.frombuffer(masked, np.uint8), minlength=256)
    expected = len(masked) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400  # p = 1.4e-8


def step_of(store: Store) -> str:
    (view, *_) = tasks.look(store, task_id=TASK, now=SystemClock().now()).open_rounds
    return str(view.round.phase)
