"""What reaches the disk, in which order, and what a failing disk leaves behind."""

import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from coordinator.protocol.digests import sha256_hex
from coordinator.store import engine
from coordinator.store.batches import Busy
from coordinator.store.blobs import BlobLost, BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.files import StorageUnavailable
from coordinator.store.tables import operators
from tests.support.clock import ManualClock
from tests.support.databases import Postgres
from tests.support.disks import SmallDisk
from tests.support.federation import Federation, plan
from tests.support.models import update_body

CONTENT = bytes(range(256)) * 300


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: pathlib.Path) -> BlobStore:
    return BlobStore(folder, durable=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sync and rename of the process, by the names of what they concern."""
    made: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        path = pathlib.Path(f"/proc/self/fd/{descriptor}").readlink()
        made.append(f"sync {kind_of(path)}")
        fsync(descriptor)

    def noting_replace(source: pathlib.Path, target: pathlib.Path) -> None:
        made.append(f"rename {kind_of(source)} to {kind_of(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    return made


def kind_of(path: pathlib.Path) -> str:
    """The folder of a file, or the place of a folder in the store."""
    if "blobs" not in path.parts:
        return "above"
    parts = path.parts[path.parts.index("blobs") + 1 :]
    places = [part if len(part) > 2 else "*" for part in parts]
    if parts and (path.is_file() or len(parts[-1]) > 9):
        return f"file in {'/'.join(places[:-1])}"
    return "/".join(places) or "top"


def durable_federation(url: str, folder: pathlib.Path) -> Federation:
    return Federation(
        store=Store(url, durable=True),
        blobs=BlobStore(folder / "blobs", durable=True),
        clock=ManualClock(),
        folder=folder,
    )


@pytest.fixture
def durable(database_url: str, tmp_path: pathlib.Path) -> Iterator[Federation]:
    made = durable_federation(database_url, tmp_path)
    yield made
    made.store.close()


def test_an_update_is_on_the_disk_before_its_row_is_committed(
    durable: Federation, calls: list[str]
) -> None:
    durable.start()
    work = durable.lease()
    calls.clear()

    @event.listens_for(durable.store.engine, "commit")
    def _commit(_: sa.Connection) -> None:
        calls.append("commit")

    durable.submit(work, update_body([0.5] * 10))

    settled = [
        "sync file in incoming",
        "rename file in incoming to file in updates/*",
        "sync updates/*",
        "commit",
    ]
    assert calls[-6:] == ["sync top", "sync updates", *settled]  # new folders first
    calls.clear()

    durable.submit(durable.lease(), update_body([0.5] * 10))

    assert [call for call in calls if call != "commit"] == settled[:-1]
    assert calls[-1] == "commit"


def test_a_version_is_on_the_disk_before_its_row_is_committed(
    durable: Federation, calls: list[str]
) -> None:
    durable.start(settings=plan(goal=1))
    durable.take_part()
    claim = durable.must_claim()
    calls.clear()

    @event.listens_for(durable.store.engine, "commit")
    def _commit(_: sa.Connection) -> None:
        calls.append("commit")

    durable.release(claim)

    assert calls[-4:] == [
        "sync file in incoming",
        "rename file in incoming to file in sha256/*",
        "sync sha256/*",
        "commit",
    ]


def test_the_folder_of_parts_is_on_the_disk_before_any_part(
    folder: pathlib.Path, calls: list[str]
) -> None:
    BlobStore(folder, durable=True)

    assert (folder / "partial").is_dir()
    assert calls == ["sync above", "sync top"]


def test_bytes_that_are_kept_already_are_synced_all_the_same(
    blobs: BlobStore, folder: pathlib.Path, calls: list[str]
) -> None:
    """Whoever kept them may have died between the rename and the sync."""
    BlobStore(folder, durable=False).put(CONTENT)
    assert calls == ["rename file in incoming to file in sha256/*"]
    calls.clear()

    blobs.put(CONTENT)

    assert calls[-2:] == ["sync file in sha256/*", "sync sha256/*"]
    assert calls[-4:-2] == ["sync top", "sync sha256"]  # the folders' names


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_sqlite_waits_for_the_disk_at_every_commit_or_not(
    sqlite_url: str, *, durable: bool, level: int
) -> None:
    store = Store(sqlite_url, durable=durable)
    query = sa.text("PRAGMA synchronous")

    assert store.read(lambda tx: tx.connection.execute(query).scalar_one()) == level
    store.close()


@pytest.mark.postgres
def test_postgres_commits_as_the_server_does_or_sooner(postgres_url: str) -> None:
    query = sa.text("SELECT source FROM pg_settings WHERE name = 'synchronous_commit'")
    found = []
    for durable in (True, False):
        store = Store(postgres_url, durable=durable)
        found.append(store.read(lambda tx: tx.connection.execute(query).scalar_one()))
        store.close()

    assert found == ["configuration file", "client"]


def test_a_spoilt_file_is_never_handed_out(blobs: BlobStore) -> None:
    sha256 = blobs.put(CONTENT)
    flip_a_bit(blobs.path(sha256))

    with pytest.raises(BlobLost, match="was spoilt"):
        blobs.get(sha256)


def test_keeping_the_same_bytes_again_mends_a_spoilt_file(blobs: BlobStore) -> None:
    sha256 = blobs.put(CONTENT)
    flip_a_bit(blobs.path(sha256))

    assert blobs.put(CONTENT) == sha256

    assert blobs.get(sha256) == CONTENT


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_a_spoilt_update_is_never_handed_out(blobs: BlobStore, damage: str) -> None:
    incoming = blobs.new_incoming()
    incoming.write_bytes(CONTENT)
    sha256 = sha256_hex(CONTENT)
    name = blobs.keep_update(incoming, round_id=3, assignment_id="a", sha256=sha256)
    path = blobs._folder / name
    if damage == "flip":
        flip_a_bit(path)
    elif damage == "delete":
        path.unlink()
    else:
        os.truncate(path, 100 if damage == "cut" else 0)

    with pytest.raises(BlobLost, match=r"spoilt|is gone|is empty"):
        blobs.map_update(name, sha256=sha256)


def test_a_folder_that_is_not_mounted_has_lost_nothing(
    blobs: BlobStore, folder: pathlib.Path
) -> None:
    sha256 = blobs.put(CONTENT)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StorageUnavailable):
        blobs.get(sha256)

    folder.with_name("elsewhere").rename(folder)

    assert blobs.get(sha256) == CONTENT


@pytest.mark.parametrize("leave_bytes", [0, 8192])
def test_a_full_disk_keeps_nothing_and_goes_on_when_it_is_not(
    small_disk: SmallDisk, leave_bytes: int
) -> None:
    blobs = BlobStore(small_disk.folder / "blobs", durable=True)
    small_disk.fill(leave_bytes=leave_bytes)

    with pytest.raises(StorageUnavailable, match="No space left"):
        blobs.put(CONTENT)
    incoming = small_disk.folder / "blobs" / "incoming"
    assert list(incoming.iterdir()) == []
    assert blobs.is_writable() == (leave_bytes > 0)

    small_disk.free()
    assert blobs.get(blobs.put(CONTENT)) == CONTENT


def test_a_read_only_disk_is_read_and_says_so(small_disk: SmallDisk) -> None:
    blobs = BlobStore(small_disk.folder / "blobs", durable=True)
    sha256 = blobs.put(CONTENT)
    small_disk.set_read_only()

    with pytest.raises(StorageUnavailable, match="Read-only"):
        blobs.put(b"other")
    assert not blobs.is_writable()
    assert blobs.get(sha256) == CONTENT

    small_disk.set_writable()
    assert blobs.is_writable()


def test_a_file_that_may_not_grow_is_no_file(tmp_path: pathlib.Path) -> None:
    """A quota takes a part of what is written, and says so by the count alone."""
    script = f"""
import pathlib, resource
from coordinator.store.blobs import BlobStore
from coordinator.store.files import StorageUnavailable
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = pathlib.Path({str(tmp_path / "blobs")!r})
try:
    BlobStore(folder, durable=True).put(bytes(1500))
except StorageUnavailable as error:
    print(error, [path.name for path in folder.rglob("*") if path.is_file()])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True
    )

    assert done.stdout == b"cannot write a file: [Errno 27] File too large []\n"


