"""Devices that vanish: rounds end by their deadline, whatever devices do."""

import concurrent.futures
import datetime as dt
import pathlib
from collections.abc import Iterator

import httpx
import pytest

from coordinator.protocol import paths
from tests.support.processes import (
    Coordinator,
    FixedDevice,
    wait_until,
    write_wide_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.tf]
DEVICES = 20
ROUNDS = 3
DEADLINE_S = 3.0
TASK = "dropout"
SLACK_S = 2.0  # from a deadline to the worker's look at it, on a busy machine


@pytest.fixture
def coordinator(tmp_path: pathlib.Path) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", 1000)
    running = Coordinator(tmp_path, database_url=None, models_dir=tmp_path / "models")
    running.start("api")
    running.start("worker")
    # The worker loads its numerics for some seconds, and deadlines must not pass then.
    wait_until(lambda: "computes with" in running.log, "the worker")
    yield running
    running.stop()


def create_task(coordinator: Coordinator) -> None:
    plan = {
        "model": "wide",
        "rounds": ROUNDS,
        "round": {
            "goal": DEVICES,
            "minimum": DEVICES // 2,
            "lease_s": 1,
            "deadline_s": DEADLINE_S,
            "max_attempts": 2,
        },
    }
    httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": TASK, "plan": plan},
    ).raise_for_status()


def devices_of(coordinator: Coordinator, folder: pathlib.Path) -> list[FixedDevice]:
    manifest = write_wide_model(folder / "again", 1000)
    return [FixedDevice(coordinator.url, n, manifest) for n in range(DEVICES)]


def status(coordinator: Coordinator) -> str:
    state: str = coordinator.get(paths.task(TASK))["status"]
    return state


def seconds(round_: dict[str, str]) -> float:
    opened, closed = (
        dt.datetime.fromisoformat(round_[key]) for key in ("opened_at", "closed_at")
    )
    return (closed - opened).total_seconds()


def test_rounds_end_by_their_deadline_when_a_third_of_the_devices_vanish(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    devices = devices_of(coordinator, tmp_path)
    vanishing = DEVICES * 3 // 10
    create_task(coordinator)
    for number in range(1, ROUNDS + 1):
        for device in devices[:vanishing]:
            device.take_a_place()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(FixedDevice.take_part, devices[vanishing:]))
        wait_until(
            lambda number=number: (
                coordinator.get(paths.task(TASK))["rounds_committed"] == number
            ),
            f"round {number}",
        )
    for device in devices:
        device.close()

    rounds = coordinator.get(paths.rounds(TASK))["rounds"]
    assert [(r["number"], r["attempt"], r["phase"]) for r in rounds] == [
        (number, 1, "committed") for number in range(1, ROUNDS + 1)
    ]
    assert [r["accepted"] for r in rounds] == [DEVICES - vanishing] * ROUNDS
    assert [r["lapsed"] for r in rounds] == [vanishing] * ROUNDS
    assert max(seconds(r) for r in rounds) < DEADLINE_S + SLACK_S
    assert status(coordinator) == "finished"


def test_a_task_stops_and_says_why_when_every_device_vanishes(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    devices = devices_of(coordinator, tmp_path)
    create_task(coordinator)
    for device in devices:
        device.take_a_place()
    wait_until(lambda: status(coordinator) == "stopped", "the task to stop")
    for device in devices:
        device.close()

    task = coordinator.get(paths.task(TASK))
    assert task["reason"] == (
        "round 1 was abandoned 2 times, at last because 0 results were accepted by "
        "the deadline, the minimum is 10"
    )
    assert task["version"] == 0
    rounds = coordinator.get(paths.rounds(TASK))["rounds"]
    assert [(r["number"], r["attempt"], r["phase"]) for r in rounds] == [
        (1, 1, "abandoned"),
        (1, 2, "abandoned"),
    ]
    assert max(seconds(r) for r in rounds) < DEADLINE_S + SLACK_S
