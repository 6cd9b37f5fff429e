"""/metrics: the funnel from check-in to version, whichever process did what."""

import math
import shutil
import uuid

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.domain import selection
from coordinator.domain.events import Happening
from coordinator.protocol import paths, problems
from coordinator.protocol.vocabulary import WaitReason
from coordinator.store.engine import StaleWrite, Store
from coordinator.usecases import observation, workers
from tests.support.federation import plan
from tests.support.http import Api, assert_problem, serve
from tests.support.models import update_body
from tests.support.worker import worker

BODY = update_body([0.5] * 10, examples=3)
SETTLE_S = 5

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _count_from_here(api: Api) -> None:
    """As a process does before it answers."""
    api.app.state.services.metrics.start()


async def read(api: Api) -> Samples:
    """Every sample of a scrape, by name and labels."""
    response = await api.client.get(paths.METRICS, headers=api.operator)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    return samples(response)


def samples(response: httpx.Response) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((f"shoal_{name}", frozenset(labels.items())), 0.0)


def events(found: Samples, happening: Happening) -> float:
    return value(found, "events_total", type=happening)


async def test_the_funnel_of_a_round_is_counted(api: Api) -> None:
    federation = api.federation
    federation.start(settings=plan(goal=2, over_select=0.5))
    federation.clock.advance(SETTLE_S)
    start = await read(api)
    callers = [api.enrol() for _ in range(4)]
    places = [await api.lease(caller) for caller in callers[:3]]
    await api.check_in(callers[3])  # the round is full
    federation.clock.advance(10)
    assert (await api.submit(callers[0], places[0], BODY)).status_code == 200
    await api.submit(callers[1], places[1], BODY[:-1])
    federation.clock.advance(SETTLE_S)

    found = await read(api)

    assert value(found, "check_ins_total", answer="assigned") == 3
    assert value(found, "check_ins_total", answer=WaitReason.ROUND_FULL) == 1
    assert value(found, "uploads_total") == 2
    assert value(found, "upload_bytes_total") == 2 * len(BODY) - 1
    refused = problems.MALFORMED_TENSORS.slug
    assert value(found, "refusals_total", type=refused) == 1
    assert value(found, "places_leased") == 2
    assert value(found, "rounds_open", kind="train", phase="collecting") == 1
    assert events(found, Happening.PLACE_LEASED) == 3
    assert events(found, Happening.RESULT_ACCEPTED) == 1
    assert events(start, Happening.TASK_CREATED) == 1
    served = {"method": "POST", "path": paths.update("{assignment_id}")}
    name = "http_request_seconds_count"
    assert value(found, name, **served, status="200") == 1
    assert value(found, name, **served, status="422") == 1


async def test_the_pace_of_check_ins_follows_what_rounds_want(api: Api) -> None:
    federation = api.federation
    caller = api.enrol()
    for _ in range(3):
        await api.check_in(caller)
    idle = await read(api)
    federation.start(settings=plan(goal=120))
    for _ in range(selection.MAX_FAILURES):  # so often that the round is not for it
        federation.give_up(federation.lease(caller.id))
    federation.clock.advance(20)  # the three above should have come meanwhile
    for _ in range(2):
        await api.check_in(caller)

    busy = await read(api)

    # Three times the places, and 50 at least, in 5 seconds.
    assert value(idle, "check_ins_per_second_target") == 30
    assert value(busy, "check_ins_per_second_target") == 72
    assert value(idle, "devices_expected") == 3
    assert value(busy, "devices_expected") == 2
    assert value(idle, "check_ins_per_second") == 0
    assert 0 < value(busy, "check_ins_per_second") < 3 / 20


async def test_rounds_are_timed_by_phase_whoever_folds_them(
    api: Api, sqlite_url: str
) -> None:
    federation = api.federation
    federation.start(settings=plan(goal=1))
    federation.clock.advance(30)
    federation.take_part()
    assert value(await read(api), "rounds_unclaimed") == 1
    federation.clock.advance(20)
    elsewhere = Store(sqlite_url, durable=False)  # as another process has it
    other = type(federation)(
        store=elsewhere,
        blobs=federation.blobs,
        clock=federation.clock,
        folder=federation.folder,
    )
    worker(other).step()
    elsewhere.close()
    federation.clock.advance(SETTLE_S)

    for _ in range(2):  # what was read is not counted again
        found = await read(api)
        seconds = "round_phase_seconds_sum"
        assert value(found, seconds, kind="train", phase="collecting") == 30
        assert value(found, seconds, kind="train", phase="aggregating") == 20
        counted = "round_phase_seconds_count"
        assert value(found, counted, kind="train", phase="aggregating") == 1
        assert events(found, Happening.ROUND_COMMITTED) == 1
        assert value(found, "rounds_unclaimed") == 0
        assert value(found, "rounds_open", kind="train", phase="collecting") == 1
        assert value(found, "rounds_open", kind="train", phase="aggregating") == 0


