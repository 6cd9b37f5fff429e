"""A backup is whole whatever goes on, and a round goes on from it."""

import itertools
import pathlib
import threading
from typing import BinaryIO

import numpy as np
import pytest

from coordinator.domain.rounds import Phase
from coordinator.store.blobs import BlobLost, BlobStore
from coordinator.store.engine import Store
from coordinator.usecases import backup, diagnosis
from coordinator.usecases.backup import Copied
from tests.support.federation import Federation, plan
from tests.support.models import update_body
from tests.support.worker import worker


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def back_up(federation: Federation, target: pathlib.Path) -> Copied:
    target.mkdir()
    return backup.back_up(
        federation.store,
        federation.blobs,
        database=target / "coordinator.db",
        folder=target / "blobs",
    )


def restored(federation: Federation, target: pathlib.Path) -> Federation:
    """A coordinator that starts from a backup."""
    return Federation(
        store=Store(f"sqlite:///{target / 'coordinator.db'}", durable=True),
        blobs=BlobStore(target / "blobs", durable=True),
        clock=federation.clock,
        folder=target,
    )


def test_a_round_goes_on_from_a_backup(
    federation: Federation, tmp_path: pathlib.Path
) -> None:
    federation.start()
    federation.take_part([0.5] * 10)
    work = federation.lease()
    body = update_body([1.5] * 10)

    copied = back_up(federation, tmp_path / "backup")

    assert copied.lost == ()
    federation.submit(work, body)
    worker(federation).step()
    again = restored(federation, tmp_path / "backup")
    assert len(again.files()) == copied.files == 5
    assert again.phases() == [Phase.COLLECTING]
    again.submit(work, body)
    worker(again).step()
    assert again.phases() == [Phase.COMMITTED, Phase.COLLECTING]
    np.testing.assert_array_equal(again.weights(1), federation.weights(1))
    again.store.close()


def test_backups_are_whole_while_rounds_go_by(
    federation: Federation, tmp_path: pathlib.Path
) -> None:
    federation.start(settings=plan(rounds=10_000))
    stop = threading.Event()
    crashed: list[BaseException] = []

    def go_on() -> None:
        try:
            while not stop.is_set():
                federation.take_part()
                worker(federation).step()
        except BaseException as error:  # noqa: BLE001 - seen below
            crashed.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for number in itertools.count():
            if number >= 8 and federation.task().rounds_committed > 1:
                break
            target = tmp_path / f"backup-{number}"
            assert back_up(federation, target).lost == ()
            again = restored(federation, target)
            assert (
                diagnosis.examine(again.store, again.blobs, now=again.clock.now()) == []
            )
            named = {name for name in again.files() if name.startswith("updates/")}
            rounds = [r for r in again.attempts() if not r.is_terminal]
            assert {name.split("/")[1] for name in named} <= {str(r.id) for r in rounds}
            again.store.close()
    finally:
        stop.set()
        thread.join()
    assert crashed == []


def test_what_goes_with_its_round_meanwhile_is_not_in_the_backup(
    federation: Federation, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.start()
    federation.take_part()
    open_, ended = federation.blobs.open, threading.Event()

    def end_the_round(name: str) -> BinaryIO:
        if not ended.is_set():
            ended.set()
            federation.take_part()
            worker(federation).step()
        return open_(name)

    monkeypatch.setattr(federation.blobs, "open", end_the_round)

    assert back_up(federation, tmp_path / "backup").lost == ()

    again = restored(federation, tmp_path / "backup")
    assert again.phases() == [Phase.COMMITTED, Phase.COLLECTING]
    assert not any(name.startswith("updates/") for name in again.files())
    assert again.weights(1).shape == federation.weights(1).shape
    again.store.close()


def test_what_is_lost_or_spoilt_is_named_and_the_rest_is_copied(
    federation: Federation, tmp_path: pathlib.Path
) -> None:
    model = federation.start().plan.model
    train = federation.register(model).manifest.train.sha256
    path = federation.blobs.path(train)
    path.write_bytes(path.read_bytes()[::-1])

    copied = back_up(federation, tmp_path / "backup")

    (lost,) = copied.lost
    assert "of model tiny" in lost
    again = restored(federation, tmp_path / "backup")
    assert len(again.files()) == copied.files == 3
    with pytest.raises(BlobLost):
        again.blobs.get(train)
    again.register()  # as every start does
    assert diagnosis.examine(again.store, again.blobs, now=again.clock.now()) == []
    again.store.close()
