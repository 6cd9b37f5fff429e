"""A process of the swarm's own, which is ended with it.

Decided here: it runs in a process group of its own, so that Ctrl-C at the terminal
reaches it only through ``stop``, which asks politely, waits, and then makes sure that
nothing of the group is left.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Final, NoReturn

HOST: Final = "127.0.0.1"
_LOG_TAIL_LINES: Final = 15
_STOP_S: Final = 10.0


class CoordinatorFailed(Exception):
    """A process of the coordinator's did not start, or ended by itself."""


class OwnProcess:
    """``python -m coordinator`` with a command, and its log."""

    def __init__(self, what: str, log_path: pathlib.Path) -> None:
        """Name it in messages, and log to ``log_path``."""
        self.log_path = log_path
        self._what = what
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; it is not ready yet."""
        self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "coordinator", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def check(self) -> None:
        """Raise CoordinatorFailed if it has ended."""
        if self._process is None:
            raise CoordinatorFailed(f"{self._what} was never started")
        status = self._process.poll()
        if status is not None:
            self.fail(f"ended with status {status}")

    def fail(self, how: str) -> NoReturn:
        """Raise CoordinatorFailed, with what it logged last."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        tail = "\n".join(lines[-_LOG_TAIL_LINES:])
        raise CoordinatorFailed(
            f"{self._what} {how}; the end of {self.log_path}:\n{tail}"
        )

    def stop(self) -> None:
        """End it and all that it started. Blocks for up to ten seconds."""
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


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