async def test_an_abandoned_round_ends_its_phase(api: Api) -> None:
    federation = api.federation
    federation.start()
    federation.clock.advance(120)
    federation.advance()
    federation.clock.advance(SETTLE_S)

    found = await read(api)

    name = "round_phase_seconds_sum"
    assert value(found, name, kind="train", phase="collecting") == 120


async def test_what_is_too_young_is_counted_at_the_next_look(api: Api) -> None:
    api.enrol()
    assert events(await read(api), Happening.DEVICE_ENROLLED) == 0

    api.federation.clock.advance(SETTLE_S)

    assert events(await read(api), Happening.DEVICE_ENROLLED) == 1


async def test_what_happened_before_the_start_is_not_news(api: Api) -> None:
    api.enrol()
    api.federation.clock.advance(SETTLE_S)
    async with serve(api.federation) as second:
        second.app.state.services.metrics.start()
        second.enrol()
        api.federation.clock.advance(SETTLE_S)

        assert events(await read(second), Happening.DEVICE_ENROLLED) == 1
        assert events(await read(api), Happening.DEVICE_ENROLLED) == 2


async def test_workers_are_seen_and_missed(api: Api) -> None:
    found = await read(api)
    assert value(found, "workers") == 0
    silent = value(found, "worker_silent_seconds")
    assert silent != silent  # noqa: PLR0124 - NaN: none ever was

    now = api.federation.clock.now()
    workers.beat(api.federation.store, worker="ann", now=now, starts=True)
    api.federation.clock.advance(20)
    found = await read(api)
    assert value(found, "workers") == 1
    assert value(found, "worker_silent_seconds") == 20
    assert value(found, "blob_free_bytes") > 0


async def test_a_disk_that_is_gone_hides_no_other_figure(api: Api) -> None:
    api.enrol()
    api.federation.clock.advance(SETTLE_S)
    shutil.rmtree(api.federation.folder / "blobs")

    found = await read(api)

    assert math.isnan(value(found, "blob_free_bytes"))
    assert events(found, Happening.DEVICE_ENROLLED) == 1

    api.federation.clock.advance(20)
    assert value(await read(api), "workers") == 0


async def test_no_label_grows_with_devices_paths_or_methods(api: Api) -> None:
    api.federation.start(settings=plan(goal=1, rounds=100))
    await read(api)
    before = set(await read(api))

    async def live() -> None:
        caller = api.enrol()
        assignment = await api.lease(caller)
        await api.submit(caller, assignment, BODY)
        worker(api.federation).step()
        await api.client.get(assignment["weights"]["url"])
        await api.client.get(f"/{uuid.uuid4().hex}")
        await api.client.request(uuid.uuid4().hex.upper(), paths.TASKS)
        api.federation.clock.advance(SETTLE_S)

    await live()
    once = set(await read(api))
    for _ in range(3):
        await live()
    assert set(await read(api)) == once
    assert len(once) > len(before)


async def test_a_crash_is_counted_as_a_refusal_of_its_type(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("coordinator.usecases.tasks.list_tasks", crash)
    response = await api.client.get(paths.TASKS, headers=api.operator)
    assert response.status_code == 500

    found = await read(api)

    assert value(found, "refusals_total", type=problems.INTERNAL.slug) == 1
    labels = {"method": "GET", "path": paths.TASKS, "status": "500"}
    assert value(found, "http_request_seconds_count", **labels) == 1


async def test_a_look_that_fails_half_way_loses_no_event(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.federation.start()
    api.federation.clock.advance(10)
    present = observation._present

    def fail(*_: object) -> None:
        raise StaleWrite("present")

    monkeypatch.setattr(observation, "_present", fail)
    answer = await api.client.get(paths.METRICS, headers=api.operator)
    assert_problem(answer, problems.UNAVAILABLE)

    monkeypatch.setattr(observation, "_present", present)
    assert events(await read(api), Happening.ROUND_OPENED) == 1
