"""Slow loris against a real server: heads, bodies and connections that hold on."""

import json
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from coordinator.api.connections import MAX_HEAD_BYTES
from coordinator.protocol import paths, problems
from coordinator.protocol.problems import ProblemType
from tests.support.processes import (
    PATIENCE_S,
    ROOT,
    Coordinator,
    FixedDevice,
    wait_until,
    write_wide_model,
)

HEAD_S = 1.0
CONNECTIONS = 40
HERE = 30  # from one address
PARAMETERS = 500_000
SLOW, HONEST = 1_000, 20


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    folder = tmp_path_factory.mktemp("strict")
    running = Coordinator(
        folder,
        database_url=None,
        models_dir=folder / "models",
        settings={
            "SHOAL_HEAD_S": f"{HEAD_S}",
            "SHOAL_BODY_IDLE_S": "1",
            "SHOAL_CONNECTIONS": f"{CONNECTIONS}",
            "SHOAL_ADDRESS_CONNECTIONS": f"{HERE}",
        },
    )
    running.start("api")
    yield running
    running.stop()


def connect(coordinator: Coordinator, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", coordinator.port), timeout=PATIENCE_S, source_address=(source, 0)
    )


def read(connection: socket.socket) -> bytes:
    """Everything until the coordinator closes."""
    content = b""
    try:
        while piece := connection.recv(1 << 16):
            content += piece
    except ConnectionResetError:
        pass
    return content


def trickle(connection: socket.socket, byte: bytes) -> tuple[bytes, float]:
    """Send a byte now and then until closed. Returns what came, and the seconds."""
    began = time.monotonic()
    connection.settimeout(HEAD_S / 20)
    content = b""
    while time.monotonic() < began + PATIENCE_S:
        try:
            connection.send(byte)
            piece = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            piece = b""
        if not piece:
            return content, time.monotonic() - began
        content += piece
    raise AssertionError(f"still open after {PATIENCE_S} s")


def insist(answer: bytes, kind: ProblemType) -> None:
    """Insist that the last answer refuses with ``kind`` and closes."""
    last = answer[answer.rindex(b"HTTP/1.1 ") :]
    head, _, body = last.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % kind.status)
    document = problems.Problem.model_validate_json(body)
    assert (document.type, document.status) == (kind.type, int(kind.status))
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-type: application/problem+json\r\n" in head
    assert (b"\r\nretry-after: " in head) == kind.retry


def test_a_head_that_trickles_is_cut(strict: Coordinator) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        answer, seconds = trickle(connection, b"x")

    insist(answer, problems.TOO_SLOW)
    assert HEAD_S / 2 < seconds < HEAD_S + 2


def test_the_next_head_on_a_connection_has_a_deadline_too(strict: Coordinator) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        answer, seconds = trickle(connection, b"x")

    insist(answer, problems.TOO_SLOW)
    assert HEAD_S / 2 < seconds < HEAD_S + 2


@pytest.mark.parametrize("byte", [b"", b"\n"])
def test_who_connects_and_says_nothing_is_cut(strict: Coordinator, byte: bytes) -> None:
    with connect(strict) as connection:
        answer, seconds = trickle(connection, byte)

    assert answer == b""
    assert HEAD_S / 2 < seconds < HEAD_S + 2


def test_the_rest_of_a_body_that_was_answered_has_a_deadline(
    strict: Coordinator,
) -> None:
    with connect(strict) as connection:
        connection.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        )
        answer, seconds = trickle(connection, b"x")

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert HEAD_S / 2 < seconds < HEAD_S + 2


