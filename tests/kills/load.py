"""Devices that take part round after round, and keep every receipt that they get."""

import collections
import dataclasses
import threading

from coordinator.protocol.manifest import Manifest
from coordinator.protocol.messages import Receipt
from tests.support.processes import FixedDevice, wait_until

#: Workers load TensorFlow, several at a time after a kill of everything.
_PATIENCE_S = 300.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a device holds in its hands after a 2xx."""

    device: int
    round_number: int
    receipt: Receipt
    was_lost: bool  #: the update counted before, and its first answer never came


class Load:
    """Fixed devices, a thread each, that go on until they are told where to end."""

    def __init__(self, url: str, manifest: Manifest, *, devices: int) -> None:
        self._devices = [FixedDevice(url, n, manifest) for n in range(devices)]
        self._threads = [
            threading.Thread(target=self._go_on, args=(number,), daemon=True)
            for number in range(devices)
        ]
        self.size = devices
        self._lock = threading.Lock()
        self._last: int | None = None
        self._proofs: list[Proof] = []
        self._reports = collections.Counter[int]()  # by round

    def start(self) -> None:
        """Let the devices begin."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> int:
        """Let them end together. Returns the number of the last round."""
        with self._lock:
            # None has reported twice more than another: nobody is past this round.
            self._last = self._newest() + 2
        wait_until(
            lambda: not any(thread.is_alive() for thread in self._threads),
            "the devices",
            patience_s=_PATIENCE_S,
        )
        for device in self._devices:
            device.close()
        return self._last

    def body(self, device: int, round_number: int) -> bytes:
        """The update of a device in a round."""
        return self._devices[device].body(round_number)

    @property
    def proofs(self) -> list[Proof]:
        """What was answered with 2xx so far."""
        with self._lock:
            return list(self._proofs)

    @property
    def newest(self) -> int:
        """The newest round that took an update, 0 if none did."""
        with self._lock:
            return self._newest()

    @property
    def is_complete(self) -> bool:
        """Whether the newest round has the update of every device."""
        with self._lock:
            return self._reports[self._newest()] == self.size

    @property
    def uploading(self) -> int:
        """How many updates are on their way."""
        paths = [device.under_way for device in self._devices]
        return sum(path is not None and path.endswith("/update") for path in paths)

    @property
    def refusals(self) -> list[str]:
        """What any device was answered that is not a receipt."""
        return [text for device in self._devices for text in device.refusals]

    def _newest(self) -> int:
        return max(self._reports, default=0)

    def _go_on(self, number: int) -> None:
        device, reported = self._devices[number], 0
        while self._last is None or reported < self._last:
            taken = device.take_part()
            if taken is None:
                continue
            reported, receipt = taken
            failed_at = device.failed_at
            proof = Proof(
                device=number,
                round_number=reported,
                receipt=receipt,
                was_lost=failed_at is not None and receipt.accepted_at < failed_at,
            )
            with self._lock:
                self._proofs.append(proof)
                self._reports[reported] += 1


def wait_for_progress(load: Load, since: int) -> None:
    """Wait until a round later than ``since`` took an update: ``since`` is committed.

    Raises:
        AssertionError: That takes too long even where cores are shared by many.
    """
    wait_until(
        lambda: load.newest > since, f"a round after {since}", patience_s=_PATIENCE_S
    )


def wait_for_a_complete_round(load: Load) -> None:
    """Wait until every device has reported in the newest round.

    Raises:
        AssertionError: As ``wait_for_progress``.
    """
    wait_until(lambda: load.is_complete, "a complete round", patience_s=_PATIENCE_S)
