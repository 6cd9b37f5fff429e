"""The door: how many may come, how fast, and how slowly they may speak."""

import asyncio
import contextlib
import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from coordinator.api.bodies import MAX_JSON_BYTES, Body, Places
from coordinator.api.limits import Load
from coordinator.api.problems import CoordinatorFull
from coordinator.protocol import digests, paths, problems
from tests.support.federation import Federation, plan
from tests.support.http import LIMITS, PATIENCE_S, Api, assert_problem, serve
from tests.support.models import update_body

BODY = update_body([0.5] * 10, examples=3)
JSON = {"Content-Type": "application/json"}


class Now:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@contextlib.asynccontextmanager
async def limited(
    federation: Federation,
    now: Now | None = None,
    **changed: Any,  # noqa: ANN401 - fields of Limits
) -> AsyncIterator[Api]:
    load = Load(dataclasses.replace(LIMITS, **changed), monotonic=now or Now())
    async with serve(federation, load=load) as api:
        yield api


@pytest.mark.parametrize("path", [paths.DEVICES, paths.CHECK_INS, paths.TASKS])
async def test_an_endless_body_is_cut_off(api: Api, path: str) -> None:
    before = api.federation.state()
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 100 * MAX_JSON_BYTES:
            read += 65_536
            yield b" " * 65_536

    response = await api.client.post(path, content=body(), headers=JSON)

    assert_problem(response, problems.BODY_TOO_LARGE)
    assert read < 2 * MAX_JSON_BYTES
    assert api.federation.state() == before


async def test_a_body_as_long_as_may_be_is_read(api: Api) -> None:
    padded = b'{"name": "phone"}'.ljust(MAX_JSON_BYTES)
    response = await api.client.post(paths.DEVICES, content=padded, headers=JSON)
    assert response.status_code == 201, response.text


