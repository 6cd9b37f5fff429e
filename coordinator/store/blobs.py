"""Files beside the database: artefacts and weights by digest, updates by round.

A file is written under a temporary name and renamed when it is whole, so that a name
either holds all of its bytes or does not exist. In a durable store what was kept is on
the disk when the call returns. Whoever reads checks: bytes that are gone, or are not
those that were kept, are ``BlobLost`` and are never used.
"""

import contextlib
import dataclasses
import datetime as dt
import errno
import hashlib
import math
import mmap
import os
import pathlib
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from coordinator.protocol.digests import sha256_hex
from coordinator.store.files import Folders, Incoming, storage, sync
from coordinator.store.partials import Partials

#: A file that nothing names and that is older belongs to no upload any more.
STALE_AFTER: Final = dt.timedelta(hours=1)
_PROBE: Final = bytes(4096)  # an empty file fits on a full disk


class BlobLost(Exception):
    """The bytes that a row names are gone, or are not what they were."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of the blob store, whoever knows of it."""

    name: str
    size_bytes: int
    written_at: float  #: POSIX seconds


def name_of(sha256: str) -> str:
    """Return the name in the store of the bytes with this digest."""
    return f"sha256/{sha256[:2]}/{sha256}"


class BlobStore:
    """Keeps immutable bytes in a folder."""

    def __init__(self, folder: pathlib.Path, *, durable: bool) -> None:
        """Use ``folder``, which is created if need be.

        Args:
            folder: Where the files lie.
            durable: Whether what was kept must outlive a power cut.
        """
        self._folder = folder
        self._durable = durable
        self._folders = Folders(folder, durable=durable)
        self._incoming = folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        #: Of updates whose requests broke off.
        self.partials = Partials(folder, self._folders, durable=durable)

    def put(self, content: bytes) -> str:
        """Keep ``content`` by its digest, which is returned (64 hex digits).

        A file of that name with other bytes, which a disk has spoilt, is replaced.

        Raises:
            StorageUnavailable: It cannot be written.
        """
        sha256 = sha256_hex(content)
        target = self.path(sha256)
        with contextlib.suppress(BlobLost):
            if self.get(sha256) == content:
                # Whoever kept it may have died before it was on the disk. It is as
                # good as new: whoever looks for forgotten files must leave it alone.
                self._settle(target, target)
                os.utime(target)
                return sha256
        path = self.new_incoming()
        try:
            with Incoming(path) as incoming:
                incoming.write(content)
            self._settle(path, target)
        finally:
            self.drop_incoming(path)
        return sha256

    def path(self, sha256: str) -> pathlib.Path:
        """Return where the bytes with this digest lie."""
        return self._folder / name_of(sha256)

    def find(self, sha256: str) -> pathlib.Path:
        """Return where the bytes with this digest lie, unread.

        Raises:
            BlobLost: They were never kept, or the folder lost them.
            StorageUnavailable: The folder cannot be read now.
        """
        path = self.path(sha256)
        with self._reading(path):
            path.stat()
        return path

    def get(self, sha256: str) -> bytes:
        """Return the bytes with this digest.

        Raises:
            BlobLost: They were never kept, or the disk lost or spoilt them.
            StorageUnavailable: The folder cannot be read now.
        """
        path = self.path(sha256)
        with self._reading(path):
            content = path.read_bytes()
        _insist(path, content, sha256)
        return content

    def is_writable(self) -> bool:
        """Return whether new bytes can be kept."""
        probe = self.new_incoming()
        try:
            probe.write_bytes(_PROBE)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return True

    def free_bytes(self) -> int:
        """Return how many bytes still fit on the disk.

        Raises:
            StorageUnavailable: The folder is gone.
        """
        with storage("look at the disk"):
            return shutil.disk_usage(self._folder).free

    def new_incoming(self) -> pathlib.Path:
        """Return a fresh name for bytes that are still coming in."""
        return self._incoming / uuid.uuid4().hex

    def keep_update(
        self, incoming: pathlib.Path, *, round_id: int, assignment_id: str, sha256: str
    ) -> str:
        """Move a whole update to its round. Returns its name in this store.

        The name is this upload's alone: the same body may come twice at a time, and
        whoever is refused deletes its own.

        Raises:
            StorageUnavailable: It cannot be kept.
        """
        upload = uuid.uuid4().hex
        name = f"updates/{round_id}/{assignment_id}-{sha256[:16]}-{upload[:16]}"
        self._settle(incoming, self._folder / name)
        return name

    def map_update(self, name: str, *, sha256: str | None) -> mmap.mmap:
        """Return an update's bytes, mapped and not copied.

        Args:
            name: Of the update in this store.
            sha256: What its bytes must have; none where that was seen before.

        Raises:
            BlobLost: They are gone, or are not what they were.
            StorageUnavailable: The folder cannot be read now.
        """
        path = self._folder / name
        with self._reading(path):
            descriptor = os.open(path, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and not status.st_size:
                raise BlobLost(f"{path} is empty")
            content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        if sha256 is not None:
            _insist(path, content, sha256)
        return content

    def update_path(self, name: str) -> pathlib.Path:
        """Return where an update lies, unread."""
        return self._folder / name

    def drop_update(self, name: str) -> None:
        """Delete an update that was refused after all, or leave it to its round."""
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()

    def drop_incoming(self, path: pathlib.Path) -> None:
        """Delete what came in and was not kept, or leave it to the next sweep."""
        with contextlib.suppress(OSError):
            path.unlink()

    def delete_updates(self, round_id: int) -> None:
        """Delete every update of a round. None there is no error.

        Others may be at it too: what they were faster with is passed over, and when
        this returns there is nothing left, whatever becomes of them.
        """
        with storage("delete updates"):
            shutil.rmtree(
                self._folder / "updates" / str(round_id), onerror=_unless_gone
            )

    def list_files(self) -> list[StoredFile]:
        """Return every file, what is still coming in too."""
        found = []
        with storage("list the files"):
            for folder, _, names in os.walk(self._folder, onerror=_raise):
                for name in names:
                    path = pathlib.Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        status = path.stat()
                        found.append(
                            StoredFile(
                                name=path.relative_to(self._folder).as_posix(),
                                size_bytes=status.st_size,
                                written_at=status.st_mtime,
                            )
                        )
        return found

    def check(self, name: str, *, sha256: str, size_bytes: int | None) -> None:
        """Insist that a file is there with the bytes that it should have.

        Raises:
            BlobLost: It is not.
            StorageUnavailable: The folder cannot be read now.
        """
        path = self._folder / name
        with self._reading(path):
            size = path.stat().st_size
        if size_bytes not in (None, size):
            raise BlobLost(f"{path} has {size} bytes, not {size_bytes}")
        with self._reading(path), path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise BlobLost(f"{path} was spoilt: its SHA-256 is {found}, not {sha256}")

    def open(self, name: str) -> BinaryIO:
        """Open a file to read it.

        Raises:
            BlobLost: It is not there.
            StorageUnavailable: It cannot be read now.
        """
        path = self._folder / name
        with self._reading(path):
            return path.open("rb")

    def copy_from(self, other: "BlobStore", name: str) -> None:
        """Keep what another store has by the same name, and let the disk have it.

        Raises:
            BlobLost: It is not there.
            StorageUnavailable: It cannot be read, or the copy not be written.
        """
        target = self._folder / name
        with other.open(name) as source, storage("copy a file"):
            self._folders.make(target.parent)
            with target.open("wb") as copied:
                shutil.copyfileobj(source, copied, 1 << 20)
            sync(target)
            sync(target.parent)

    def written_at(self, name: str) -> float:
        """Return when a file was last kept, POSIX seconds; infinity if it is gone."""
        try:
            return (self._folder / name).stat().st_mtime
        except FileNotFoundError:
            return math.inf

    def delete(self, name: str) -> None:
        """Delete a file that nothing needs."""
        with storage("delete a file"):
            (self._folder / name).unlink(missing_ok=True)

    def delete_stale_incoming(self, *, older_than: float) -> int:
        """Delete what never became whole.

        Args:
            older_than: Only files last written before this moment, POSIX seconds.

        Returns:
            How many files were deleted.

        Raises:
            StorageUnavailable: The folder cannot be changed now.
        """
        deleted = 0
        with storage("delete what never became whole"):
            for entry in os.scandir(self._incoming):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < older_than:
                        pathlib.Path(entry.path).unlink()
                        deleted += 1
        return deleted

    def _settle(self, source: pathlib.Path, target: pathlib.Path) -> None:
        """Give a whole file its name, and in a durable store let the disk have both."""
        with storage("keep a file"):
            self._folders.make(target.parent)
            if self._durable:
                sync(source)
            if source != target:
                source.replace(target)
            if self._durable:
                sync(target.parent)

    @contextlib.contextmanager
    def _reading(self, path: pathlib.Path) -> Iterator[None]:
        with storage("read a file"):
            try:
                yield
            except FileNotFoundError:
                if not self._incoming.is_dir():
                    raise  # all is gone: a disk that is not mounted comes back
                raise BlobLost(f"{path} is gone") from None
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                raise BlobLost(f"{path} cannot be read: {error}") from error


def _raise(error: OSError) -> None:
    raise error


def _unless_gone(_call: object, _path: object, caught: tuple[Any, Any, Any]) -> None:
    error: BaseException = caught[1]
    if not isinstance(error, FileNotFoundError):
        raise error


def _insist(path: pathlib.Path, content: bytes | mmap.mmap, sha256: str) -> None:
    found = sha256_hex(content)
    if found != sha256:
        raise BlobLost(f"{path} was spoilt: its SHA-256 is {found}, not {sha256}")
