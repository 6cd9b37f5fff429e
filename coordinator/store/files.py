"""Writing files so that they outlive a power cut, and saying when that fails.

The order is what counts: bytes to the disk, then the name, then the folder that holds
the name, and only then a row that says so.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

_MOST_FOLDERS: Final = 4096  # remembered; there is one a round


class StorageUnavailable(Exception):
    """The folder is full, read-only, failing or gone. It may be mended meanwhile."""


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn what the system says of a file into ``StorageUnavailable``.

    Args:
        what: What is being done, for the message.
    """
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"cannot {what}: {error}") from error


class Folders:
    """The folders below one, whose names are on the disk before anything is in them.

    A folder is synced once: whoever makes one again that was deleted meanwhile puts
    nothing in it that counts.
    """

    def __init__(self, top: pathlib.Path, *, durable: bool) -> None:
        """Make ``top`` and folders below it; wait for the disk if ``durable``."""
        self._top = top
        self._durable = durable
        self._made: set[pathlib.Path] = set()

    def make(self, folder: pathlib.Path) -> None:
        """Return when ``folder`` and all above it, up to the top, are there.

        Raises:
            OSError: One cannot be made.
        """
        if folder in self._made and folder.is_dir():
            return
        if folder == self._top:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self.make(folder.parent)
            folder.mkdir(exist_ok=True)
        if self._durable:
            # It may be there and yet be new: made by one that died before its sync.
            sync(folder.parent)
        if len(self._made) >= _MOST_FOLDERS:
            self._made.clear()
        self._made.add(folder)


class Incoming:
    """A file that comes in piece by piece."""

    def __init__(self, path: pathlib.Path) -> None:
        """Write to ``path``, which does not exist yet."""
        self._path = path

    def __enter__(self) -> Self:
        """Create the file."""
        with storage("create a file"):
            self._descriptor = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def write(self, content: bytes | memoryview) -> None:
        """Add all of ``content``.

        Raises:
            StorageUnavailable: It does not fit, or the disk fails.
        """
        left = memoryview(content)
        with storage("write a file"):
            while left:
                # A disk that is nearly full takes a part and says so by the count.
                left = left[os.write(self._descriptor, left) :]


def sha256_of(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits.

    Raises:
        StorageUnavailable: It cannot be read.
    """
    with storage("read a file"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: pathlib.Path) -> None:
    """Return when the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
