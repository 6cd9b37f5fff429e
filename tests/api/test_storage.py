"""Uploads to a coordinator whose disk or database fails, and then works again."""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from coordinator.protocol import problems
from coordinator.store import engine
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from tests.support.clock import ManualClock
from tests.support.disks import SmallDisk
from tests.support.federation import Federation
from tests.support.http import Api, assert_problem, serve
from tests.support.models import update_body

BODY = update_body([0.5] * 10, examples=3)


@pytest_asyncio.fixture
async def on_a_disk(store: Store, small_disk: SmallDisk) -> AsyncIterator[Api]:
    federation = Federation(
        store=store,
        blobs=BlobStore(small_disk.folder / "blobs", durable=True),
        clock=ManualClock(),
        folder=small_disk.folder,
    )
    async with serve(federation) as api:
        yield api


@pytest.mark.parametrize(
    ("fail", "mend"),
    [
        (SmallDisk.fill, SmallDisk.free),
        (SmallDisk.set_read_only, SmallDisk.set_writable),
    ],
)
async def test_an_update_that_cannot_be_kept_is_sent_again(
    on_a_disk: Api,
    small_disk: SmallDisk,
    fail: Callable[[SmallDisk], None],
    mend: Callable[[SmallDisk], None],
) -> None:
    api = on_a_disk
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()
    fail(small_disk)

    response = await api.submit(caller, assignment, BODY)

    document = assert_problem(response, problems.STORAGE_UNAVAILABLE)
    assert str(small_disk.folder) not in str(document)
    assert api.federation.state() == before
    mend(small_disk)
    assert (await api.submit(caller, assignment, BODY)).status_code == 200


async def test_an_update_waits_for_a_locked_database_and_is_sent_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_S", 0.05)
    impatient = Store(sqlite_url, durable=False)
    object.__setattr__(api.app.state.services, "store", impatient)
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    rows = api.federation.rows()
    with api.federation.store.engine.begin():  # a writer that does not let go
        response = await api.submit(caller, assignment, BODY)

    assert_problem(response, problems.UNAVAILABLE)
    assert api.federation.rows() == rows
    first = await api.submit(caller, assignment, BODY)
    again = await api.submit(caller, assignment, BODY)
    assert first.status_code == 200
    assert first.json() == again.json()
    impatient.close()


async def test_an_inference_file_is_not_made_from_spoilt_bytes(
    api: Api,
) -> None:
    api.federation.start()
    model = api.federation.register()
    spoilt = api.federation.blobs.path(model.manifest.infer.sha256)
    content = spoilt.read_bytes()
    spoilt.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    response = await api.client.get("/v1/models/tiny/versions/0/model.tflite")

    assert_problem(response, problems.BLOB_LOST)
    api.federation.register()  # as every start does
    response = await api.client.get("/v1/models/tiny/versions/0/model.tflite")
    assert response.status_code == 200
