"""API and worker as processes of their own, seen by who operates them."""

import json
import pathlib
from collections.abc import Iterator

import httpx
import pytest

from coordinator.protocol import paths
from tests.support.processes import (
    PATIENCE_S,
    Coordinator,
    FixedDevice,
    wait_until,
    write_wide_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.tf]
SIZE = 1_000


@pytest.fixture
def coordinator(
    tmp_path: pathlib.Path, empty_database_url: str
) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", SIZE)
    running = Coordinator(
        tmp_path,
        database_url=empty_database_url,
        models_dir=tmp_path / "models",
        settings={"SHOAL_LOG_FORMAT": "json"},
    )
    running.start("api")
    yield running
    running.stop()


def readiness(coordinator: Coordinator) -> tuple[int, str]:
    response = httpx.get(coordinator.url + paths.READY)
    worker: str = response.json()["checks"]["worker"]
    return response.status_code, worker


def metric(coordinator: Coordinator, name: str) -> float:
    response = httpx.get(coordinator.url + paths.METRICS, headers=coordinator.operator)
    response.raise_for_status()
    (line,) = [x for x in response.text.splitlines() if x.startswith(f"shoal_{name} ")]
    return float(line.rpartition(" ")[2])


def test_a_round_is_seen_from_outside(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    assert readiness(coordinator) == (503, "none is running")
    coordinator.start("worker")
    wait_until(lambda: readiness(coordinator) == (200, "ok"), "the worker")
    plan = {"model": "wide", "rounds": 1, "round": {"goal": 2, "minimum": 2}}
    httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": "task", "plan": plan},
    ).raise_for_status()
    manifest = write_wide_model(tmp_path / "again", SIZE)
    for number in range(2):
        device = FixedDevice(coordinator.url, number, manifest)
        device.take_part()
        device.close()

    def committed() -> float:
        return metric(coordinator, 'events_total{type="round_committed"}')

    wait_until(lambda: committed() == 1, "the round in the metrics")
    assert metric(coordinator, 'check_ins_total{answer="assigned"}') == 2
    assert metric(coordinator, "uploads_total") == 2
    folding = 'round_phase_seconds_count{kind="train",phase="aggregating"}'
    assert metric(coordinator, folding) == 1
    assert metric(coordinator, "workers") == 1

    worker = coordinator.ask_to_stop("worker")
    assert worker.wait(PATIENCE_S) == 0
    assert readiness(coordinator) == (503, "none is running")
    assert httpx.get(coordinator.url + paths.HEALTH).status_code == 200
    lines = [json.loads(x) for x in coordinator.log.splitlines() if x.startswith("{")]
    (done,) = [line for line in lines if "2 results, version 1" in line["message"]]
    assert (done["task"], done["round"]) == ("task", 1)
