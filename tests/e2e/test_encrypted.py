"""Encrypted results with real processes: a worker and the authority are killed.

The sum is exact, and nothing that lies with the coordinator tells an update: neither
in the clear, nor by a secret key.
"""

import pathlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from coordinator.protocol import digests, encodings, paths
from coordinator.protocol.he import bfv, parameters
from coordinator.protocol.he.messages import KeyAnswer, seal
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.protocol.messages import CheckIn, EnrolRequest
from coordinator.protocol.secagg import session, summands
from coordinator.store.engine import Store
from device_sim import identity
from device_sim.embedded_authority import read_public_key
from tests.support.processes import (
    ROOT,
    Coordinator,
    fixed_update,
    free_port,
    wait_until,
    write_wide_model,
)
from tests.support.transcripts import (
    all_that_is_kept,
    insist_absent,
    insist_update_absent,
)

pytestmark = [pytest.mark.slow, pytest.mark.tf]
DEVICES = 50
SIZE = 9000  # two ciphertexts
CLIP = 256.0
TASK = "encrypted"
PLAN = {
    "model": "wide",
    "rounds": 1,
    "round": {"goal": DEVICES, "minimum": 20, "deadline_s": 120},
    "he": {"clip_norm": CLIP, "max_examples": 30, "minimum": 20},
}


class Authority:
    """A key authority in a process of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "coordinator", "key-authority"]
        self._process = subprocess.Popen(
            [*command, "--data", str(self.folder), "--port", str(self.port)], cwd=ROOT
        )
        wait_until(self._answers, "the authority")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def settings(self) -> dict[str, str]:
        token = (self.folder / "coordinator.token").read_text().strip()
        return {"SHOAL_AUTHORITY_URL": self.url, "SHOAL_AUTHORITY_TOKEN": token}

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).is_success
        except httpx.TransportError:
            return False


class Phone:
    """A device with a key, which encrypts what it has."""

    def __init__(self, url: str, number: int) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self._signer = identity.Signer(identity.new_key())
        request = EnrolRequest(
            name=f"phone {number}", public_key=self._signer.key.spki
        ).model_dump_json(exclude_none=True)
        proof = self._signer.fields("POST", paths.DEVICES, {}, request.encode())
        enrolled = self._post(paths.DEVICES, request.encode(), proof).json()
        self._headers = {"Authorization": f"Bearer {enrolled['token']}"}
        delta, self.examples = fixed_update(number, 1, SIZE)
        self.delta: Vector = delta

    def train(self) -> None:
        key = {"Idempotency-Key": self._signer.key.id[:32]}
        answer = self._post(paths.CHECK_INS, b'{"wait_s": 5}', self._headers | key)
        assignment = CheckIn.model_validate_json(answer.content).assignment
        assert assignment is not None
        self.assignment = assignment

    def encrypt(self, authority: bytes) -> None:
        terms = self.assignment.encryption
        assert terms is not None
        asked = self._http.get(f"{terms.path}?wait_s=20", headers=self._headers)
        answer = KeyAnswer.model_validate_json(asked.content)
        assert answer.key is not None
        assert answer.encoding is not None
        assert answer.public is not None
        statement = answer.key.insist_for(
            session.session_of(self.assignment), answer.encoding, authority
        )
        public = self._http.get(answer.public.url)
        assert digests.sha256_hex(public.content) == statement.public_sha256
        report = encodings.Report(
            examples=self.examples, train_loss=1.0, train_accuracy=0.5
        )
        self.vector = summands.encode(
            self.delta, report, answer.encoding, key=bytes(32)
        )
        ciphertext = bfv.encrypt(public.content, parameters.to_residues(self.vector))
        self.body = seal(ciphertext, statement, self._signer.private)

    def send(self, body: bytes | None = None) -> httpx.Response:
        content = self.body if body is None else body
        sha256 = digests.sha256_hex(content)
        fields = {"Content-Digest": digests.content_digest(sha256)}
        return self._http.post(
            self.assignment.report_to, headers=self._headers | fields, content=content
        )

    def close(self) -> None:
        self._http.close()

    def _post(
        self, path: str, content: bytes, headers: dict[str, str]
    ) -> httpx.Response:
        fields = headers | {"Content-Type": "application/json"}
        answer = self._http.post(path, headers=fields, content=content)
        answer.raise_for_status()
        return answer


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> Iterator[Authority]:
    running = Authority(tmp_path / "elsewhere")
    yield running
    running.kill()


@pytest.fixture
def coordinator(
    tmp_path: pathlib.Path, empty_database_url: str, authority: Authority
) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", SIZE)
    running = Coordinator(
        tmp_path,
        database_url=empty_database_url,
        models_dir=tmp_path / "models",
        settings={"SHOAL_LOG_LEVEL": "debug"} | authority.settings(),
    )
    running.start("api")
    running.start("worker")
    wait_until(lambda: "computes with" in running.log, "the worker")
    yield running
    running.stop()


def test_fifty_devices_are_summed_exactly_and_none_is_told(
    coordinator: Coordinator,
    authority: Authority,
    tmp_path: pathlib.Path,
    empty_database_url: str,
) -> None:
    manifest = write_wide_model(tmp_path / "again", SIZE)
    httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": TASK, "plan": PLAN},
    ).raise_for_status()
    phones = [Phone(coordinator.url, number) for number in range(DEVICES)]
    trusted = read_public_key(authority.folder / "authority.pub")
    for phone in phones:
        phone.train()
        phone.encrypt(trusted)
    insist_strangers_are_refused(phones)
    authority.kill()  # the sum has to wait for it
    coordinator.kill("worker")
    for phone in phones:
        assert phone.send().status_code == 200
    assert phones[0].send().status_code == 200, "the same again"
    coordinator.start("worker")
    wait_until(lambda: "key authority does not answer" in coordinator.log, "a try")
    store = Store(empty_database_url, durable=False)
    kept = all_that_is_kept(coordinator, store)
    store.close()
    insist_secret_is_elsewhere(kept, authority)
    coordinator.kill("worker")
    authority.start()
    coordinator.start("worker")
    wait_until(
        lambda: coordinator.get(paths.task(TASK))["status"] == "finished", "the round"
    )
    np.testing.assert_allclose(
        step_of(coordinator, manifest), expected(phones), rtol=0, atol=2e-4
    )
    insist_nothing_is_told(kept, phones)
    assert coordinator.run("doctor").returncode == 0
    for phone in phones:
        phone.close()


def insist_strangers_are_refused(phones: list[Phone]) -> None:
    """Send what is another's, cut short, or no ciphertext at all."""
    first, second = phones[:2]
    flipped = bytearray(first.body)
    flipped[500] ^= 1
    for bad in (second.body, b"", b"x" * 100, bytes(flipped)):
        answer = first.send(bad)
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"].endswith("wrong-ciphertext")
    too_long = first.send(first.body + bytes(100_000))
    assert too_long.status_code == 413


