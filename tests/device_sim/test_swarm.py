"""Many devices at once: who works when, who leaves, and what is counted."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pytest

from coordinator.protocol import paths, problems
from coordinator.protocol.messages import Assignment
from device_sim import behaviour, cache, client, trainer
from device_sim.data import Shard
from device_sim.participant import Participant
from device_sim.swarm import Swarm
from device_sim.turns import Turns
from tests.device_sim.fake_coordinator import FakeCoordinator

DEVICES = 6
Enlist = Callable[..., list[Participant]]


def shard_of(index: int) -> Shard:
    rng = np.random.default_rng(index)
    return Shard(
        name=f"writer-{index}",
        train_images=rng.integers(0, 256, (4 + index, 28, 28), dtype=np.uint8),
        train_labels=rng.integers(0, 10, 4 + index, dtype=np.uint8),
        test_images=rng.integers(0, 256, (2, 28, 28), dtype=np.uint8),
        test_labels=rng.integers(0, 10, 2, dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def trainers() -> trainer.TrainerPool:
    return trainer.TrainerPool(2)


@pytest.fixture
async def fake() -> FakeCoordinator:
    return FakeCoordinator(rounds=3)


@pytest.fixture
async def http(fake: FakeCoordinator) -> AsyncIterator[httpx.AsyncClient]:
    async with fake.client() as opened:
        yield opened


def enlist(
    http: httpx.AsyncClient,
    trainers: trainer.TrainerPool,
    *,
    dropout: float = 0.0,
    shares: bool = True,
    habits: behaviour.Behaviour | None = None,
) -> list[Participant]:
    calls = client.Client(http, jitter=np.random.default_rng(0))
    shared = cache.Library(cache.DownloadCache(calls))
    return [
        Participant(
            index=index,
            shard=shard_of(index),
            calls=calls,
            library=shared if shares else cache.Library(cache.DownloadCache(calls)),
            trainers=trainers,
            habits=habits or behaviour.Behaviour(devices=DEVICES, dropout=dropout),
        )
        for index in range(DEVICES)
    ]


def sent(fake: FakeCoordinator) -> set[tuple[str, int, bytes]]:
    return set(fake.updates)


async def test_every_device_contributes_to_every_round(
    fake: FakeCoordinator, http: httpx.AsyncClient, trainers: trainer.TrainerPool
):
    seen: list[Assignment] = []
    swarm = Swarm(enlist(http, trainers), threads=2, on_assignment=seen.append)
    await swarm.run()
    assert (swarm.tally.enrolled, swarm.tally.updates) == (DEVICES, 3 * DEVICES)
    assert len({(name, number) for name, number, _ in fake.updates}) == 3 * DEVICES
    assert [assignment.round for assignment in seen] == [1, 2, 3]


async def test_two_swarms_of_one_seed_send_the_same_updates(
    fake: FakeCoordinator, http: httpx.AsyncClient, trainers: trainer.TrainerPool
):
    await Swarm(enlist(http, trainers), threads=2).run()
    again = FakeCoordinator(rounds=3)
    async with again.client() as other:
        await Swarm(enlist(other, trainers), threads=1).run()
    assert sent(fake) == sent(again)


async def test_downloads_are_shared_unless_each_device_is_to_fetch_its_own(
    fake: FakeCoordinator, http: httpx.AsyncClient, trainers: trainer.TrainerPool
):
    await Swarm(enlist(http, trainers), threads=2).run()
    assert sorted(fake.downloads) == sorted(fake.files)
    fake.downloads.clear()
    fake.taken.clear()
    await Swarm(enlist(http, trainers, shares=False), threads=2).run()
    assert fake.downloads.count(paths.weights("cnn", 0)) == DEVICES


async def test_a_device_leaves_after_its_contributions(
    fake: FakeCoordinator, http: httpx.AsyncClient, trainers: trainer.TrainerPool
):
    await Swarm(enlist(http, trainers), threads=2, contributions=2).run()
    assert {number for _, number, _ in fake.updates} == {1, 2}


async def test_vanished_devices_come_back_for_the_next_round(
    fake: FakeCoordinator, http: httpx.AsyncClient, trainers: trainer.TrainerPool
):
    habits = behaviour.Behaviour(devices=DEVICES, dropout=0.5)
    expected = {
        (f"writer-{device}-{device}", number)
        for device in range(DEVICES)
        for number in (1, 2, 3)
        if not habits.vanishes(round_number=number, attempt=1, device=device)
    }
    swarm = Swarm(enlist(http, trainers, dropout=0.5), threads=2)
    running = asyncio.create_task(swarm.run())
    async with asyncio.timeout(20):  # a lease is 60 s: nobody waits for its end
        while swarm.tally.vanished + swarm.tally.updates < 3 * DEVICES:  # noqa: ASYNC110 - a tally has no event
            await asyncio.sleep(0)
    running.cancel()  # those that vanished last have no newer round to come back for
    assert {(name, number) for name, number, _ in fake.updates} == expected
    assert swarm.tally.vanished == 3 * DEVICES - len(expected)


async def test_refused_reports_are_counted_and_end_no_device(
    fake: FakeCoordinator, http: httpx.AsyncClient, trainers: trainer.TrainerPool
):
    fake.refuse_reports_with = problems.ROUND_CLOSED
    swarm = Swarm(enlist(http, trainers), threads=2)
    await swarm.run()
    assert swarm.tally.updates == 0
    assert swarm.tally.gave_up.total() == 3 * DEVICES


async def test_a_coordinator_that_refuses_devices_ends_the_swarm(
    trainers: trainer.TrainerPool,
):
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json=problems.document(problems.FORBIDDEN))

    transport = httpx.MockTransport(refuse)
    async with httpx.AsyncClient(transport=transport, base_url="http://c.test") as http:
        with pytest.raises(ExceptionGroup) as group:
            await Swarm(enlist(http, trainers), threads=2).run()
    assert group.group_contains(client.Refused, match="may not do this")


async def test_of_a_population_only_the_cohort_of_a_round_works_in_it(
    trainers: trainer.TrainerPool,
):
    habits = behaviour.Behaviour(devices=2, population=DEVICES, seed=3)
    expected = {
        (f"writer-{device}-{device}", number)
        for number in (1, 2, 3)
        for device in habits.cohort(number)
    }
    fake = FakeCoordinator(rounds=3, goal=2)
    turns = Turns(habits)
    async with fake.client() as http, asyncio.timeout(20), asyncio.TaskGroup() as group:
        swarm = Swarm(enlist(http, trainers, habits=habits), threads=2, turns=turns)
        tasks = [
            group.create_task(swarm.run()),
            group.create_task(turns.watch(fake.state)),
        ]
        while not fake.is_finished or swarm.tally.enrolled < DEVICES:  # noqa: ASYNC110 - a tally has no event
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
    assert {(name, number) for name, number, _ in fake.updates} == expected
    assert len(fake.updates) == 6
    assert not fake.failures
    assert len({name for name, _ in expected}) > 2, "not the same two each time"
