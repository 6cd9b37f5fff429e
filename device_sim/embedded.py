"""A coordinator of the swarm's own: real processes, on loopback, in the run folder.

Decided here: it runs in a process group of its own, so that Ctrl-C at the terminal
reaches it only through ``stop``, which asks politely, waits, and then makes sure that
nothing of the group is left.
"""

import asyncio
import contextlib
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Final

from device_sim.client import Client

_LOG_TAIL_LINES: Final = 15
_STOP_S: Final = 10.0
_READY_S: Final = 60.0
_READY_POLL_S: Final = 0.05
_HOST: Final = "127.0.0.1"


class CoordinatorFailed(Exception):
    """The embedded coordinator did not start, or ended by itself."""


class EmbeddedCoordinator:
    """``python -m coordinator serve`` with its data in the run folder."""

    def __init__(
        self,
        run_folder: pathlib.Path,
        *,
        database_url: str | None = None,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Keep its data under ``run_folder``; a simulation needs no power cut.

        ``settings`` are more variables of its environment.
        """
        self.data_dir = run_folder / "coordinator"
        self.log_path = run_folder / "coordinator.log"
        self.url = f"http://{_HOST}:{free_port()}"
        self._database_url = database_url
        self._durable = durable
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        """Start its processes; they are not ready yet."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coordinator", "serve"],
            env=os.environ | self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    async def wait_until_ready(self, calls: Client) -> None:
        """Return when it answers that devices may come.

        Raises:
            CoordinatorFailed: It has ended, or is not ready within a minute.
        """
        try:
            async with asyncio.timeout(_READY_S):
                while not await calls.is_ready():
                    self.check()
                    await asyncio.sleep(_READY_POLL_S)
        except TimeoutError as error:
            raise CoordinatorFailed(
                f"the embedded coordinator is not ready after {_READY_S:g} s; the end "
                f"of {self.log_path}:\n{self._log_tail()}"
            ) from error

    def check(self) -> None:
        """Raise CoordinatorFailed if it has ended."""
        if self._process is None:
            raise CoordinatorFailed("the embedded coordinator was never started")
        status = self._process.poll()
        if status is not None:
            raise CoordinatorFailed(
                f"the embedded coordinator ended with status {status}; the end of "
                f"{self.log_path}:\n{self._log_tail()}"
            )

    def operator_token(self) -> str:
        """Return the token that it wrote for its operator. Needs it to be ready."""
        return (self.data_dir / "operator.token").read_text().strip()

    def stop(self) -> None:
        """End every process it started. Blocks for up to ten seconds."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(process.pid, signal.SIGKILL)
        if self._log is not None:
            self._log.close()
            self._log = None

    def resume_command(self) -> str:
        """Return the shell command that goes on from its database."""
        settings = {
            key: value
            for key, value in self._environment().items()
            if key in ("SHOAL_DATA_DIR", "SHOAL_DATABASE_URL")
        }
        words = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
        return " ".join([*words, "python -m coordinator serve"])

    def _environment(self) -> dict[str, str]:
        settings = {
            "SHOAL_DATA_DIR": str(self.data_dir.resolve()),
            "SHOAL_PORT": self.url.rpartition(":")[2],
            "SHOAL_DURABLE": str(self._durable).lower(),
        }
        if self._database_url is not None:
            settings["SHOAL_DATABASE_URL"] = self._database_url
        return settings | self._settings

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
