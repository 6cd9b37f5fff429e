"""Real coordinator processes, and devices that talk to them over HTTP."""

import datetime as dt
import os
import pathlib
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import numpy as np

from coordinator.clock import SystemClock
from coordinator.protocol import digests, encodings, paths
from coordinator.protocol.manifest import (
    Artefact,
    Initializer,
    Manifest,
    Patch,
    TensorSpec,
    Vector,
)
from coordinator.protocol.messages import Receipt

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE_S = 120.0
_COMMANDS = {
    "api": ("serve", "--no-worker"),
    "worker": ("worker",),
    "serve": ("serve",),
}


def wait_until(
    condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S
) -> None:
    """Look until ``condition`` holds; the one place where tests wait for processes."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s} s in vain for {what}")
        time.sleep(0.002)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write_wide_model(root: pathlib.Path, size: int) -> Manifest:
    """Write a model of one tensor with ``size`` parameters and stand-in graphs."""
    train, infer = b"a training graph", bytes(4 * size)
    manifest = Manifest(
        model="wide",
        description="one wide tensor",
        input_shape=(1,),
        classes=2,
        tensors=(
            TensorSpec(
                name="wide",
                shape=(size,),
                offset=0,
                trainable=True,
                initializer=Initializer(
                    kind="glorot_uniform", fan_in=size, fan_out=size
                ),
            ),
        ),
        signatures={},
        train=Artefact(
            file="train.tflite",
            size_bytes=len(train),
            sha256=digests.sha256_hex(train),
        ),
        infer=Artefact(
            file="model.tflite",
            size_bytes=len(infer),
            sha256=digests.sha256_hex(infer),
        ),
        patches=(Patch(tensor="wide", file_offset=0, axes=(0,)),),
    )
    folder = root / "wide"
    folder.mkdir(parents=True)
    (folder / "train.tflite").write_bytes(train)
    (folder / "model.tflite").write_bytes(infer)
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return manifest


class Coordinator:
    """API and worker as processes of their own, to be started and killed apart."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        database_url: str | None,
        models_dir: pathlib.Path,
        data_dir: pathlib.Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir or folder / "data"
        self._log = folder / "coordinator.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "SHOAL_DATA_DIR": str(self.data_dir),
            "SHOAL_PORT": str(self.port),
            "SHOAL_MODELS_DIR": str(models_dir),
            **(settings or {}),
        }
        if database_url is not None:
            self._environment["SHOAL_DATABASE_URL"] = database_url

    def start(self, role: str) -> None:
        """Start ``api``, ``worker``, or ``serve``: an API that keeps a worker.

        The last is not waited for, and leads a process group.
        """
        with self._log.open("ab") as log:
            self._processes[role] = subprocess.Popen(
                [sys.executable, "-m", "coordinator", *_COMMANDS[role]],
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                process_group=0 if role == "serve" else None,
            )
        if role == "api":
            wait_until(self._has_come, "the API")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the operator to its end."""
        return subprocess.run(
            [sys.executable, "-m", "coordinator", *arguments],
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def runs(self, role: str) -> bool:
        """Whether ``role`` was started and was not ended from here."""
        return role in self._processes

    def pid(self, role: str) -> int:
        """Process id of what was started as ``role``."""
        return self._processes[role].pid

    def kill(self, role: str) -> None:
        """Kill without a word: SIGKILL."""
        process = self._processes.pop(role)
        process.kill()
        process.wait()

    def ask_to_stop(self, role: str) -> subprocess.Popen[bytes]:
        """Send SIGTERM. Returns the process, to be waited for."""
        process = self._processes.pop(role)
        process.terminate()
        return process

    def stop(self) -> None:
        """Ask every process to end, and wait for it."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(timeout=PATIENCE_S)
        self._processes.clear()

    def _has_come(self) -> bool:
        if self._processes["api"].poll() is not None:
            raise AssertionError(f"the API ended at its start: {self.log}")
        return self.is_alive()

    def is_alive(self) -> bool:
        """Whether the API answers."""
        try:
            return httpx.get(self.url + paths.HEALTH).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def operator(self) -> dict[str, str]:
        """Header fields of the operator."""
        token = (self.data_dir / "operator.token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> dict[str, Any]:
        """What the operator reads at ``path``."""
        response = httpx.get(self.url + path, headers=self.operator)
        response.raise_for_status()
        content: dict[str, Any] = response.json()
        return content

    @property
    def log(self) -> str:
        """Everything the processes have logged."""
        return self._log.read_text()


def fixed_update(number: int, round_number: int, size: int) -> tuple[Vector, int]:
    """What device ``number`` trains in a round: a delta and a count of examples."""
    rng = np.random.default_rng([number, round_number])
    return rng.standard_normal(size, dtype=np.float32), 1 + number


class FixedDevice:
    """A device whose delta is a function of (its number, round) and nothing else."""

    def __init__(self, url: str, number: int, manifest: Manifest) -> None:
        self.under_way: str | None = None  #: the path of a request without an answer
        #: when the latest request failed on its way, before it was sent again
        self.failed_at: dt.datetime | None = None
        self.refusals: list[str] = []  #: of its updates, as they were answered
        self._client = httpx.Client(base_url=url, timeout=30, verify=False)  # noqa: S501 - loopback
        self._number = number
        self._manifest = manifest
        enrolment = self._send("POST", paths.DEVICES, json={"name": f"{number}"})
        self.device_id: str = enrolment.json()["device_id"]
        token = enrolment.json()["token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    def check_in(self) -> httpx.Response:
        """Ask for work once, and wait for up to five seconds."""
        return self._send(
            "POST",
            paths.CHECK_INS,
            headers=self.headers | {"Idempotency-Key": uuid.uuid4().hex},
            json={"wait_s": 5},
        )

    def take_part(self) -> tuple[int, Receipt] | None:
        """Check in until there is work, then send this round's update.

        Returns:
            The round's number and the receipt; none where no work is to be had.
        """
        while True:
            answer = self.check_in().json()
            assignment = answer.get("assignment")
            if assignment is None:
                if answer.get("wait_reason") in {"tasks_ended", "already_reported"}:
                    return None
                continue
            response = self.report(assignment)
            if response.status_code == 200:
                receipt = Receipt.model_validate_json(response.content)
                return assignment["round"], receipt
            self.refusals.append(response.text)

    def report(self, assignment: Mapping[str, Any]) -> httpx.Response:
        """Send the update of an assignment, until there is an answer below 500."""
        body = self.body(assignment["round"])
        digest = digests.content_digest(digests.sha256_hex(body))
        return self._send(
            "POST",
            assignment["report_to"],
            headers=self.headers | {"Content-Digest": digest},
            content=body,
        )

    def take_a_place(self) -> None:
        """Check in until there is work, and vanish with it."""
        for _ in range(100):
            answer = self.check_in().json()
            if answer.get("assignment") is not None:
                return
        raise AssertionError(answer)

    def close(self) -> None:
        """Close the device's connections."""
        self._client.close()

    def body(self, round_number: int) -> bytes:
        """The update of a round, the same whenever it is asked for."""
        delta, examples = fixed_update(
            self._number, round_number, self._manifest.trainable_size
        )
        return encodings.encode_update(
            self._manifest,
            encodings.Update(
                delta=delta,
                examples=examples,
                train_loss=1.0,
                train_accuracy=0.5,
            ),
        )

    def _send(self, method: str, path: str, **options: object) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_S
        self.under_way, self.failed_at = path, None
        while True:
            try:
                response = self._client.request(method, path, **options)
            except httpx.TransportError:
                self.failed_at = SystemClock().now()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            if response.status_code < 500:
                self.under_way = None
                return response
            time.sleep(0.05)
