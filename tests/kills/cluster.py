"""A coordinator as it runs in earnest, and who of it can be killed.

`serve` is an API that keeps a worker; a second worker runs beside it. Until the run is
over, nothing here ends a process by any other means than SIGKILL.
"""

import contextlib
import enum
import os
import pathlib
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from typing import Final

from coordinator.domain.rounds import Phase
from coordinator.store import inventory, rounds
from coordinator.store.engine import Store, Transaction
from tests.support.processes import Coordinator, wait_until

_API: Final = "serve"
_OTHER: Final = "worker"


class Victims(enum.StrEnum):
    """Who dies."""

    API = "the API"
    OWN = "the API's worker"
    OTHER = "the other worker"
    WORKERS = "both workers"
    ALL = "everything"


class Moment(enum.StrEnum):
    """Where the round was that somebody died in, as its rows and files show."""

    COLLECTING = "collecting"
    WAITING = "waiting for a fold"  # or in the hands of one who lives
    FOLDING = "folding"  # by one who died
    PUBLISHING = "publishing"  # its weights are written, its release is not
    DELETING = "deleting updates"  # its release is written, its updates are there


class Cluster:
    """The processes, and what lies in their database and folder."""

    def __init__(self, coordinator: Coordinator, database_url: str) -> None:
        self._coordinator = coordinator
        self._database_url = database_url
        self._groups: set[int] = set()  # of every API so far; its worker may outlive it

    def start(self) -> None:
        """Start what does not run and does not come back by itself."""
        for role in (_API, _OTHER):
            if not self._coordinator.runs(role):
                self._coordinator.start(role)
        self._groups.add(self._coordinator.pid(_API))

    def stop(self) -> None:
        """Ask everything to end, and wait for it."""
        self._coordinator.stop()
        wait_until(lambda: not any(map(_has_members, self._groups)), "the last worker")

    def kill(self, victims: Victims) -> Moment:
        """Kill, and say where that struck."""
        if victims in {Victims.OWN, Victims.WORKERS}:
            wait_until(lambda: self._own_worker() is not None, "the API's worker")
        own = self._own_worker()
        workers = {
            Victims.API: set(),
            Victims.OWN: {own},
            Victims.OTHER: {self._coordinator.pid(_OTHER)},
            Victims.WORKERS: {own, self._coordinator.pid(_OTHER)},
            Victims.ALL: {own, self._coordinator.pid(_OTHER)},
        }[victims] - {None}
        if victims is Victims.ALL:
            for group in self._groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victims in {Victims.API, Victims.ALL}:
            self._coordinator.kill(_API)
        if victims in {Victims.OTHER, Victims.WORKERS, Victims.ALL}:
            self._coordinator.kill(_OTHER)
        with self._opened(all_are_dead=victims is Victims.ALL) as store:
            dead = {f"{socket.gethostname()}:{pid}" for pid in workers}
            return store.read(lambda tx: self._moment(tx, dead))

    def _own_worker(self) -> int | None:
        """Process id of the worker that the API keeps, if there is one now."""
        api = self._coordinator.pid(_API)
        found = pathlib.Path(f"/proc/{api}/task/{api}/children").read_text().split()
        return int(found[0]) if found else None

    @contextlib.contextmanager
    def _opened(self, *, all_are_dead: bool) -> Iterator[Store]:
        with tempfile.TemporaryDirectory() as aside:
            url = self._database_url
            if all_are_dead and url.startswith("sqlite"):
                # Whoever opens it next mends what the dead left: not the one who looks.
                database = pathlib.Path(url.removeprefix("sqlite:///"))
                for path in database.parent.glob(f"{database.name}*"):
                    shutil.copy(path, aside)
                url = f"sqlite:///{aside}/{database.name}"
            store = Store(url, durable=False)
            try:
                yield store
            finally:
                store.close()

    def _moment(self, tx: Transaction, dead: set[str]) -> Moment:
        (round_,) = rounds.unfinished(tx)
        assert round_.attempt == 1, "a round was given up"
        if round_.phase is Phase.AGGREGATING:
            if round_.owner not in dead:
                return Moment.WAITING
            return Moment.PUBLISHING if self._unnamed(tx) else Moment.FOLDING
        if dead and rounds.with_undeleted_blobs(tx):
            return Moment.DELETING
        return Moment.COLLECTING

    def _unnamed(self, tx: Transaction) -> bool:
        """Whether weights or a state are written that no version names."""
        blobs = self._coordinator.data_dir / "blobs"
        named = inventory.named_files(tx)
        files = [path.relative_to(blobs) for path in blobs.glob("sha256/*/*")]
        return any(str(path) not in named for path in files)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