def note(tx: Transaction, name: str) -> None:
    tx.connection.execute(
        operators.insert(),
        {
            "token_hash": name,
            "id": name,
            "name": name,
            "role": "read",
            "created_at": ManualClock().now(),
        },
    )


def noted(store: Store) -> list[str]:
    query = sa.select(operators.c.token_hash)
    return store.read(lambda tx: list(tx.connection.execute(query).scalars()))


def test_a_database_that_another_process_locks_is_away_and_comes_back(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_S", 0.05)
    store, other = Store(sqlite_url, durable=True), Store(sqlite_url, durable=True)
    with other.engine.begin():
        with pytest.raises(Store.errors, match="locked"):
            store.run("note", lambda tx: note(tx, "one"))
        assert noted(store) == []  # whoever only reads is not kept waiting

    store.run("note", lambda tx: note(tx, "two"))

    assert noted(store) == ["two"]
    store.close()
    other.close()


def test_writers_do_not_queue_for_ever_behind_one_that_hangs(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_BUSY_TIMEOUT_S", 0.05)
    store = Store(sqlite_url, durable=True)
    writes, ends = threading.Event(), threading.Event()

    def hang(_: Transaction) -> None:
        writes.set()
        ends.wait(10)

    thread = threading.Thread(target=store.run, args=("hang", hang))
    thread.start()
    assert writes.wait(10)
    with pytest.raises(Busy, match="waited"):
        store.run("note", lambda tx: note(tx, "one"))
    ends.set()
    thread.join()

    store.run("note", lambda tx: note(tx, "two"))

    assert noted(store) == ["two"]
    store.close()


@pytest.mark.postgres
def test_a_connection_that_is_cut_in_a_transaction_leaves_nothing(
    postgres: Postgres, postgres_url: str
) -> None:
    store = Store(postgres_url, durable=True)
    pid = sa.text("SELECT pg_backend_pid()")

    def body(tx: Transaction) -> None:
        note(tx, "one")
        number = tx.connection.execute(pid).scalar_one()
        postgres.execute(f"SELECT pg_terminate_backend({number}, 5000)")
        note(tx, "two")

    with pytest.raises(Store.errors):
        store.run("note", body)

    assert noted(store) == []
    store.run("note", lambda tx: note(tx, "three"))
    assert noted(store) == ["three"]
    store.close()


def flip_a_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
