"""A key authority of the swarm's own, beside the embedded coordinator.

For trying things out: who runs both could read every update. A real one is run by
somebody else, elsewhere.
"""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
from typing import IO, Final

from device_sim.embedded import CoordinatorFailed, free_port

_READY_S: Final = 60.0
_POLL_S: Final = 0.05
_STOP_S: Final = 5.0


class EmbeddedAuthority:
    """``python -m coordinator key-authority`` with its data in the run folder."""

    def __init__(self, run_folder: pathlib.Path) -> None:
        """Keep its data under ``run_folder``."""
        self.folder = run_folder / "authority"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log_path = run_folder / "authority.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    async def start(self) -> None:
        """Start it, and return when it has written its keys.

        Raises:
            CoordinatorFailed: It ended, or is not ready within a minute.
        """
        process = self._launch()
        waited = 0.0
        while not await asyncio.to_thread(self._answers):
            if process.poll() is not None or waited > _READY_S:
                raise CoordinatorFailed(
                    f"the key authority did not start; see {self._log_path}"
                )
            await asyncio.sleep(_POLL_S)
            waited += _POLL_S

    def _launch(self) -> subprocess.Popen[bytes]:
        self._log = self._log_path.open("ab")
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "coordinator", "key-authority"]
        self._process = process = subprocess.Popen(  # noqa: S603 - our own module
            [*command, "--data", str(self.folder), "--port", port],
            env={k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return process

    def settings(self) -> dict[str, str]:
        """Return what its coordinator is told."""
        token = (self.folder / "coordinator.token").read_text().strip()
        return {"SHOAL_AUTHORITY_URL": self.url, "SHOAL_AUTHORITY_TOKEN": token}

    def public_key(self) -> bytes:
        """Return what devices pin, 32 bytes."""
        return read_public_key(self.folder / "authority.pub")

    def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _answers(self) -> bool:
        host, _, port = self.url.removeprefix("http://").partition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return True
        except OSError:
            return False


def read_public_key(path: pathlib.Path) -> bytes:
    """Read an authority's public key, 64 hex digits.

    Raises:
        ValueError: The file holds none.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} holds no key of an authority: {error}") from error
    if len(key) != 32:  # noqa: PLR2004 - of Ed25519
        raise ValueError(f"{path} holds {len(key)} bytes, a key has 32")
    return key
