"""Devices on a simulated clock: who is first, and how long it would have taken."""

import asyncio
import itertools
from collections.abc import Sequence

import httpx
import numpy as np
import pytest

from coordinator.protocol.vocabulary import FailureReason, Kind
from device_sim import behaviour, cache, client, trainer
from device_sim.data import Shard
from device_sim.participant import Participant
from device_sim.simulated import SimulatedSwarm
from device_sim.trace import Profile
from tests.device_sim.fake_coordinator import FakeCoordinator, round_of

EXAMPLES = 10  # of every device, one epoch
FAST, SLOW = 0.1, 1.0


@pytest.fixture(scope="module")
def trainers() -> trainer.TrainerPool:
    return trainer.TrainerPool(2)


def shard_of(index: int) -> Shard:
    rng = np.random.default_rng(index)
    return Shard(
        name=f"writer-{index}",
        train_images=rng.integers(0, 256, (EXAMPLES, 28, 28), dtype=np.uint8),
        train_labels=rng.integers(0, 10, EXAMPLES, dtype=np.uint8),
        test_images=rng.integers(0, 256, (2, 28, 28), dtype=np.uint8),
        test_labels=rng.integers(0, 10, 2, dtype=np.uint8),
    )


def profile(
    seconds_per_example: float,
    *,
    bytes_per_s: float = 1e12,
    dropout: float = 0.0,
    windows: tuple[tuple[float, float], ...] = (),
) -> Profile:
    return Profile(
        seconds_per_example=seconds_per_example,
        down_bytes_per_s=bytes_per_s,
        up_bytes_per_s=bytes_per_s,
        dropout=dropout,
        windows=windows,
        starts_at_s=0.0,
    )


def enlist(
    http: httpx.AsyncClient,
    trainers: trainer.TrainerPool,
    habits: behaviour.Behaviour,
) -> list[Participant]:
    calls = client.Client(http, jitter=np.random.default_rng(0))
    library = cache.Library(cache.DownloadCache(calls))
    return [
        Participant(
            index=index,
            shard=shard_of(index),
            calls=calls,
            library=library,
            trainers=trainers,
            habits=habits,
            wait_s=0.0,
        )
        for index in range(habits.population or habits.devices)
    ]


async def run(
    fake: FakeCoordinator,
    trainers: trainer.TrainerPool,
    profiles: Sequence[Profile],
    habits: behaviour.Behaviour | None = None,
) -> SimulatedSwarm:
    habits = habits or behaviour.Behaviour(devices=len(profiles))
    async with fake.client() as http, asyncio.timeout(30):
        swarm = SimulatedSwarm(
            enlist(http, trainers, habits), profiles=profiles, habits=habits
        )
        swarm.begin(fake.state)
        await swarm.run()
    return swarm


def order(fake: FakeCoordinator) -> list[tuple[int, int]]:
    """Each update's device and round, as they arrived."""
    return [(int(name.rpartition("-")[2]), number) for name, number, _ in fake.updates]


async def test_updates_arrive_in_the_order_of_the_devices_speeds(
    trainers: trainer.TrainerPool,
):
    fake = FakeCoordinator(rounds=2, goal=3)
    swarm = await run(fake, trainers, [profile(s) for s in (0.3, 0.1, 0.2)])
    assert order(fake) == [(1, 1), (2, 1), (0, 1), (1, 2), (2, 2), (0, 2)]
    assert swarm.seconds_of(1) == pytest.approx(3.0, rel=1e-3)
    assert swarm.seconds_of(2) == pytest.approx(3.0, rel=1e-3)
    assert swarm.seconds_of(3) is None
    assert swarm.tally.updates == 6


async def test_a_slow_network_counts_with_the_bytes_that_cross_it(
    trainers: trainer.TrainerPool,
):
    fake = FakeCoordinator(rounds=2, goal=1)
    swarm = await run(fake, trainers, [profile(1e-9, bytes_per_s=1000.0)])
    first, second = (body for _, _, body in fake.updates)
    files = sum(map(len, fake.files.values()))
    assert swarm.seconds_of(1) == pytest.approx((files + len(first)) / 1000)
    assert swarm.seconds_of(2) == pytest.approx(
        (len(fake.weights) + len(second)) / 1000
    ), "the graph is kept"


async def test_a_device_that_is_away_comes_when_its_window_opens(
    trainers: trainer.TrainerPool,
):
    fake = FakeCoordinator(rounds=1, goal=2)
    swarm = await run(
        fake, trainers, [profile(FAST, windows=((100.0, 200.0),)), profile(FAST)]
    )
    assert order(fake) == [(1, 1), (0, 1)]
    assert swarm.seconds_of(1) == pytest.approx(101.0, rel=1e-3)


async def test_a_device_that_drops_out_says_so_and_tries_again(
    trainers: trainer.TrainerPool,
):
    fake = FakeCoordinator(rounds=1, goal=2, is_forgiving=True)
    swarm = await run(fake, trainers, [profile(SLOW, dropout=0.9), profile(FAST)])
    assert swarm.tally.vanished == len(fake.failures) > 0
    assert {failure.reason for failure in fake.failures} == {FailureReason.INTERRUPTED}
    assert order(fake) == [(1, 1), (0, 1)]
    assert (swarm.seconds_of(1) or 0) > 10.0


async def test_a_cohort_of_the_population_works_in_each_round(
    trainers: trainer.TrainerPool,
):
    habits = behaviour.Behaviour(devices=2, population=6, seed=4)
    fake = FakeCoordinator(rounds=3, goal=2)
    await run(fake, trainers, [profile(FAST)] * 6, habits)
    assert set(order(fake)) == {
        (device, number) for number in (1, 2, 3) for device in habits.cohort(number)
    }


async def test_equal_devices_come_in_an_order_that_the_round_draws(
    trainers: trainer.TrainerPool,
):
    fake = FakeCoordinator(rounds=4, goal=4)
    await run(fake, trainers, [profile(FAST)] * 4)
    orders = {tuple(order(fake)[at : at + 4]) for at in range(0, 16, 4)}
    assert len({tuple(device for device, _ in each) for each in orders}) > 1
    again = FakeCoordinator(rounds=4, goal=4)
    await run(again, trainers, [profile(FAST)] * 4)
    assert order(again) == order(fake)


async def test_the_clock_stands_still_while_a_round_is_aggregated(
    trainers: trainer.TrainerPool,
):
    fake = FakeCoordinator(rounds=1, goal=2)
    habits = behaviour.Behaviour(devices=2)
    phases = itertools.chain(["aggregating"] * 5, itertools.repeat("collecting"))
    seen: list[float] = []

    async def state():  # noqa: ANN202 - of the fake
        found = await fake.state()
        phase = next(phases)
        seen.append(swarm.now)
        open_ = round_of(Kind.TRAIN, 1).model_copy(update={"phase": phase})
        return found.model_copy(
            update={"open_rounds": () if fake.is_finished else (open_,)}
        )

    async with fake.client() as http, asyncio.timeout(30):
        swarm = SimulatedSwarm(
            enlist(http, trainers, habits),
            profiles=[profile(FAST), profile(SLOW)],
            habits=habits,
        )
        swarm.begin(state)
        await swarm.run()
    assert seen[:6] == [0.0] * 6
    assert order(fake) == [(0, 1), (1, 1)]
