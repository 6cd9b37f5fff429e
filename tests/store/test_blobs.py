"""Blobs: whole or not there, and gone when they are no longer needed."""

import os
import pathlib

import pytest

from coordinator.protocol.digests import sha256_hex
from coordinator.store.blobs import BlobLost, BlobStore
from coordinator.store.files import Incoming, StorageUnavailable


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: pathlib.Path) -> BlobStore:
    return BlobStore(folder, durable=False)


def names(folder: pathlib.Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def test_bytes_are_kept_by_their_digest(blobs: BlobStore, folder: pathlib.Path) -> None:
    sha256 = blobs.put(b"weights")

    assert sha256 == sha256_hex(b"weights")
    assert blobs.get(sha256) == b"weights"
    assert names(folder) == [f"sha256/{sha256[:2]}/{sha256}"]


def test_the_same_bytes_are_kept_once_and_are_young_again(
    blobs: BlobStore, folder: pathlib.Path
) -> None:
    sha256 = blobs.put(b"weights")
    before = blobs.path(sha256).stat()
    os.utime(blobs.path(sha256), (0, 0))

    assert blobs.put(b"weights") == sha256

    after = blobs.path(sha256).stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime >= before.st_mtime
    assert len(names(folder)) == 1


def test_unknown_bytes_are_missing(blobs: BlobStore) -> None:
    with pytest.raises(BlobLost, match="is gone"):
        blobs.get(sha256_hex(b"never kept"))


def test_a_write_that_fails_leaves_no_name(
    blobs: BlobStore, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(file: Incoming, content: bytes) -> None:
        os.write(file._descriptor, content[: len(content) // 2])
        raise StorageUnavailable("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Incoming, "write", write_half)
        with pytest.raises(StorageUnavailable, match="no space"):
            blobs.put(b"weights")

    assert not blobs.path(sha256_hex(b"weights")).exists()
    assert blobs.get(blobs.put(b"weights")) == b"weights"
    assert names(folder) == [
        f"sha256/{sha256_hex(b'weights')[:2]}/{sha256_hex(b'weights')}"
    ]


def test_an_update_moves_to_its_round(blobs: BlobStore, folder: pathlib.Path) -> None:
    incoming = blobs.new_incoming()
    incoming.write_bytes(b"delta")

    name = blobs.keep_update(
        incoming, round_id=3, assignment_id="a" * 32, sha256=sha256_hex(b"delta")
    )

    assert blobs.map_update(name, sha256=sha256_hex(b"delta"))[:] == b"delta"
    assert names(folder) == [name]
    assert name.startswith("updates/3/")


def test_the_updates_of_one_round_are_deleted(
    blobs: BlobStore, folder: pathlib.Path
) -> None:
    kept: list[str] = []
    for round_id in (3, 4):
        incoming = blobs.new_incoming()
        incoming.write_bytes(b"delta")
        kept.append(
            blobs.keep_update(
                incoming, round_id=round_id, assignment_id="a" * 32, sha256="b" * 64
            )
        )

    blobs.delete_updates(3)
    blobs.delete_updates(3)

    assert names(folder) == [kept[1]]


def test_a_refused_update_is_dropped_once_or_twice(
    blobs: BlobStore, folder: pathlib.Path
) -> None:
    incoming = blobs.new_incoming()
    incoming.write_bytes(b"delta")
    name = blobs.keep_update(
        incoming, round_id=3, assignment_id="a" * 32, sha256="b" * 64
    )

    blobs.drop_update(name)
    blobs.drop_update(name)

    assert names(folder) == []


def test_what_never_became_whole_is_deleted_when_it_is_old(
    blobs: BlobStore, folder: pathlib.Path
) -> None:
    old, young = blobs.new_incoming(), blobs.new_incoming()
    for path, moment in ((old, 1_000.0), (young, 2_000.0)):
        path.write_bytes(b"half")
        os.utime(path, (moment, moment))

    assert blobs.delete_stale_incoming(older_than=2_000.0) == 1

    assert names(folder) == [f"incoming/{young.name}"]


def test_a_folder_that_is_gone_is_not_writable(
    blobs: BlobStore, folder: pathlib.Path
) -> None:
    assert blobs.is_writable()
    assert names(folder) == []

    (folder / "incoming").rmdir()

    assert not blobs.is_writable()


def test_updates_are_all_deleted_though_others_delete_them_too(
    blobs: BlobStore, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        incoming = blobs.new_incoming()
        incoming.write_bytes(b"delta")
        blobs.keep_update(
            incoming, round_id=1, assignment_id="x", sha256=sha256_hex(b"delta")
        )
    unlink, faster = os.unlink, []

    def unlink_after_another(
        path: str | os.PathLike[str], *, dir_fd: int | None = None
    ) -> None:
        if not faster:
            faster.append(path)
            unlink(path, dir_fd=dir_fd)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink_after_another)

    blobs.delete_updates(1)

    assert faster
    assert not (folder / "updates" / "1").exists()
    blobs.delete_updates(1)
