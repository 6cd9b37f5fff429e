"""What a device's owner may ask for: to see what is kept of it, and to have it erased.

What has become part of a version cannot be taken out of it: the sum of many does not
hold its terms any more. What has not is withdrawn.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.domain.audit import Decision
from coordinator.domain.events import Happening
from coordinator.domain.rounds import Phase
from coordinator.domain.uploads import Part
from coordinator.store import assignments, audit, devices, rounds, subjects, uploads
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.subjects import Contributions
from coordinator.usecases.devices import shut_out
from coordinator.usecases.reporting import note


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """A device of which nothing is kept but that it took part."""

    device_id: str
    erased_at: dt.datetime
    contributions: Contributions  #: which stay


@dataclasses.dataclass(slots=True)
class _Files:
    """What nothing names any more once the transaction is committed."""

    blobs: list[str] = dataclasses.field(default_factory=list)
    parts: list[Part] = dataclasses.field(default_factory=list)


def erase(
    store: Store, blobs: BlobStore, device_id: str, *, by: str, now: dt.datetime
) -> Erased:
    """Shut a device out and erase what is kept of it; again is no change.

    Results in rounds that still collect are withdrawn, as if the lease had lapsed. In
    rounds that are being summed up they stay, and go when the round ends.

    Args:
        store: The database.
        blobs: Where its updates lie.
        device_id: Of the device.
        by: Id of who wants it: an operator, or the device.
        now: The present moment.

    Raises:
        DeviceUnknown: No device has this id.
    """

    def body(tx: Transaction) -> tuple[Erased, _Files]:
        shut_out(tx, device_id, by=by, now=now)
        files = _Files()
        erased_at = devices.erased_at(tx, device_id)
        if erased_at is None:
            erased_at = now
            for upload in uploads.forget_of(tx, device_id):
                files.parts += upload.parts
            _withdraw(tx, device_id, files, now=now)
            subjects.forget(tx, device_id)
            devices.erase(tx, device_id, now=now)
            audit.append(tx, Decision.DEVICE_ERASED, now=now, subject=device_id, by=by)
        left = subjects.contributions(tx, device_id)
        return Erased(device_id=device_id, erased_at=erased_at, contributions=left), (
            files
        )

    erased, files = store.run("erase_device", body)
    for blob in files.blobs:
        blobs.drop_update(blob)
    blobs.partials.drop(files.parts)
    return erased


def _withdraw(
    tx: Transaction, device_id: str, files: _Files, *, now: dt.datetime
) -> None:
    """Take results back that are in no sum yet."""
    for candidate in subjects.withdrawable(tx, device_id):
        round_ = rounds.get(tx, candidate.round_id)
        if round_.phase is not Phase.COLLECTING:  # it has ended while it was waited for
            continue
        withdrawn = candidate.withdrawn(now=now)
        assignments.withdraw(tx, withdrawn)
        blob = subjects.forget_result(tx, withdrawn)
        if blob is not None:
            files.blobs.append(blob)
        note(tx, Happening.RESULT_WITHDRAWN, round_, withdrawn, now)


def export(
    store: Store, device_id: str, *, with_secret: bool
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return all rows that are kept of a device, by table and column.

    Args:
        store: The database.
        device_id: Of the device.
        with_secret: Also those of rounds whose devices coins choose: for the device
            alone, which knows that it took part.

    Raises:
        DeviceUnknown: No device has this id.
    """

    def body(tx: Transaction) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        devices.insist_known(tx, device_id)
        return subjects.show(tx, device_id, with_secret=with_secret)

    return store.read(body)
