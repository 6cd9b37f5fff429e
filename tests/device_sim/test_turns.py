"""When a device of a population is due."""

import asyncio
import datetime as dt

import pytest

from coordinator.protocol.operations import RoundState, TaskState
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind
from device_sim import behaviour
from device_sim.turns import Turns
from tests.device_sim.fake_coordinator import FakeCoordinator, round_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HABITS = behaviour.Behaviour(devices=2, population=8, seed=1)


def state_of(committed: int, *open_rounds: RoundState) -> TaskState:
    return TaskState(
        id="fake",
        status="running",
        reason=None,
        plan=Plan(),
        version=committed,
        rounds_committed=committed,
        created_at=NOW,
        open_rounds=open_rounds,
    )


async def is_due(turns: Turns, device: int) -> bool:
    due = asyncio.ensure_future(turns.due(device))
    await asyncio.sleep(0)
    due.cancel()
    return due.done() and not due.cancelled()


async def due_of(turns: Turns) -> set[int]:
    return {device for device in range(8) if await is_due(turns, device)}


async def test_nobody_is_due_before_the_task_is_known_and_then_its_cohort():
    turns = Turns(HABITS)
    assert await due_of(turns) == set()
    turns.tell(state_of(0, round_of(Kind.TRAIN, 1)))
    assert await due_of(turns) == set(HABITS.cohort(1))
    turns.tell(state_of(1, round_of(Kind.TRAIN, 2)))
    assert await due_of(turns) == set(HABITS.cohort(2))


async def test_a_device_that_has_trained_is_due_for_the_next_attempt_and_evaluations():
    turns = Turns(HABITS)
    one, two = HABITS.cohort(1)
    assignment = FakeCoordinator()._assignment(1)
    turns.tell(state_of(0, round_of(Kind.TRAIN, 1)))
    turns.done(one, assignment)
    assert await due_of(turns) == {two}
    turns.tell(state_of(0, round_of(Kind.TRAIN, 1), round_of(Kind.EVALUATE, 1)))
    assert await due_of(turns) == {one, two}
    turns.tell(state_of(0, round_of(Kind.TRAIN, 1, attempt=2)))
    assert await due_of(turns) == {one, two}


async def test_the_last_evaluation_has_a_cohort_too():
    turns = Turns(HABITS)
    turns.tell(state_of(10, round_of(Kind.EVALUATE, 10)))
    assert await due_of(turns) == set(HABITS.cohort(11))


async def test_a_device_that_rests_is_woken_by_news_only():
    turns = Turns(HABITS)
    turns.tell(state_of(0, round_of(Kind.TRAIN, 1)))
    resting = asyncio.ensure_future(turns.rest(60))
    await asyncio.sleep(0)
    turns.tell(state_of(0, round_of(Kind.TRAIN, 1)))
    await asyncio.sleep(0)
    assert not resting.done()
    turns.tell(state_of(1, round_of(Kind.TRAIN, 2)))
    async with asyncio.timeout(5):
        await resting


async def test_watching_ends_with_the_error_of_the_one_who_is_asked():
    async def fail() -> TaskState:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await Turns(HABITS).watch(fail)
