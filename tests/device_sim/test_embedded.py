"""The coordinator of a swarm's own: how it fails, and that nothing of it is left."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from device_sim import client
from device_sim.connector import Connector
from device_sim.embedded import EmbeddedCoordinator
from device_sim.processes import CoordinatorFailed

# A process that, like the coordinator, has a child of its own; both ignore SIGTERM.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
subprocess.Popen(child, close_fds=False)
signal.pause()
"""


async def test_a_coordinator_that_does_not_start_says_why(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SHOAL_NO_SUCH_SETTING", "1")
    embedded = EmbeddedCoordinator(tmp_path)
    embedded.start()
    async with Connector(embedded.url, traffic=client.Traffic()) as connector:
        with pytest.raises(CoordinatorFailed, match="SHOAL_NO_SUCH_SETTING"):
            await embedded.wait_until_ready(await connector.client())
    embedded.stop()


def test_one_that_was_never_started_is_no_surprise(tmp_path: pathlib.Path):
    embedded = EmbeddedCoordinator(tmp_path)
    with pytest.raises(CoordinatorFailed, match="never started"):
        embedded.check()
    embedded.stop()


def test_stopping_ends_the_whole_group_even_if_it_does_not_want_to(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    start = subprocess.Popen
    held, handed_on = os.pipe()  # held by every process of the group

    def start_stubborn(
        _: list[str],
        **options: Any,  # noqa: ANN401 - as Popen takes them
    ) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", STUBBORN], pass_fds=(handed_on,), **options)

    monkeypatch.setattr("device_sim.processes.subprocess.Popen", start_stubborn)
    monkeypatch.setattr("device_sim.processes._STOP_S", 0.2)
    embedded = EmbeddedCoordinator(tmp_path)
    embedded.start()
    os.close(handed_on)
    while embedded.log_path.read_bytes() != b"up\n":
        embedded.check()
    embedded.stop()
    assert os.read(held, 1) == b"", "the end of the pipe: nobody holds it any more"
    os.close(held)


def test_the_resume_command_names_what_the_swarm_used(tmp_path: pathlib.Path):
    folder = tmp_path / "a run"
    plain = EmbeddedCoordinator(folder).resume_command()
    assert f"SHOAL_DATA_DIR='{folder}/coordinator'" in plain
    assert plain.endswith("python -m coordinator serve")
    assert "SHOAL_PORT" not in plain
    url = "postgresql://user@host/name"
    assert url in EmbeddedCoordinator(folder, database_url=url).resume_command()
