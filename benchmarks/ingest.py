"""How fast a coordinator takes in: ``python -m benchmarks.ingest``.

A coordinator with its own processes, SQLite and every write on the disk before it is
answered, beside the floor on the same server: a route that only inserts a row
(check-ins), and one that only reads a body into a file and waits for the disk
(updates). In turn, in blocks, from this process. The last two lines are the ratios.
"""

import contextlib
import dataclasses
import json
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Final
from urllib.parse import urlsplit

import httpx
import numpy as np
import typer

from benchmarks import floor
from benchmarks.load import Answered, Call, drive
from coordinator.protocol import digests, encodings, messages, paths
from coordinator.protocol.manifest import Manifest
from coordinator.protocol.operations import TaskRequest
from coordinator.protocol.plan_rounds import RoundPlan
from coordinator.protocol.plans import Plan
from device_sim.embedded import EmbeddedCoordinator
from device_sim.processes import free_port

_MODEL: Final = "cnn"
_HOST: Final = "127.0.0.1"
_READY_S: Final = 60.0
_LEAST_CHECK_INS: Final = 0.7
_LEAST_UPDATES: Final = 0.6
_JSON: Final = {"Content-Type": "application/json"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is asked."""

    devices: int
    blocks: int
    threads: int


def main(
    *,
    devices: Annotated[
        int, typer.Option(min=1, help="Check-ins and updates in each block.")
    ] = 100,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks, floor and real.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 16,
    check: Annotated[
        bool,
        typer.Option(
            help="Exit with status 1 below 0.7 for check-ins or 0.6 for updates."
        ),
    ] = False,
) -> None:
    """Measure check-ins and updates against a floor."""
    load = Load(devices=devices, blocks=blocks, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        check_ins, updates = _measure(pathlib.Path(folder), load)
    print(f"check-ins, ratio to the floor {check_ins:.2f}")
    print(f"updates,   ratio to the floor {updates:.2f}")
    if check and (check_ins < _LEAST_CHECK_INS or updates < _LEAST_UPDATES):
        raise typer.Exit(1)


def _measure(folder: pathlib.Path, load: Load) -> tuple[float, float]:
    """Return how many check-ins and updates there are to one of the floor."""
    rows, check_ins, bodies, updates = [], [], [], []
    with _bare(folder / "floor") as bare, _real(folder / "real") as real:
        for _ in range(load.blocks):
            row = Call(path=floor.ROW, body=_row(), headers=_JSON)
            rows.append(bare.drive([row] * load.devices, load.threads))
            tokens = real.enrol(load.devices)
            check_ins.append(real.check_in(tokens, load.threads))
            body = Call(path=floor.BODY, body=real.body)
            bodies.append(bare.drive([body] * load.devices, load.threads))
            updates.append(real.upload(tokens, check_ins[-1], load.threads))
        megabytes = len(real.body) / 1e6
    all_rows, all_check_ins = _total(rows), _total(check_ins)
    all_bodies, all_updates = _total(bodies), _total(updates)
    print(f"rows, the floor:    {all_rows}")
    print(f"check-ins:          {all_check_ins}")
    print(f"bodies, the floor:  {all_bodies}, {_rate(all_bodies, megabytes)}")
    print(f"updates:            {all_updates}, {_rate(all_updates, megabytes)}")
    return (
        all_check_ins.per_second / all_rows.per_second,
        all_updates.per_second / all_bodies.per_second,
    )


def _total(blocks: Sequence[Answered]) -> Answered:
    total, *others = blocks
    for block in others:
        total += block
    return total


def _rate(answered: Answered, megabytes: float) -> str:
    return f"{answered.per_second * megabytes:.0f} MB/s"


def _row() -> bytes:
    return json.dumps({"device": secrets.token_hex(16), "wait_s": 0}).encode()


class _Server:
    """A server, and calls on it."""

    def __init__(self, port: int) -> None:
        self._address = (_HOST, port)

    def drive(self, calls: Sequence[Call], threads: int) -> Answered:
        return drive(self._address, calls, threads=threads)


class _Coordinator(_Server):
    """A coordinator with a task that never has enough."""

    def __init__(self, embedded: EmbeddedCoordinator) -> None:
        super().__init__(int(urlsplit(embedded.url).port or 0))
        manifest = Manifest.model_validate_json(
            httpx.get(embedded.url + paths.manifest(_MODEL), trust_env=False).content
        )
        endless = RoundPlan(
            goal=100_000, minimum=100_000, lease_s=86_400, deadline_s=604_800
        )
        request = TaskRequest(
            id="ingest", plan=Plan(model=_MODEL, rounds=1, round=endless)
        )
        self._post(paths.TASKS, request.model_dump_json(), embedded.operator_token())
        self.body = encodings.encode_update(
            manifest,
            encodings.Update(
                delta=np.random.default_rng(0).standard_normal(
                    manifest.trainable_size, dtype=np.float32
                ),
                examples=100,
                train_loss=1.0,
                train_accuracy=0.5,
            ),
        )
        self._digest = digests.content_digest(digests.sha256_hex(self.body))

    def enrol(self, count: int) -> list[str]:
        """Return the tokens of new devices."""
        call = Call(path=paths.DEVICES, body=b"{}", headers=_JSON)
        bodies = self.drive([call] * count, 4).bodies
        return [
            str(messages.Enrolment.model_validate_json(body).token) for body in bodies
        ]

    def check_in(self, tokens: Sequence[str], threads: int) -> Answered:
        """Let every device take a place."""
        calls = [
            Call(
                path=paths.CHECK_INS,
                body=b'{"wait_s":0}',
                headers=_bearer(token)
                | _JSON
                | {"Idempotency-Key": secrets.token_hex(16)},
            )
            for token in tokens
        ]
        return self.drive(calls, threads)

    def upload(
        self, tokens: Sequence[str], check_ins: Answered, threads: int
    ) -> Answered:
        """Let every device report on the place that it took."""
        calls = []
        for token, body in zip(tokens, check_ins.bodies, strict=True):
            assignment = messages.CheckIn.model_validate_json(body).assignment
            if assignment is None:
                raise RuntimeError(f"a device got no place: {body!r}")
            calls.append(
                Call(
                    path=paths.update(assignment.id),
                    body=self.body,
                    headers=_bearer(token) | {"Content-Digest": self._digest},
                )
            )
        return self.drive(calls, threads)

    def _post(self, path: str, body: str, token: str) -> None:
        headers = _bearer(token) | _JSON
        self.drive([Call(path=path, body=body.encode(), headers=headers)], 1)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextlib.contextmanager
def _bare(folder: pathlib.Path) -> Iterator[_Server]:
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(  # noqa: S603 - arguments of our own
        [sys.executable, "-m", "benchmarks.floor", str(port), str(folder)]
    )
    try:
        _wait_for(f"http://{_HOST}:{port}{floor.READY}")
        yield _Server(port)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _real(folder: pathlib.Path) -> Iterator[_Coordinator]:
    embedded = EmbeddedCoordinator(folder, durable=True)
    embedded.start()
    try:
        _wait_for(embedded.url + paths.READY)
        yield _Coordinator(embedded)
    finally:
        embedded.stop()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).is_success:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not ready after {_READY_S:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    typer.run(main)
