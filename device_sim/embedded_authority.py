"""A key authority of the swarm's own, beside the embedded coordinator.

For trying things out: who runs both could read every update. A real one is run by
somebody else, elsewhere.
"""

import asyncio
import os
import pathlib
import socket
from typing import Final

from device_sim.processes import HOST, OwnProcess, free_port

_READY_S: Final = 60.0
_POLL_S: Final = 0.05
_KEY_BYTES: Final = 32  # of Ed25519


class EmbeddedAuthority:
    """``python -m coordinator key-authority`` with its data in the run folder."""

    def __init__(self, run_folder: pathlib.Path) -> None:
        """Keep its data under ``run_folder``."""
        self.folder = run_folder / "authority"
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}"
        self._process = OwnProcess("the key authority", run_folder / "authority.log")

    async def start(self) -> None:
        """Start it, and return when it has written its keys.

        Raises:
            CoordinatorFailed: It ended, or is not ready within a minute.
        """
        outside = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
        command = ["key-authority", "--data", str(self.folder)]
        self._process.start([*command, "--port", str(self._port)], outside)
        try:
            async with asyncio.timeout(_READY_S):
                while not await asyncio.to_thread(self._answers):
                    self._process.check()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            self._process.fail(f"is not ready after {_READY_S:g} s")

    def settings(self) -> dict[str, str]:
        """Return what its coordinator is told."""
        token = (self.folder / "coordinator.token").read_text().strip()
        return {"SHOAL_AUTHORITY_URL": self.url, "SHOAL_AUTHORITY_TOKEN": token}

    def public_key(self) -> bytes:
        """Return what devices pin, 32 bytes."""
        return read_public_key(self.folder / "authority.pub")

    def stop(self) -> None:
        """End it. Blocks for up to ten seconds."""
        self._process.stop()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self._port), timeout=1):
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
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path} holds {len(key)} bytes, a key has 32")
    return key
