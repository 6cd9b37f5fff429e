"""What the API process takes: no TensorFlow, little memory."""

import pathlib
from collections.abc import Iterator

import httpx
import pytest

from coordinator.protocol import paths
from tests.support.processes import Coordinator, FixedDevice, write_wide_model

DEVICES = 8
MOST_RESIDENT_KIB = 200 * 1024


@pytest.fixture
def api(tmp_path: pathlib.Path) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", 700_000)
    running = Coordinator(tmp_path, database_url=None, models_dir=tmp_path / "models")
    running.start("api")
    yield running
    running.stop()


def test_the_api_stays_small_and_without_tensorflow(
    api: Coordinator, tmp_path: pathlib.Path
) -> None:
    manifest = write_wide_model(tmp_path / "again", 700_000)
    plan = {"model": "wide", "round": {"goal": DEVICES, "minimum": DEVICES}}
    httpx.post(
        api.url + paths.TASKS,
        headers=api.operator,
        json={"id": "task", "plan": plan},
    ).raise_for_status()
    for number in range(DEVICES):
        device = FixedDevice(api.url, number, manifest)
        device.take_part()
        device.close()
        httpx.get(api.url + paths.weights("wide", 0)).raise_for_status()
    (round_,) = api.get(paths.rounds("task"))["rounds"]
    assert round_["accepted"] == DEVICES

    process = pathlib.Path("/proc") / str(api.pid("api"))
    fields = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines()
    )
    resident_kib = int(fields["VmHWM"].split()[0])  # the most it ever was
    assert resident_kib < MOST_RESIDENT_KIB
    assert "tensorflow" not in (process / "maps").read_text()