def test_a_body_that_trickles_is_cut(strict: Coordinator) -> None:
    with connect(strict) as connection:
        connection.sendall(
            b"POST /v1/devices HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        answer, seconds = trickle(connection, b" ")

    insist(answer, problems.TOO_SLOW)
    assert 0.5 < seconds < 3


def test_a_head_without_an_end_is_cut(strict: Coordinator) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        sent = 0
        try:
            while sent < 100 * MAX_HEAD_BYTES:
                connection.sendall(b"x" * 4096)
                sent += 4096
        except (ConnectionResetError, BrokenPipeError):
            pass
        answer = read(connection)

    # A reset may swallow the answer, as it comes while the head is still sent.
    if answer:
        insist(answer, problems.HEAD_TOO_LONG)
    assert sent < 100 * MAX_HEAD_BYTES


_POST = b"POST /v1/devices HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /v1/t\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        _POST + b"Content-Length: x\r\n\r\n",
        _POST + b"Content-Length: -5\r\n\r\n",
        _POST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        _POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        _POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        _POST + b"Transfer-Encoding: xchunked\r\n\r\n{}",
        _POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        _POST + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=[
        "tls",
        "path",
        "length",
        "negative",
        "huge",
        "two-lengths",
        "length-and-chunks",
        "coding",
        "chunk",
        "nul",
    ],
)
def test_what_is_no_http_is_refused(strict: Coordinator, sent: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(sent)
        insist(read(connection), problems.MALFORMED_HTTP)


def test_connections_are_limited_by_address_and_together(strict: Coordinator) -> None:
    held = [connect(strict) for _ in range(HERE)]
    with connect(strict) as refused:
        insist(read(refused), problems.TOO_MANY_REQUESTS)
    held += [connect(strict, "127.0.0.2") for _ in range(CONNECTIONS - HERE)]
    with connect(strict, "127.0.0.3") as refused:
        insist(read(refused), problems.COORDINATOR_FULL)

    for connection in held:
        connection.close()
    figures = scrape(strict)
    for kind in (problems.TOO_MANY_REQUESTS, problems.COORDINATOR_FULL):
        assert figures[f'shoal_refusals_total{{type="{kind.slug}"}}'] >= 1


def test_a_web_socket_is_no_way_around(strict: Coordinator) -> None:
    with connect(strict) as connection:
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("proxies", [{}, {"SHOAL_TRUSTED_PROXIES": "127.0.0.0/8"}])
def test_only_a_proxy_that_is_trusted_says_who_calls(
    tmp_path: pathlib.Path, proxies: dict[str, str]
) -> None:
    coordinator = Coordinator(
        tmp_path,
        database_url=None,
        models_dir=tmp_path / "models",
        settings={"SHOAL_ADDRESS_REQUESTS_PER_S": "0.001", **proxies},
    )
    coordinator.start("api")  # which asks once whether it is alive

    statuses = [
        httpx.get(
            coordinator.url + paths.READY, headers={"X-Forwarded-For": said}
        ).status_code
        for said in ("192.0.2.1", "192.0.2.2", "192.0.2.1, 192.0.2.2")
    ]

    coordinator.stop()
    assert statuses == ([503, 503, 429] if proxies else [429, 429, 429])


def scrape(coordinator: Coordinator) -> dict[str, float]:
    # Connections that were closed a moment ago may still be counted.
    with httpx.Client(
        transport=httpx.HTTPTransport(local_address="127.0.0.9")
    ) as client:
        text = client.get(
            coordinator.url + paths.METRICS, headers=coordinator.operator
        ).text
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


def receiving(coordinator: Coordinator) -> float:
    return scrape(coordinator)["shoal_uploads_receiving"]


@pytest.mark.slow
def test_a_thousand_slow_uploads_do_not_stop_other_devices(
    tmp_path: pathlib.Path,
) -> None:
    manifest = write_wide_model(tmp_path / "models", PARAMETERS)
    coordinator = Coordinator(
        tmp_path, database_url=None, models_dir=tmp_path / "models"
    )
    coordinator.start("api")
    goal = SLOW + HONEST
    plan = {"model": "wide", "round": {"goal": goal, "minimum": 1, "lease_s": 600}}
    httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": "task", "plan": plan},
    ).raise_for_status()
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.slow_uploads",
            coordinator.url,
            f"{SLOW}",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == "ready\n"
        wait_until(lambda: receiving(coordinator) == SLOW, "slow uploads")

        began = time.monotonic()
        devices = [
            FixedDevice(coordinator.url, number, manifest) for number in range(HONEST)
        ]
        took_s = []

        def take_part(device: FixedDevice) -> None:
            started = time.monotonic()
            assignment = device.check_in().json()["assignment"]
            receipt = device.report(assignment)
            took_s.append(time.monotonic() - started)
            assert receipt.status_code == 200, receipt.text

        with ThreadPoolExecutor(HONEST) as pool:
            list(pool.map(take_part, devices))
        seconds = time.monotonic() - began
        for device in devices:
            device.close()
        still_there = receiving(coordinator)
        statuses = json.loads(slow.stdout.readline())

    left = receiving(coordinator)
    coordinator.stop()
    assert still_there > SLOW / 2  # all along
    assert seconds < 20
    assert max(took_s) < 15
    assert statuses == {"408": SLOW}
    assert left == 0
    assert "Traceback" not in coordinator.log
    print(f"{HONEST} devices in {seconds:.1f} s, each {max(took_s):.1f} s at most")  # noqa: T201
