"""A coordinator of the swarm's own: real processes, on loopback, in the run folder."""

import asyncio
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Final

from device_sim.client import Client
from device_sim.processes import HOST, OwnProcess, free_port

_READY_S: Final = 60.0
_READY_POLL_S: Final = 0.05


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
        self._process = OwnProcess("the embedded coordinator", self.log_path)
        self.url = f"http://{HOST}:{free_port()}"
        self._database_url = database_url
        self._durable = durable
        self._settings = dict(settings or {})

    def start(self) -> None:
        """Start its processes; they are not ready yet."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._process.start(["serve"], os.environ | self._environment())

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
        except TimeoutError:
            self._process.fail(f"is not ready after {_READY_S:g} s")

    def check(self) -> None:
        """Raise CoordinatorFailed if it has ended."""
        self._process.check()

    def operator_token(self) -> str:
        """Return the token that it wrote for its operator. Needs it to be ready."""
        return (self.data_dir / "operator.token").read_text().strip()

    def stop(self) -> None:
        """End every process it started. Blocks for up to ten seconds."""
        self._process.stop()

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
