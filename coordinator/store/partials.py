"""Files of partial uploads: those that a request still writes, and kept parts.

What a request writes has a name that says what it belongs to, so that another process
finds it, whether the one that writes lives, hangs or was killed. A kept part is a
prefix of its file that never changes: whoever still writes only makes the file longer.
"""

import contextlib
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Collection, Sequence
from typing import Final

from coordinator.domain.uploads import Part, Whole
from coordinator.store.files import Folders, storage, sync

FOLDER: Final = "partial"
_COPIED_BYTES: Final = 1 << 20
#: assignment, digest, tag, coding, length, and what no other request has
_NAME: Final = re.compile(
    r"(?P<assignment>[0-9a-f]+)\.(?P<sha256>[0-9a-f]{64})\.(?P<tag>\d+-\d+)"
    r"\.(?P<coding>[a-z]+)\.(?P<length>\d*)\.[0-9a-f]{16}"
)


class PartLost(Exception):
    """A part is gone, or shorter than it was."""


class Partials:
    """Keeps parts below the blob store's folder."""

    def __init__(
        self, folder: pathlib.Path, folders: Folders, *, durable: bool
    ) -> None:
        """Keep parts below ``folder``, the blob store's, whose ``folders`` exist."""
        self._folder = folder
        self._durable = durable
        self._incoming = folder / "incoming"
        self._kept = folder / FOLDER
        folders.make(self._kept)

    def new(self, whole: Whole, *, tag: str) -> pathlib.Path:
        """Return a fresh name for bytes that are still coming in.

        Args:
            whole: What they are a part of.
            tag: Of the upload that they continue.
        """
        length = "" if whole.length is None else whole.length
        return self._incoming / (
            f"{whole.assignment_id}.{whole.sha256}.{tag}.{whole.coding}."
            f"{length}.{uuid.uuid4().hex[:16]}"
        )

    def adopt(
        self, assignment_id: str, sha256: str, *, tag: str
    ) -> tuple[Part, Whole] | None:
        """Keep what a request has written so far that has not come to its end.

        Of several, the one that has written most. It may go on: the bytes that it adds
        from now on do not count.

        Returns:
            The part, and the whole as that request describes it; none if no such
            request has written anything.

        Raises:
            StorageUnavailable: It cannot be kept.
        """
        prefix = f"{assignment_id}.{sha256}.{tag}."
        found = []
        with storage("look for what has come in"):
            for entry in os.scandir(self._incoming):
                if entry.name.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((entry.stat().st_size, entry.name))
        for size, name in sorted(found, reverse=True):
            described = _NAME.fullmatch(name)
            if not size or described is None:
                continue
            target = self._new_part(assignment_id)
            with storage("keep a part"):
                try:
                    os.link(self._incoming / name, target)
                except FileNotFoundError:  # its request has just come to its end
                    continue
                self._settle(target)
            length = described["length"]
            whole = Whole(
                assignment_id=assignment_id,
                sha256=sha256,
                coding=described["coding"],
                length=int(length) if length else None,
            )
            return self._part(target, size), whole
        return None

    def keep(self, path: pathlib.Path, assignment_id: str) -> Part | None:
        """Keep what a request has written, all of it. None: it has written nothing.

        Raises:
            StorageUnavailable: It cannot be kept.
        """
        with storage("keep a part"):
            size = path.stat().st_size
            if not size:
                return None
            target = self._new_part(assignment_id)
            path.rename(target)
            self._settle(target)
        return self._part(target, size)

    def are_there(self, parts: Sequence[Part]) -> bool:
        """Return whether every part is there in its whole length.

        Raises:
            StorageUnavailable: The folder cannot be read now.
        """
        with storage("look at parts"):
            try:
                return all(
                    (self._folder / part.name).stat().st_size >= part.size_bytes
                    for part in parts
                )
            except FileNotFoundError:
                if not self._kept.is_dir():
                    raise  # all is gone: a disk that is not mounted comes back
                return False

    def join(
        self, parts: Sequence[Part], last: pathlib.Path, target: pathlib.Path
    ) -> None:
        """Write parts and what came last behind each other to ``target``.

        Raises:
            PartLost: A part is gone.
            StorageUnavailable: It does not fit, or cannot be read.
        """
        with storage("join parts"), target.open("xb") as joined:
            for part in parts:
                try:
                    source = (self._folder / part.name).open("rb")
                except FileNotFoundError as error:
                    raise PartLost(part.name) from error
                with source:
                    left = part.size_bytes
                    while left:
                        chunk = source.read(min(left, _COPIED_BYTES))
                        if not chunk:
                            raise PartLost(part.name)
                        joined.write(chunk)
                        left -= len(chunk)
            with last.open("rb") as source:
                shutil.copyfileobj(source, joined, _COPIED_BYTES)

    def drop(self, parts: Sequence[Part]) -> None:
        """Delete parts that nothing names any more, or leave them to the next sweep."""
        for part in parts:
            with contextlib.suppress(OSError):
                (self._folder / part.name).unlink()

    def delete_unnamed(self, named: Collection[str], *, older_than: float) -> int:
        """Delete parts that no row names, last written before a moment.

        Args:
            named: By rows, read after that moment.
            older_than: POSIX seconds.

        Returns:
            How many.

        Raises:
            StorageUnavailable: The folder cannot be changed now.
        """
        deleted = 0
        with storage("delete parts"):
            for entry in os.scandir(self._kept):
                if f"{FOLDER}/{entry.name}" in named:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < older_than:
                        pathlib.Path(entry.path).unlink()
                        deleted += 1
        return deleted

    def _new_part(self, assignment_id: str) -> pathlib.Path:
        return self._kept / f"{assignment_id}.{uuid.uuid4().hex[:16]}"

    def _settle(self, path: pathlib.Path) -> None:
        """In a durable store let the disk have a part and its name."""
        if self._durable:
            sync(path)
            sync(path.parent)

    def _part(self, path: pathlib.Path, size: int) -> Part:
        return Part(name=path.relative_to(self._folder).as_posix(), size_bytes=size)
