"""/healthz and /readyz: the first says that the process lives, the second the truth."""

import asyncio
import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from coordinator.api import health
from coordinator.protocol import paths, problems
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.workers import count_seen
from coordinator.usecases import workers
from tests.support.disks import SmallDisk
from tests.support.federation import Federation
from tests.support.http import Api, assert_problem, serve
from tests.support.worker import worker


def beat(federation: Federation) -> None:
    workers.beat(
        federation.store, worker="ann", now=federation.clock.now(), starts=True
    )


async def checks(api: Api) -> dict[str, str]:
    """What is said to be missing, as soon as it may be said."""
    api.federation.clock.advance(1)
    document = assert_problem(await api.client.get(paths.READY), problems.NOT_READY)
    found: dict[str, str] = document["checks"]
    wrong = {name: said for name, said in found.items() if said != "ok"}
    assert document["detail"] == "; ".join(f"{n}: {s}" for n, s in wrong.items())
    assert set(found) == {"database", "blobs", "worker"}
    assert (await api.client.get(paths.HEALTH)).json() == {"status": "ok"}
    return wrong


async def test_a_coordinator_with_all_it_needs_is_ready(api: Api) -> None:
    beat(api.federation)
    before = api.federation.state()

    response = await api.client.get(paths.READY)

    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {"database": "ok", "blobs": "ok", "worker": "ok"},
    }
    assert api.federation.state() == before


async def test_an_api_without_a_worker_says_so(api: Api) -> None:
    assert await checks(api) == {"worker": "none is running"}


async def test_a_worker_that_falls_silent_is_missed_and_comes_back(api: Api) -> None:
    beat(api.federation)
    api.federation.clock.advance(30)
    assert (await api.client.get(paths.READY)).status_code == 200

    assert await checks(api) == {"worker": "none was seen for 31 s"}

    beat(api.federation)
    api.federation.clock.advance(1)
    assert (await api.client.get(paths.READY)).status_code == 200


async def test_a_worker_is_there_from_its_start_to_its_end(api: Api) -> None:
    federation = api.federation
    seen: list[int] = []

    class Once(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            del timeout
            seen.append(federation.store.read(count))
            federation.clock.advance(workers.BEAT_EVERY.total_seconds())
            if len(seen) == 10:
                self.set()
            return True

    def count(tx: Transaction) -> int:
        return count_seen(tx, federation.clock.now() - workers.BEAT_EVERY)

    worker(federation).run(Once())

    assert seen == [1] * 10
    assert await checks(api) == {"worker": "none is running"}


async def test_a_coordinator_without_its_tables_is_not_ready(
    federation: Federation,
) -> None:
    async with serve(federation, background=False) as api:
        with federation.store.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE workers"))

        assert await checks(api) == {
            "database": "cannot be written",
            "worker": "unknown",
        }


async def test_a_coordinator_whose_database_is_locked_is_not_ready(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_PATIENCE_S", 0.1)
    beat(api.federation)
    writes, ends = threading.Event(), threading.Event()

    def hang(_: Transaction) -> None:
        writes.set()
        ends.wait(10)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(api.federation.store.run, "hang", hang)
        assert writes.wait(10)
        assert await checks(api) == {
            "database": "no answer within 0.1 s",
            "worker": "unknown",
        }
        ends.set()

    monkeypatch.setattr(health, "_PATIENCE_S", 3.0)
    api.federation.clock.advance(1)
    assert (await api.client.get(paths.READY)).status_code == 200


async def test_a_coordinator_whose_disk_is_full_or_read_only_is_not_ready(
    federation: Federation, small_disk: SmallDisk
) -> None:
    beat(federation)
    object.__setattr__(
        federation, "blobs", BlobStore(small_disk.folder / "blobs", durable=True)
    )
    missing = {"blobs": "the folder cannot be written"}
    async with serve(federation) as api:
        assert (await api.client.get(paths.READY)).status_code == 200
        small_disk.fill()
        assert await checks(api) == missing
        small_disk.free()
        small_disk.set_read_only()
        assert await checks(api) == missing
        small_disk.set_writable()
        federation.clock.advance(1)
        assert (await api.client.get(paths.READY)).status_code == 200


async def test_an_answer_holds_for_a_second_however_many_ask(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(api.federation)
    looks = []

    def look(store: Store) -> dt.datetime | None:
        looks.append(store)
        return last_seen(store)

    last_seen = workers.last_seen
    monkeypatch.setattr(workers, "last_seen", look)
    clock = api.federation.clock
    for expected, seconds in ((1, 0.9), (1, 0.1), (2, 0.9)):
        asked = [api.client.get(paths.READY) for _ in range(20)]
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {200}
        assert len(looks) == expected
        clock.advance(seconds)
    # The machine's clock was set back.
    api.app.state.services.readiness.at = clock.now() + dt.timedelta(hours=1)
    await api.client.get(paths.READY)
    assert len(looks) == 3
