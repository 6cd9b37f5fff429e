"""Copy a database and the files that its rows name, while everything goes on.

The database first: whatever a row names was kept before the row. What it names is then
copied, unless it went with its round meanwhile; then the database is copied anew, and
only what the new copy names beyond the first is missing. That ends as soon as the open
rounds' updates are copied sooner than a round takes.
"""

import dataclasses
import pathlib
from typing import Final

from coordinator.store import inventory
from coordinator.store.blobs import BlobLost, BlobStore
from coordinator.store.engine import Store

_TRIES: Final = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What a backup holds."""

    files: int
    size_bytes: int
    lost: tuple[str, ...]  #: what rows name and the backup lacks, because it is lost


def back_up(
    store: Store, blobs: BlobStore, *, database: pathlib.Path, folder: pathlib.Path
) -> Copied:
    """Copy a database on SQLite, and the files that it needs.

    Args:
        store: The database.
        blobs: The files.
        database: Where the copy of the database goes.
        folder: Where the copies of the files go.

    Raises:
        StorageUnavailable: Something cannot be read, or the copy not be written.
    """
    copies = BlobStore(folder, durable=True)
    whole: set[str] = set()
    needed: dict[str, inventory.Named] = {}
    lost: list[str] = []
    for _ in range(_TRIES):
        store.copy_to(database)
        needed = _needed(database)
        lost = []
        # Updates first: they go with their round, all else stays.
        for name in sorted(needed.keys() - whole, key=_is_kept_for_good):
            each = needed[name]
            try:
                copies.copy_from(blobs, name)
                copies.check(name, sha256=each.sha256, size_bytes=each.size_bytes)
            except BlobLost as error:
                lost.append(f"{each.what}: {error}")
            else:
                whole.add(name)
        if not lost:
            break
    sizes = {file.name: file.size_bytes for file in copies.list_files()}
    for surplus in sizes.keys() - (needed.keys() & whole):
        copies.delete(surplus)  # of rounds that ended while it was made
    kept = needed.keys() & whole
    return Copied(
        files=len(kept),
        size_bytes=database.stat().st_size + sum(sizes[name] for name in kept),
        lost=tuple(sorted(lost)),
    )


def _is_kept_for_good(name: str) -> bool:
    return not name.startswith("updates/")


def _needed(database: pathlib.Path) -> dict[str, inventory.Named]:
    copy = Store(f"sqlite:///{database}", durable=True)
    try:
        named = copy.read(inventory.named_files)
    finally:
        copy.close()
    return {name: each for name, each in named.items() if each.is_needed}
