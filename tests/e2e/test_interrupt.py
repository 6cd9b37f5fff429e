"""Ctrl-C in the middle: nothing is left running, and the database goes on."""

import os
import pathlib
import signal
import subprocess
import sys

import httpx
import pytest

from coordinator.protocol import paths
from tests.support.processes import ROOT, Coordinator, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.tf]
PLAN = """
model = "cnn"
rounds = 40
[round]
goal = 4
minimum = 4
lease_s = 10
"""
TASK = "interrupted"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)]
)
def test_an_interrupted_swarm_ends_whole_and_can_be_gone_on_from(
    tmp_path: pathlib.Path, number: signal.Signals, status: int
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "device_sim", "--n", "4", "--plan", str(plan)]
    log = tmp_path / "swarm.log"
    with log.open("wb") as output:
        swarm = subprocess.Popen(
            [*command, "--task", TASK, "--out", str(out)],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
        wait_until(lambda: b"round   2/40" in log.read_bytes(), "two rounds")
        swarm.send_signal(number)
        assert swarm.wait(timeout=60) == status, log.read_text()
    assert processes_that_mention(out) == []

    running = Coordinator(
        out,
        database_url=None,
        models_dir=ROOT / "tflite_models" / "artefacts",
        data_dir=out / "coordinator",
    )
    running.start("api")
    running.start("worker")
    try:
        before = running.get(paths.task(TASK))
        assert before["status"] == "running"
        assert before["rounds_committed"] >= 2
        joined = subprocess.run(
            [*command, "--coordinator", running.url, "--rounds", "2"],
            cwd=ROOT,
            check=False,
            capture_output=True,
            timeout=120,
        )
        assert joined.returncode == 0, joined.stderr.decode()
        wait_until(
            lambda: (
                running.get(paths.task(TASK))["rounds_committed"]
                >= before["rounds_committed"] + 2
            ),
            "two more rounds",
        )
        newest = running.get(paths.task(TASK))["version"]
        response = httpx.get(running.url + paths.weights("cnn", newest))
        assert response.status_code == 200
    finally:
        running.stop()


def processes_that_mention(folder: pathlib.Path) -> list[str]:
    """Command lines and environments of processes that name ``folder``."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            content = (entry / "cmdline").read_bytes() + (
                entry / "environ"
            ).read_bytes()
        except OSError:
            continue
        if str(folder).encode() in content:
            found.append(content.decode(errors="replace"))
    return found