async def test_an_address_that_asks_too_fast_is_told_to_wait(
    federation: Federation,
) -> None:
    now = Now()
    async with limited(federation, now, address_requests_per_s=1) as api:
        before = federation.state()
        for _ in range(10):
            assert (await api.client.get(paths.HEALTH)).status_code == 200
        refused = [await api.client.get(paths.HEALTH) for _ in range(20)]
        waits = [
            assert_problem(response, problems.TOO_MANY_REQUESTS)["retry_after_s"]
            for response in refused
        ]
        assert len(set(waits)) > 10  # they do not come back together
        assert 1 <= min(waits) <= max(waits) <= 3
        for response, wait_s in zip(refused, waits, strict=True):
            assert wait_s <= float(response.headers["Retry-After"]) < wait_s + 1
        assert federation.state() == before

        transport = httpx.ASGITransport(api.app, client=("192.0.2.1", 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test"
        ) as other:
            assert (await other.get(paths.HEALTH)).status_code == 200
        now.seconds += 1
        assert (await api.client.get(paths.HEALTH)).status_code == 200


async def test_a_device_that_asks_too_fast_is_told_to_wait(
    federation: Federation,
) -> None:
    now = Now()
    async with limited(federation, now, device_requests_per_s=1) as api:
        ann, bob = api.enrol(), api.enrol()
        for _ in range(10):
            assert (await api.check_in(ann)).status_code == 200
        before = federation.state()
        refused = await api.check_in(ann)
        assert_problem(refused, problems.TOO_MANY_REQUESTS)
        assert federation.state() == before
        assert (await api.check_in(bob)).status_code == 200
        now.seconds += 1
        assert (await api.check_in(ann)).status_code == 200


async def test_a_device_may_wait_in_so_many_requests_at_once(
    federation: Federation,
) -> None:
    async with limited(federation, device_requests=1) as api:
        ann, bob = api.enrol(), api.enrol()
        waiting = asyncio.create_task(api.check_in(ann, wait_s=60))
        async with asyncio.timeout(PATIENCE_S):
            await api.watcher.somebody_waits.wait()
        assert_problem(await api.check_in(ann), problems.TOO_MANY_REQUESTS)
        assert_problem(await api.check_in(ann), problems.TOO_MANY_REQUESTS)
        assert (await api.check_in(bob)).status_code == 200

        federation.start()
        assert (await waiting).json()["assignment"] is not None
        assert (await api.check_in(ann)).status_code == 200
        load: Load = api.app.state.services.load
        assert load._devices == {}


async def test_who_comes_while_too_many_calls_wait_is_told_to_wait(
    federation: Federation,
) -> None:
    async with limited(federation, calls_waiting=3) as api:
        load: Load = api.app.state.services.load
        caller = api.enrol()
        # Check-ins that wait for work wait for no thread.
        waiting = []
        for _ in range(5):
            api.watcher.somebody_waits.clear()
            waiting.append(asyncio.create_task(api.check_in(api.enrol(), wait_s=60)))
            async with asyncio.timeout(PATIENCE_S):
                await api.watcher.somebody_waits.wait()
        assert load.calls == 0
        assert (await api.check_in(caller)).status_code == 200

        load.calls = 3
        before = federation.state()
        refused = assert_problem(await api.check_in(caller), problems.COORDINATOR_FULL)
        assert 5 <= refused["retry_after_s"] <= 15
        assert (await api.client.get(paths.HEALTH)).status_code == 200
        assert_problem(await api.client.get(paths.READY), problems.NOT_READY)
        assert federation.state() == before
        # Who has come in is served.
        federation.start(settings=plan(goal=6))
        answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {200}
        load.calls = 0
        assert (await api.check_in(caller)).status_code == 200


@pytest.mark.parametrize(
    ("first", "pause_s"),
    [(1, 0.01), (1, 60.0), (200_000, 60.0)],
    ids=["trickles", "pauses", "has earned time and pauses"],
)
@pytest.mark.parametrize("path", [paths.DEVICES, paths.CHECK_INS, paths.TASKS])
async def test_a_body_that_trickles_or_pauses_is_cut(
    federation: Federation, path: str, first: int, pause_s: float
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b" " * first
        while True:
            await asyncio.sleep(pause_s)
            yield b" "

    async with limited(federation, body_idle_s=0.1, body_bytes_per_s=10_000.0) as api:
        before = federation.state()
        async with asyncio.timeout(PATIENCE_S):
            response = await api.client.post(path, content=body(), headers=JSON)

        assert_problem(response, problems.TOO_SLOW)
        assert response.headers["Connection"] == "close"
        assert federation.state() == before


class Upload:
    """An update that is sent piece by piece, as told."""

    def __init__(self, api: Api) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_read = asyncio.Event()
        self._api = api

    async def begin(self) -> None:
        """Take a place in the round, and have the first byte received."""
        caller = self._api.enrol()
        assignment = await self._api.lease(caller)
        digest = digests.content_digest(digests.sha256_hex(BODY))
        self.answer = asyncio.create_task(
            self._api.client.post(
                assignment["report_to"],
                content=self._stream(),
                headers=caller.headers | {"Content-Digest": digest},
            )
        )
        await self._pieces.put(BODY[:1])
        async with asyncio.timeout(PATIENCE_S):
            await self.is_read.wait()

    async def end(self) -> httpx.Response:
        await self._pieces.put(BODY[1:])
        await self._pieces.put(None)
        return await self.answer

    async def _stream(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece
            self.is_read.set()


async def test_an_upload_that_pauses_is_cut_and_its_lease_stays(
    federation: Federation,
) -> None:
    federation.start()
    async with limited(federation, body_idle_s=0.05) as api:
        upload = Upload(api)
        await upload.begin()
        async with asyncio.timeout(PATIENCE_S):
            assert_problem(await upload.answer, problems.TOO_SLOW)

        load: Load = api.app.state.services.load
        assert load.places.taken == 0
        assert list((federation.folder / "blobs" / "incoming").iterdir()) == []
        (round_,) = federation.attempts()
        assert federation.counts(round_.id)[0] == 1


async def test_an_upload_without_a_place_is_told_to_wait(
    federation: Federation,
) -> None:
    federation.start()
    async with limited(federation, uploads=1) as api:
        first = Upload(api)
        await first.begin()
        caller = api.enrol()
        assignment = await api.lease(caller)

        refused = await api.submit(caller, assignment, BODY)

        assert_problem(refused, problems.COORDINATOR_FULL)
        assert (await first.end()).status_code == 200
        assert (await api.submit(caller, assignment, BODY)).status_code == 200


async def test_an_upload_that_has_yielded_yields_but_once() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": True}

    places = Places(1)
    slow, second, third = (Body(receive, LIMITS, places) for _ in range(3))
    await slow.receive()
    slow._waited_s = 60.0

    await second.receive()

    assert places.taken == 1
    with pytest.raises(CoordinatorFull):
        await third.receive()
    with pytest.raises(HTTPException, match="Timeout"):
        await slow.receive()


async def test_a_body_that_pauses_after_its_first_pieces_is_cut() -> None:
    waits = iter([0.0, 0.15, 60.0])

    async def receive() -> Message:
        await asyncio.sleep(next(waits))
        return {"type": "http.request", "body": b"x", "more_body": True}

    body = Body(receive, dataclasses.replace(LIMITS, body_idle_s=0.2))
    await body.receive()
    await body.receive()

    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(HTTPException, match="Timeout"):
            await body.receive()


async def test_nothing_looks_at_a_body_any_more_that_has_come() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": False}

    body = Body(receive, LIMITS)
    await body.receive()

    gone = weakref.ref(body)
    del body
    gc.collect()
    assert gone() is None


async def test_who_ends_a_request_is_not_told_that_it_was_slow() -> None:
    async def receive() -> Message:
        return await asyncio.Future()

    reading = asyncio.create_task(Body(receive, LIMITS).receive())
    await asyncio.sleep(0)
    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_the_slowest_upload_yields_its_place(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.api.bodies._JUDGED_AFTER_S", 0.0)
    federation.start(settings=plan(goal=3))
    async with limited(federation, uploads=2, body_bytes_per_s=1e6) as api:
        slow, slower = Upload(api), Upload(api)
        await slower.begin()
        await slow.begin()
        await slow._pieces.put(BODY[1:-1])
        caller = api.enrol()
        assignment = await api.lease(caller)

        assert (await api.submit(caller, assignment, BODY)).status_code == 200

        async with asyncio.timeout(PATIENCE_S):
            assert_problem(await slower.answer, problems.TOO_SLOW)
        await slow._pieces.put(BODY[-1:])
        await slow._pieces.put(None)
        assert (await slow.answer).status_code == 200
