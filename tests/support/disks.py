"""A real disk that is small, gets full, and turns read-only."""

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest


class SmallDisk:
    """A file system of its own in memory, mounted at ``folder``."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take every byte but so many, in whole pages."""
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        os.truncate(self._filler, self._filler.stat().st_size - leave_bytes)

    def free(self) -> None:
        """Give back what was taken."""
        self._filler.unlink()

    def set_read_only(self) -> None:
        _mount("-o", "remount,ro", str(self.folder))

    def set_writable(self) -> None:
        _mount("-o", "remount,rw", str(self.folder))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)  # noqa: S607 - wherever it is


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[SmallDisk]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only one who may mount can make a disk")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - wherever it is
