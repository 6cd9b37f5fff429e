"""Look whether rows and files agree, and mend what can be mended without a doubt.

Files are listed before rows are read and a lost one is looked for twice, so that a
coordinator may run meanwhile. What is young is left alone: it may belong to an upload.
"""

import dataclasses
import datetime as dt
import enum
from typing import Final

from coordinator.domain.rounds import Phase
from coordinator.store import inventory, rounds, uploads, workers
from coordinator.store.blobs import STALE_AFTER, BlobLost, BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.partials import FOLDER
from coordinator.usecases.rounds import delete_results
from coordinator.usecases.workers import SILENT_AFTER

#: Folders of what has not become whole; a row never comes to name it this late.
_UNFINISHED: Final = ("incoming/", f"{FOLDER}/")
#: A worker that lives claims a round, or deletes its updates, much sooner.
_OVERDUE: Final = dt.timedelta(minutes=1)


class Trouble(enum.StrEnum):
    """What can be wrong."""

    DATABASE = "database"  # it contradicts itself
    LOST = "lost"  # a row names bytes that are gone or spoilt
    STUCK = "stuck"  # a round waits for a worker, and there is none
    ORPHAN = "orphan"  # no row names the file
    LEFTOVER = "leftover"  # it never became whole
    UNDELETED = "undeleted"  # updates of a round that has ended


#: What ``repair`` mends: nothing of it can be needed by anybody.
MENDED: Final = frozenset({Trouble.ORPHAN, Trouble.LEFTOVER, Trouble.UNDELETED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    trouble: Trouble
    what: str
    is_mended: bool = False


def examine(
    store: Store, blobs: BlobStore, *, now: dt.datetime, repair: bool = False
) -> list[Finding]:
    """Compare rows and files. Returns what is wrong, or was until it was mended.

    Args:
        store: The database, of this code's schema.
        blobs: The files.
        now: The present moment.
        repair: Whether to delete what nothing needs.

    Raises:
        StorageUnavailable: The folder cannot be read, or changed where it must be.
    """
    files = blobs.list_files()
    named = store.read(inventory.named_files)
    parts = store.read(uploads.files)
    findings = [
        Finding(trouble=Trouble.DATABASE, what=fault)
        for fault in store.read(inventory.faults)
    ]
    findings += _lost(store, blobs, named)
    findings += store.read(lambda tx: _stuck(tx, now))
    oldest = (now - STALE_AFTER).timestamp()
    for file in files:
        if file.name in named or file.name in parts or file.written_at >= oldest:
            continue
        is_leftover = file.name.startswith(_UNFINISHED)
        if repair and not is_leftover:
            # Comparing takes long: a row may have come to name it meanwhile.
            if file.name in store.read(inventory.named_files):
                continue
            if blobs.written_at(file.name) >= oldest:
                continue
        if repair:
            blobs.delete(file.name)
        findings.append(
            Finding(
                trouble=Trouble.LEFTOVER if is_leftover else Trouble.ORPHAN,
                what=f"{file.name}, {file.size_bytes} bytes",
                is_mended=repair,
            )
        )
    return findings + _undeleted(store, blobs, now, repair=repair)


def _lost(
    store: Store, blobs: BlobStore, named: dict[str, inventory.Named]
) -> list[Finding]:
    faults: dict[str, str] = {}
    for each in named.values():
        if each.is_needed:
            try:
                blobs.check(each.name, sha256=each.sha256, size_bytes=each.size_bytes)
            except BlobLost as error:
                faults[each.name] = f"{each.what}: {error}"
    if not faults:
        return []
    # Updates of a round that has ended meanwhile are gone as they should be.
    still = store.read(inventory.named_files)
    return [
        Finding(trouble=Trouble.LOST, what=fault)
        for name, fault in faults.items()
        if name in still and still[name].is_needed
    ]


def _stuck(tx: Transaction, now: dt.datetime) -> list[Finding]:
    if workers.count_seen(tx, now - SILENT_AFTER):
        return []
    return [
        Finding(
            trouble=Trouble.STUCK,
            what=f"round {round_.id} of task {round_.task} waits for a worker since "
            f"{round_.deadline:%Y-%m-%d %H:%M:%S}, and none is running",
        )
        for round_ in rounds.unfinished(tx)
        if round_.phase is Phase.AGGREGATING and round_.deadline < now - _OVERDUE
    ]


def _undeleted(
    store: Store, blobs: BlobStore, now: dt.datetime, *, repair: bool
) -> list[Finding]:
    found = store.read(lambda tx: rounds.with_undeleted_blobs(tx, now - _OVERDUE))
    if repair:
        for round_id in found:
            delete_results(store, blobs, round_id)
    return [
        Finding(
            trouble=Trouble.UNDELETED,
            what=f"updates of round {round_id}, which has ended",
            is_mended=repair,
        )
        for round_id in found
    ]
