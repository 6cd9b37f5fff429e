"""A database and a blob store whose process dies at a chosen moment."""

import pathlib
from collections.abc import Callable
from typing import TypeVar

from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone: nobody catches this, and nobody is told anything."""


class Fuse:
    """Lets the process die when it has passed so many moments."""

    def __init__(self) -> None:
        self._left = 0

    def set(self, moments: int) -> None:
        """Die at the ``moments``-th moment from now; 0: never."""
        self._left = moments

    def moment(self) -> None:
        """Pass a moment at which a process may die."""
        if self._left:
            self._left -= 1
            if not self._left:
                raise Crash


class FaultyStore(Store):
    """Dies before a commit, which is rolled back, or after it."""

    def __init__(self, url: str, fuse: Fuse) -> None:
        super().__init__(url, durable=False)
        self._fuse = fuse

    def run(self, name: str, body: Callable[[Transaction], T]) -> T:
        def then_die(tx: Transaction) -> T:
            result = body(tx)
            self._fuse.moment()
            return result

        result = super().run(name, then_die)
        self._fuse.moment()
        return result


class FaultyBlobs(BlobStore):
    """Dies before or after a file is put in its place, or away."""

    def __init__(self, folder: pathlib.Path, fuse: Fuse) -> None:
        super().__init__(folder, durable=False)
        self._fuse = fuse

    def put(self, content: bytes) -> str:
        self._fuse.moment()
        sha256 = super().put(content)
        self._fuse.moment()
        return sha256

    def keep_update(
        self, incoming: pathlib.Path, *, round_id: int, assignment_id: str, sha256: str
    ) -> str:
        self._fuse.moment()
        name = super().keep_update(
            incoming, round_id=round_id, assignment_id=assignment_id, sha256=sha256
        )
        self._fuse.moment()
        return name

    def drop_update(self, name: str) -> None:
        self._fuse.moment()
        super().drop_update(name)

    def delete_updates(self, round_id: int) -> None:
        self._fuse.moment()
        super().delete_updates(round_id)
        self._fuse.moment()
