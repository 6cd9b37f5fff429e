"""Uploads that break off, over real sockets, while processes are killed."""

import concurrent.futures
import contextlib
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from coordinator.clock import SystemClock
from coordinator.protocol import digests, paths, uploads
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.usecases import diagnosis
from tests.support.processes import (
    Coordinator,
    FixedDevice,
    wait_until,
    write_wide_model,
)

pytestmark = pytest.mark.slow
SIZE = 100_000  # parameters: a body of 400 kB
TASK = "resume"


class Site:
    """Two API processes and a worker that share a database and a folder."""

    def __init__(self, folder: pathlib.Path, database_url: str) -> None:
        self.manifest = write_wide_model(folder / "models", SIZE)
        self.database_url = database_url
        self.first, self.second = (
            Coordinator(
                folder / name,
                database_url=database_url,
                models_dir=folder / "models",
                data_dir=folder / "data",
            )
            for name in ("first", "second")
        )
        self.blobs = folder / "data" / "blobs"

    def find_faults(self) -> list[str]:
        """What the doctor finds."""
        store = Store(self.database_url, durable=False)
        try:
            found = diagnosis.examine(
                store, BlobStore(self.blobs, durable=False), now=SystemClock().now()
            )
        finally:
            store.close()
        return [each.what for each in found]

    def files(self, folder: str) -> list[pathlib.Path]:
        return list((self.blobs / folder).iterdir())


@pytest.fixture
def site(tmp_path: pathlib.Path, empty_database_url: str) -> Iterator[Site]:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    running = Site(tmp_path, empty_database_url)
    running.first.start("api")
    running.second.start("api")
    yield running
    running.first.stop()
    running.second.stop()


class Sender:
    """A device with an assignment and the update for it."""

    def __init__(self, site: Site) -> None:
        coordinator = site.first
        plan = {
            "model": "wide",
            "rounds": 1,
            "round": {"goal": 1, "minimum": 1, "lease_s": 300, "deadline_s": 600},
        }
        httpx.post(
            coordinator.url + paths.TASKS,
            headers=coordinator.operator,
            json={"id": TASK, "plan": plan},
        ).raise_for_status()
        device = FixedDevice(coordinator.url, 1, site.manifest)
        self.assignment: dict[str, Any] = device.check_in().json()["assignment"]
        self.headers = device.headers
        device.close()
        self.body = device.body(1)
        self.update = self.assignment["report_to"]
        self.path = paths.upload(self.update, digests.sha256_hex(self.body))

    def offset(self, coordinator: Coordinator) -> int:
        answer = httpx.head(coordinator.url + self.path, headers=self.headers)
        assert answer.status_code == 204, answer
        return int(answer.headers[uploads.OFFSET])

    def append(
        self, coordinator: Coordinator, start: int, end: int | None = None
    ) -> httpx.Response:
        return httpx.patch(
            coordinator.url + self.path,
            content=self.body[start:end],
            headers=self.fields(start, end),
            timeout=30,
        )

    def fields(self, start: int, end: int | None = None) -> dict[str, str]:
        part = digests.sha256_hex(self.body[start:end])
        return {
            **self.headers,
            digests.FIELD: digests.content_digest(part),
            "Content-Type": uploads.MEDIA_TYPE,
            uploads.OFFSET: str(start),
            uploads.COMPLETE: uploads.write_flag(end is None),
        }

    @contextlib.contextmanager
    def half_sent(
        self, coordinator: Coordinator, start: int, end: int
    ) -> Iterator[socket.socket]:
        """Begin to send all from ``start``, and stop at ``end`` without a word."""
        fields = self.fields(start)
        request = f"PATCH {self.path} HTTP/1.1"
        if not start:
            del fields[uploads.OFFSET]
            request = f"POST {self.update} HTTP/1.1"
        lines = [
            request,
            "Host: coordinator",
            f"Content-Length: {len(self.body) - start}",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        with socket.create_connection(("127.0.0.1", coordinator.port)) as connection:
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
            connection.sendall(self.body[start:end])
            yield connection


def written(site: Site) -> int:
    """Bytes of the longest body that is coming in."""
    return max((file.stat().st_size for file in site.files("incoming")), default=0)


def commit(site: Site) -> None:
    site.first.start("worker")

    def is_committed() -> bool:
        return bool(site.first.get(paths.task(TASK))["rounds_committed"])

    wait_until(is_committed, "the round")


def test_what_came_in_before_the_api_was_killed_is_not_sent_again(
    site: Site,
) -> None:
    sender = Sender(site)
    with sender.half_sent(site.first, 0, 150_000):
        wait_until(lambda: written(site) == 150_000, "the first half")
        site.first.kill("api")
    site.first.start("api")
    assert sender.offset(site.first) == 150_000

    with sender.half_sent(site.first, 150_000, 260_000):
        wait_until(lambda: written(site) == 150_000, "what the kill left")
        wait_until(
            lambda: any(f.stat().st_size == 110_000 for f in site.files("incoming")),
            "the second part",
        )
        site.first.kill("api")
    site.first.start("api")
    assert sender.offset(site.first) == 260_000
    site.first.kill("api")
    site.first.start("api")
    assert sender.offset(site.first) == 260_000

    done = sender.append(site.first, 260_000)
    site.first.kill("api")
    site.first.start("api")
    again = sender.append(site.first, 260_000)

    assert done.status_code == again.status_code == 200
    assert done.json() == again.json()
    (update,) = (site.blobs / "updates").glob("*/*")
    assert update.read_bytes() == sender.body
    assert site.files("partial") == []
    assert site.find_faults() == []
    commit(site)
    assert site.find_faults() == []


def test_a_hanging_upload_goes_on_at_another_process(site: Site) -> None:
    sender = Sender(site)
    with sender.half_sent(site.first, 0, 100_000) as hanging:
        wait_until(lambda: written(site) == 100_000, "the first part")
        assert sender.offset(site.second) == 100_000
        hanging.sendall(sender.body[100_000:120_000])
        wait_until(lambda: written(site) == 120_000, "what comes too late")
        assert sender.offset(site.second) == 100_000
    assert sender.append(site.second, 100_000).status_code == 200

    (update,) = (site.blobs / "updates").glob("*/*")
    assert update.read_bytes() == sender.body
    assert site.find_faults() == []


def test_of_two_parts_at_one_offset_one_counts_whoever_takes_them(
    site: Site,
) -> None:
    sender = Sender(site)
    begun = httpx.post(
        site.first.url + sender.update,
        headers={
            **sender.fields(0, 1000),
            "Repr-Digest": digests.content_digest(digests.sha256_hex(sender.body)),
        },
        content=sender.body[:1000],
    )
    assert begun.status_code == 201
    rng = np.random.default_rng(1)
    at = 1000
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            answers = [
                future.result()
                for future in [
                    pool.submit(sender.append, api, at, at + int(size))
                    for api, size in zip(
                        (site.first, site.second),
                        rng.integers(1, 9000, 2),
                        strict=True,
                    )
                ]
            ]
            codes = sorted(answer.status_code for answer in answers)
            assert codes == [204, 409]
            offsets = {int(answer.headers[uploads.OFFSET]) for answer in answers}
            assert len(offsets) == 1
            (at,) = offsets
    assert sender.append(site.second, at).status_code == 200

    (update,) = (site.blobs / "updates").glob("*/*")
    assert update.read_bytes() == sender.body
    assert site.find_faults() == []
