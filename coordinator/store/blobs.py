"""Files beside the database: artefacts and weights by digest, updates by round.

A file is written under a temporary name and renamed when it is whole, so that a name
either holds all of its bytes or does not exist.
"""

import contextlib
import mmap
import os
import pathlib
import shutil
import uuid

from coordinator.protocol.digests import sha256_hex


class BlobStore:
    """Keeps immutable bytes in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Use ``folder``, which is created if need be."""
        self._folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        """Keep ``content`` by its digest, which is returned (64 hex digits)."""
        sha256 = sha256_hex(content)
        target = self.path(sha256)
        if not target.exists():
            incoming = self.new_incoming()
            incoming.write_bytes(content)
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming.replace(target)
        return sha256

    def path(self, sha256: str) -> pathlib.Path:
        """Return where the bytes with this digest lie."""
        return self._folder / "sha256" / sha256[:2] / sha256

    def get(self, sha256: str) -> bytes:
        """Return the bytes with this digest.

        Raises:
            FileNotFoundError: They were never kept, or the folder lost them.
        """
        return self.path(sha256).read_bytes()

    def is_writable(self) -> bool:
        """Return whether new bytes can be kept."""
        probe = self.new_incoming()
        try:
            probe.touch()
            probe.unlink()
        except OSError:
            return False
        return True

    def new_incoming(self) -> pathlib.Path:
        """Return a fresh name for bytes that are still coming in."""
        return self._incoming / uuid.uuid4().hex

    def keep_update(
        self, incoming: pathlib.Path, *, round_id: int, assignment_id: str, sha256: str
    ) -> str:
        """Move a whole update to its round. Returns its name in this store.

        The name is this upload's alone: the same body may come twice at a time, and
        whoever is refused deletes its own.
        """
        upload = uuid.uuid4().hex
        name = f"updates/{round_id}/{assignment_id}-{sha256[:16]}-{upload[:16]}"
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming.replace(target)
        return name

    def map_update(self, name: str) -> mmap.mmap:
        """Return an update's bytes, mapped and not copied."""
        with (self._folder / name).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def drop_update(self, name: str) -> None:
        """Delete an update that was refused after all."""
        (self._folder / name).unlink(missing_ok=True)

    def delete_updates(self, round_id: int) -> None:
        """Delete every update of a round. None there is no error."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder / "updates" / str(round_id))

    def delete_stale_incoming(self, *, older_than: float) -> int:
        """Delete what never became whole.

        Args:
            older_than: Only files last written before this moment, POSIX seconds.

        Returns:
            How many files were deleted.
        """
        deleted = 0
        for entry in os.scandir(self._incoming):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < older_than:
                    pathlib.Path(entry.path).unlink()
                    deleted += 1
        return deleted