def step_of(coordinator: Coordinator, manifest: Manifest) -> Vector:
    """What the round has changed, shape (SIZE,)."""
    before, after = (
        encodings.decode_weights(
            manifest, httpx.get(coordinator.url + paths.weights("wide", n)).content
        )
        for n in (0, 1)
    )
    return np.asarray(after - before)


def expected(phones: list[Phone]) -> np.ndarray:
    weights = np.array([min(phone.examples, 30) / 30 for phone in phones])
    deltas = np.stack([phone.delta for phone in phones]).astype(np.float64)
    return np.asarray(weights @ deltas / weights.sum())


def insist_secret_is_elsewhere(kept: bytes, authority: Authority) -> None:
    """Search for the secret key of the round, which only the authority has."""
    with sqlite3.connect(authority.folder / "authority.db") as database:
        ((secret,),) = database.execute("SELECT secret FROM keys").fetchall()
    for start in range(1000, len(secret) - 16, 10_000):
        insist_absent(secret[start : start + 16], kept)


def insist_nothing_is_told(kept: bytes, phones: list[Phone]) -> None:
    for phone in phones:
        assert phone.body in kept, "what is searched holds what was sent"
        residues = parameters.to_residues(phone.vector).tobytes()
        insist_update_absent(phone.delta, phone.vector, kept, residues)
