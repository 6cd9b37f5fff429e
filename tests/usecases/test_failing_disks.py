"""A round whose files are lost, or cannot be written, ends well or says why."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa

from coordinator.domain.rounds import FOLD_LEASE, HAND_BACK_PAUSE, MAX_CLAIMS, Phase
from coordinator.domain.tasks import Status
from coordinator.store import assignments
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.usecases import rounds
from tests.support.clock import ManualClock
from tests.support.databases import Postgres
from tests.support.disks import SmallDisk
from tests.support.federation import Federation, plan
from tests.support.models import update_body
from tests.support.worker import worker


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, flip, cut])
def test_a_round_with_a_spoilt_update_is_tried_again_and_publishes_nothing_of_it(
    federation: Federation, damage: Callable[[pathlib.Path], None]
) -> None:
    federation.start()
    start = federation.weights(0)
    for value in (0.5, 1.5):
        federation.take_part([value] * 10)
    damage(next((federation.folder / "blobs" / "updates").glob("*/*")))

    worker(federation).step()

    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]
    reason = federation.attempts()[0].reason
    assert reason is not None
    assert "gone" in reason or "spoilt" in reason
    assert federation.task().version == 0
    for value in (0.5, 1.5):
        federation.take_part([value] * 10)
    worker(federation).step()
    assert federation.phases()[1:] == [Phase.COMMITTED, Phase.COLLECTING]
    np.testing.assert_array_equal(federation.weights(1), start + np.float32(1))


def test_a_task_whose_weights_are_lost_stops_and_says_so(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1, max_attempts=2))
    for path in (federation.folder / "blobs" / "sha256").glob("*/*"):
        path.unlink()

    for _ in range(2):
        federation.take_part()
        worker(federation).step()

    task = federation.task()
    assert task.status is Status.STOPPED
    assert task.reason is not None
    assert "is gone" in task.reason


@pytest.fixture
def on_a_disk(store: Store, small_disk: SmallDisk) -> Federation:
    return Federation(
        store=store,
        blobs=BlobStore(small_disk.folder / "blobs", durable=True),
        clock=ManualClock(),
        folder=small_disk.folder,
    )


@pytest.mark.parametrize(
    ("fail", "mend"),
    [
        (SmallDisk.fill, SmallDisk.free),
        (SmallDisk.set_read_only, SmallDisk.set_writable),
    ],
)
def test_a_round_waits_for_the_disk_however_long_it_takes(
    on_a_disk: Federation,
    small_disk: SmallDisk,
    fail: Callable[[SmallDisk], None],
    mend: Callable[[SmallDisk], None],
) -> None:
    federation = on_a_disk
    federation.start(settings=plan(goal=1, deadline_s=10_000))
    federation.take_part()
    fail(small_disk)

    for _ in range(2 * MAX_CLAIMS):
        assert worker(federation).step()
        (round_,) = federation.attempts()
        assert (round_.phase, round_.claims) == (Phase.AGGREGATING, 0)
        assert round_.owner is None
        assert federation.claim("bob") is None  # it rests
        federation.clock.advance(HAND_BACK_PAUSE.total_seconds())
    mend(small_disk)
    assert worker(federation).step()

    assert federation.phases() == [Phase.COMMITTED, Phase.COLLECTING]
    assert federation.happenings().count("round_handed_back") == 2 * MAX_CLAIMS


def test_a_round_that_was_taken_over_is_not_handed_back(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    old = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds())
    new = federation.must_claim("bob")

    rounds.hand_back(federation.store, old, "late", now=federation.clock.now())

    assert federation.attempts()[0] == new.round


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_update_whose_connection_is_cut_counts_once_when_it_is_sent_again(
    federation: Federation,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation.start()
    work = federation.lease()
    body = update_body([0.5] * 10)
    rows = federation.rows()
    insert = assignments.insert_update

    def insert_and_be_cut(tx: Transaction, *arguments: object, **named: object) -> None:
        insert(tx, *arguments, **named)  # type: ignore[arg-type]  # handed on
        pid = tx.connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        postgres.execute(f"SELECT pg_terminate_backend({pid}, 5000)")

    with monkeypatch.context() as patch:
        patch.setattr(assignments, "insert_update", insert_and_be_cut)
        with pytest.raises(Store.errors):
            federation.submit(work, body)
    assert federation.rows() == rows

    first = federation.submit(work, body)
    again = federation.submit(work, body)

    assert first == again
    assert federation.counts(work.round.id)[1] == 1
