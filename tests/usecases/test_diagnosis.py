"""What ``doctor`` finds where files and rows disagree, and what it mends."""

import os
import pathlib
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from coordinator.domain.rounds import Phase
from coordinator.store import inventory
from coordinator.store.engine import Transaction
from coordinator.usecases import diagnosis, workers
from coordinator.usecases.diagnosis import Finding, Trouble
from tests.support.federation import Federation, plan
from tests.support.worker import worker

OLD_S = 3601


def examine(federation: Federation, *, repair: bool = False) -> list[Finding]:
    return diagnosis.examine(
        federation.store,
        federation.blobs,
        now=federation.clock.now(),
        repair=repair,
    )


def troubles(findings: list[Finding]) -> list[Trouble]:
    return [finding.trouble for finding in findings]


def blob_folder(federation: Federation) -> pathlib.Path:
    return federation.folder / "blobs"


def write(federation: Federation, name: str, *, age_s: int) -> pathlib.Path:
    """A file that no row names, of an age by the federation's clock."""
    path = blob_folder(federation) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nobody's")
    moment = federation.clock.now().timestamp() - age_s
    os.utime(path, (moment, moment))
    return path


@pytest.fixture
def lived_in(federation: Federation) -> Federation:
    """A task with a committed round and an update in the open one."""
    federation.start()
    for _ in range(2):
        federation.take_part()
    worker(federation).step()
    federation.take_part()
    return federation


def test_what_is_whole_has_no_finding(lived_in: Federation) -> None:
    before = lived_in.state()

    assert examine(lived_in, repair=True) == []

    assert lived_in.state() == before


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, cut, flip])
def test_every_file_that_a_row_names_is_missed(
    lived_in: Federation, damage: Callable[[pathlib.Path], None]
) -> None:
    kept = blob_folder(lived_in)
    # train and inference artefact, manifest, two versions' weights; one update
    files = [*(kept / "sha256").glob("*/*"), *(kept / "updates").glob("*/*")]
    assert len(files) == 6
    for path in files:
        damage(path)
    left = lived_in.files()

    findings = examine(lived_in, repair=True)

    assert troubles(findings) == [Trouble.LOST] * 6
    assert not any(finding.is_mended for finding in findings)
    for path in files:
        assert any(str(path) in finding.what for finding in findings)
    assert lived_in.files() == left


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("incoming/" + "a" * 32, Trouble.LEFTOVER),
        ("sha256/ab/ab" + "0" * 62, Trouble.ORPHAN),
        ("updates/2/nobody", Trouble.ORPHAN),
        ("updates/999/nobody", Trouble.ORPHAN),
        ("strange", Trouble.ORPHAN),
    ],
)
def test_a_file_that_no_row_names_is_deleted_when_it_is_old(
    lived_in: Federation, name: str, trouble: Trouble
) -> None:
    before = lived_in.state()
    write(lived_in, name, age_s=OLD_S - 2)
    assert examine(lived_in, repair=True) == []

    path = write(lived_in, name, age_s=OLD_S)
    (found,) = examine(lived_in)
    assert (found.trouble, found.is_mended) == (trouble, False)
    assert name in found.what
    assert path.exists()

    (mended,) = examine(lived_in, repair=True)
    assert (mended.trouble, mended.is_mended) == (trouble, True)
    assert lived_in.state() == before
    assert examine(lived_in) == []


def test_updates_that_outlived_their_round_are_deleted(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.release(federation.must_claim())  # and the worker dies
    federation.clock.advance(60)
    assert examine(federation) == []
    federation.clock.advance(1)

    assert troubles(examine(federation)) == [Trouble.UNDELETED]
    (mended,) = examine(federation, repair=True)

    assert mended.is_mended
    assert not list((blob_folder(federation) / "updates").rglob("*-*"))
    assert examine(federation) == []


def test_a_round_that_waits_for_a_worker_is_named_while_there_is_none(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    assert examine(federation) == []
    federation.clock.advance(61)

    (found,) = examine(federation, repair=True)
    assert (found.trouble, found.is_mended) == (Trouble.STUCK, False)
    assert "round 1 of task task waits for a worker" in found.what
    assert federation.phases() == [Phase.AGGREGATING]

    workers.beat(federation.store, worker="ann", now=federation.clock.now())
    assert examine(federation) == []


def test_an_update_that_goes_with_its_round_meanwhile_is_not_lost(
    lived_in: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = lived_in.blobs.check

    def end_the_round(name: str, *, sha256: str, size_bytes: int | None) -> None:
        if name.startswith("updates/") and lived_in.attempts()[-1].id == 2:
            lived_in.take_part()
            worker(lived_in).step()
        check(name, sha256=sha256, size_bytes=size_bytes)

    monkeypatch.setattr(lived_in.blobs, "check", end_the_round)

    assert examine(lived_in, repair=True) == []
    assert lived_in.task().rounds_committed == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_row_that_refers_to_none_is_a_finding(lived_in: Federation) -> None:
    with lived_in.store.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("DELETE FROM devices")
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.exec_driver_sql("BEGIN")
        connection.execute(sa.text("SELECT 1"))

    findings = examine(lived_in)

    assert set(troubles(findings)) == {Trouble.DATABASE}
    assert "assignments refers to a row of devices" in findings[0].what


def test_what_came_to_be_named_while_files_were_compared_is_kept(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.start()
    file = write(federation, f"sha256/{'ab' * 32}"[:9] + f"/{'ab' * 32}", age_s=OLD_S)
    named = inventory.named_files
    looks = 0

    def look(tx: Transaction) -> dict[str, inventory.Named]:
        nonlocal looks
        looks += 1
        found = named(tx)
        if looks > 1:  # a release has committed since
            name = str(file.relative_to(blob_folder(federation)))
            found[name] = next(iter(found.values()))
        return found

    monkeypatch.setattr(inventory, "named_files", look)
    assert examine(federation, repair=True) == []
    assert file.exists()


def test_what_is_kept_again_is_young_again(federation: Federation) -> None:
    federation.start()
    sha256 = federation.blobs.put(b"drawn once more")
    path = federation.blobs.path(sha256)
    moment = federation.clock.now().timestamp() - OLD_S
    os.utime(path, (moment, moment))
    federation.blobs.put(b"drawn once more")
    assert examine(federation, repair=True) == []
    assert path.exists()
