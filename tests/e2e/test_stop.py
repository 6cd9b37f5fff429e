"""SIGTERM: what has begun is finished, and nothing new is begun."""

import json
import pathlib
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from coordinator.protocol import digests, paths
from tests.support.processes import (
    PATIENCE_S,
    Coordinator,
    FixedDevice,
    wait_until,
    write_wide_model,
)

SIZE = 500_000


@pytest.fixture
def stop_s() -> str:
    return "30"


@pytest.fixture
def coordinator(tmp_path: pathlib.Path, stop_s: str) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", SIZE)
    running = Coordinator(
        tmp_path,
        database_url=None,
        models_dir=tmp_path / "models",
        settings={"SHOAL_STOP_S": stop_s},
    )
    running.start("api")
    httpx.post(
        running.url + paths.TASKS,
        headers=running.operator,
        json={
            "id": "task",
            "plan": {"model": "wide", "round": {"goal": 2, "minimum": 1}},
        },
    ).raise_for_status()
    yield running
    running.stop()


class HalfSent:
    """An update of which one half has been sent."""

    def __init__(self, coordinator: Coordinator, tmp_path: pathlib.Path) -> None:
        manifest = write_wide_model(tmp_path / "again", SIZE)
        device = FixedDevice(coordinator.url, 1, manifest)
        answer = device.check_in().json()
        self.assignment: dict[str, Any] = answer["assignment"]
        self.body = device.body(1)
        self.sha256 = digests.sha256_hex(self.body)
        device.close()
        fields = {
            "Host": "coordinator",
            "Content-Length": str(len(self.body)),
            "Content-Digest": digests.content_digest(self.sha256),
            **device.headers,
        }
        head = f"POST {self.assignment['report_to']} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in fields.items()
        )
        self._middle = len(self.body) // 2
        self._socket = socket.create_connection(("127.0.0.1", coordinator.port))
        self._socket.settimeout(PATIENCE_S)
        self._socket.sendall(head.encode() + b"\r\n" + self.body[: self._middle])
        incoming = coordinator.data_dir / "blobs" / "incoming"
        wait_until(
            lambda: sum(f.stat().st_size for f in incoming.iterdir()) == self._middle,
            "half of an update",
        )

    def send_the_rest(self) -> tuple[int, dict[str, Any]]:
        """Send the other half. Returns status and body of the answer."""
        self._socket.sendall(self.body[self._middle :])
        received = b""
        while chunk := self._socket.recv(1 << 16):
            received += chunk
        self._socket.close()
        head, _, content = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(content)

    def wait_for_the_end(self) -> bytes:
        """Return what comes until the coordinator hangs up."""
        received = b""
        try:
            while chunk := self._socket.recv(1 << 16):
                received += chunk
        except ConnectionResetError:
            pass
        self._socket.close()
        return received


def test_an_upload_under_way_gets_its_receipt(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    upload = HalfSent(coordinator, tmp_path)
    api = coordinator.ask_to_stop("api")
    wait_until(lambda: not coordinator.is_alive(), "the API to take nothing new")
    assert api.poll() is None

    status, receipt = upload.send_the_rest()

    assert (status, receipt["sha256"]) == (200, upload.sha256)
    assert api.wait(PATIENCE_S) == 0
    coordinator.start("api")
    (round_,) = coordinator.get(paths.rounds("task"))["rounds"]
    assert round_["accepted"] == 1


@pytest.mark.parametrize("stop_s", ["1"])
def test_an_upload_that_does_not_come_holds_nobody_up(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    upload = HalfSent(coordinator, tmp_path)

    api = coordinator.ask_to_stop("api")

    assert b"HTTP/1.1 200" not in upload.wait_for_the_end()
    assert api.wait(PATIENCE_S) == 0
    assert list((coordinator.data_dir / "blobs" / "incoming").iterdir()) == []
    coordinator.start("api")
    (round_,) = coordinator.get(paths.rounds("task"))["rounds"]
    assert (round_["accepted"], round_["assigned"]) == (0, 1)


def test_a_check_in_that_waits_is_told_to_wait(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    manifest = write_wide_model(tmp_path / "again", SIZE)
    first = [FixedDevice(coordinator.url, number, manifest) for number in (1, 2)]
    for device in first:
        device.take_a_place()
        device.close()
    late = FixedDevice(coordinator.url, 3, manifest)
    with socket.create_connection(("127.0.0.1", coordinator.port)) as waiting:
        waiting.settimeout(PATIENCE_S)
        content = b'{"wait_s": 30}'
        fields = {
            "Host": "coordinator",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Idempotency-Key": uuid.uuid4().hex,
            **late.headers,
        }
        head = f"POST {paths.CHECK_INS} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in fields.items()
        )
        waiting.sendall(head.encode() + b"\r\n" + content)
        wait_until(lambda: waits(coordinator) == 1, "a check-in that waits")
        api = coordinator.ask_to_stop("api")
        answer = b""
        while not answer.endswith(b"}") and (part := waiting.recv(1 << 16)):
            answer += part
    late.close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"wait_reason":"round_full"' in answer
    assert api.wait(PATIENCE_S) == 0


def waits(coordinator: Coordinator) -> float:
    response = httpx.get(coordinator.url + paths.METRICS, headers=coordinator.operator)
    name = "shoal_requests_waiting "
    (line,) = [x for x in response.text.splitlines() if x.startswith(name)]
    return float(line.removeprefix(name))
