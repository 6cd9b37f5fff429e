"""``kill -9`` at the worst moments: the same round goes on, and not a bit is other."""

import collections
import concurrent.futures
import errno
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Self, TypeAlias

import httpx
import pytest

from coordinator.domain.events import Happening, Recorded
from coordinator.domain.rounds import FOLD_LEASE
from coordinator.protocol import paths
from coordinator.protocol.messages import Receipt
from coordinator.store.engine import Store
from coordinator.usecases import tasks
from tests.support.processes import (
    Coordinator,
    FixedDevice,
    wait_until,
    write_wide_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.tf]
DEVICES = 50
ROUNDS = 2
SIZE = 300_000
TASK = "kill"
Taken: TypeAlias = concurrent.futures.Future[tuple[int, Receipt] | None]


@pytest.fixture
def coordinator(
    tmp_path: pathlib.Path, empty_database_url: str
) -> Iterator[Coordinator]:
    write_wide_model(tmp_path / "models", SIZE)
    running = Coordinator(
        tmp_path,
        database_url=empty_database_url,
        models_dir=tmp_path / "models",
    )
    running.start("api")
    running.start("worker")
    yield running
    running.stop()


class Run:
    """Fifty devices on eight threads, and the task that they train."""

    def __init__(self, coordinator: Coordinator, tmp_path: pathlib.Path) -> None:
        self.coordinator = coordinator
        self.manifest = write_wide_model(tmp_path / "again", SIZE)
        self.devices = [
            FixedDevice(coordinator.url, number, self.manifest)
            for number in range(DEVICES)
        ]

    def create_task(
        self, *, rounds: int = ROUNDS, goal: int = DEVICES, **others: object
    ) -> None:
        plan = {
            "model": "wide",
            "rounds": rounds,
            "round": {
                "goal": goal,
                "minimum": goal,
                "lease_s": 300,
                "deadline_s": 600,
            },
            "server": {"momentum": 0.9},
            **others,
        }
        httpx.post(
            self.coordinator.url + paths.TASKS,
            headers=self.coordinator.operator,
            json={"id": TASK, "plan": plan},
        ).raise_for_status()

    def take_part(self) -> Iterator[Taken]:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            yield from concurrent.futures.as_completed(
                [pool.submit(device.take_part) for device in self.devices]
            )

    def finish(self, disturb: Callable[[int, int], None]) -> bytes:
        """Run every round; ``disturb`` is told of each report as (round, count).

        And with a count of 0 before devices take part.
        """
        self.create_task()
        for round_number in range(1, ROUNDS + 1):
            disturb(round_number, 0)
            for count, done in enumerate(self.take_part(), start=1):
                done.result()
                disturb(round_number, count)
            wait_until(
                lambda number=round_number: self.committed() == number,
                f"round {round_number}",
            )
        for device in self.devices:
            device.close()
        response = httpx.get(self.coordinator.url + paths.weights("wide", ROUNDS))
        response.raise_for_status()
        return response.content

    def committed(self) -> int:
        if not self.coordinator.is_alive():
            return -1
        count: int = self.coordinator.get(paths.task(TASK))["rounds_committed"]
        return count


def expect_every_update_counted_once(run: Run) -> None:
    rounds = run.coordinator.get(paths.rounds(TASK))["rounds"]
    assert [(r["number"], r["attempt"], r["phase"]) for r in rounds] == [
        (number, 1, "committed") for number in range(1, ROUNDS + 1)
    ]
    assert [r["accepted"] for r in rounds] == [DEVICES] * ROUNDS
    examples = sum(range(1, DEVICES + 1))
    assert [r["examples"] for r in rounds] == [examples] * ROUNDS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights after the last round when nobody dies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_wide_model(folder / "models", SIZE)
    coordinator = Coordinator(folder, database_url=None, models_dir=folder / "models")
    coordinator.start("api")
    coordinator.start("worker")
    try:
        return Run(coordinator, folder).finish(lambda *_: None)
    finally:
        coordinator.stop()


def test_the_api_is_killed_in_the_middle_of_fifty_uploads(
    coordinator: Coordinator, tmp_path: pathlib.Path, undisturbed: bytes
) -> None:
    run = Run(coordinator, tmp_path)

    def kill_twice_a_round(_: int, count: int) -> None:
        if count in (11, 29):
            coordinator.kill("api")
            coordinator.start("api")

    assert run.finish(kill_twice_a_round) == undisturbed
    expect_every_update_counted_once(run)


def test_the_worker_is_killed_while_it_folds(
    coordinator: Coordinator,
    tmp_path: pathlib.Path,
    empty_database_url: str,
    undisturbed: bytes,
) -> None:
    run = Run(coordinator, tmp_path)

    def kill_the_folding_worker(_: int, count: int) -> None:
        if count == 0:  # it must not see the last update
            coordinator.kill("worker")
        if count == DEVICES:
            with HeldBack(last_to_be_folded(coordinator)) as update:
                coordinator.start("worker")
                wait_until(update.is_being_read, "the worker to fold")
                coordinator.kill("worker")
            coordinator.start("worker")

    assert run.finish(kill_the_folding_worker) == undisturbed
    expect_every_update_counted_once(run)
    claims = claims_of_rounds(empty_database_url)
    assert [len(each) for each in claims] == [2] * ROUNDS
    assert all(
        first.data["worker"] != second.data["worker"] for first, second in claims
    )
    # On a slow machine the lease may be over before another worker has started.
    before_the_lease_ended = sum(
        second.at < first.at + FOLD_LEASE for first, second in claims
    )
    taken_over = coordinator.log.count("that died here are taken over")
    assert taken_over >= before_the_lease_ended


def claims_of_rounds(database_url: str) -> list[list[Recorded]]:
    """For each round, oldest first, when it was taken to be folded, and by whom."""
    store = Store(database_url, durable=False)
    claims = collections.defaultdict(list)
    for event in tasks.list_events(store, after=0, limit=10_000):
        if event.happening is Happening.ROUND_CLAIMED:
            claims[event.round_id].append(event)
    store.close()
    return [claims[round_id] for round_id in sorted(claims)]


def test_both_are_killed_again_and_again(
    coordinator: Coordinator, tmp_path: pathlib.Path, undisturbed: bytes
) -> None:
    run = Run(coordinator, tmp_path)

    def kill_both(_: int, count: int) -> None:
        if count in (7, DEVICES):
            coordinator.kill("api")
            coordinator.kill("worker")
            coordinator.start("api")
            coordinator.start("worker")

    assert run.finish(kill_both) == undisturbed
    expect_every_update_counted_once(run)


def test_both_are_killed_while_an_asynchronous_task_goes_on(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    run = Run(coordinator, tmp_path)
    goal, rounds = 10, 2 * DEVICES // 10
    run.create_task(
        rounds=rounds, goal=goal, asynchronous={"concurrency": 8, "max_staleness": 50}
    )

    count = 0
    for _ in range(2):  # each device takes part twice
        for done in run.take_part():
            done.result()
            count += 1
            if count in (27, 60):  # the second as a round closes
                coordinator.kill("api")
                coordinator.kill("worker")
                coordinator.start("api")
                coordinator.start("worker")
    wait_until(lambda: run.committed() == rounds, "the last round")

    found = coordinator.get(paths.rounds(TASK))["rounds"]
    assert [(r["number"], r["attempt"], r["phase"]) for r in found] == [
        (number, 1, "committed") for number in range(1, rounds + 1)
    ]
    assert [r["accepted"] for r in found] == [goal] * rounds
    # every device's examples, which differ, twice and no oftener
    assert sum(r["examples"] for r in found) == 2 * sum(range(1, DEVICES + 1))
    assert max(r["staleness_max"] for r in found) > 0
    for device in run.devices:
        device.close()


def test_a_private_release_is_paid_for_once_whoever_is_killed(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    run = Run(coordinator, tmp_path)
    privacy = {"population": 1000, "delta": 1e-5, "noise_multiplier": 4.0}
    run.create_task(privacy=privacy)
    for round_number in range(1, ROUNDS + 1):
        coordinator.kill("worker")  # it must not see the last update
        for done in run.take_part():
            done.result()
        with HeldBack(last_to_be_folded(coordinator)) as update:
            coordinator.start("worker")
            wait_until(update.is_being_read, "the worker to fold")
            coordinator.kill("worker")
        coordinator.kill("api")
        coordinator.start("api")
        coordinator.start("worker")
        wait_until(
            lambda number=round_number: run.committed() == number,
            f"round {round_number}",
        )
        coordinator.kill("worker")  # as soon as it is seen to have released
        coordinator.start("worker")
    coordinator.kill("api")
    coordinator.start("api")

    report = coordinator.get(paths.privacy(TASK))

    # delta 1e-5 = F(m/2 - e/m) - exp(e) F(-m/2 - e/m), m = sqrt(1, 2) / 4
    assert [r["round"] for r in report["releases"]] == list(range(1, ROUNDS + 1))
    assert [r["epsilon"] for r in report["releases"]] == pytest.approx(
        [0.926342, 1.356467], rel=1e-5
    )
    assert report["epsilon"] == report["releases"][-1]["epsilon"]
    # Of each version there are weights once: no killed worker left other noise.
    first = httpx.get(coordinator.url + paths.weights("wide", 0)).content
    stored = (coordinator.data_dir / "blobs" / "sha256").rglob("*")
    sizes = [path.stat().st_size for path in stored if path.is_file()]
    assert sizes.count(len(first)) == ROUNDS + 1
    for device in run.devices:
        device.close()


class HeldBack:
    """An update whose bytes do not come: a pipe that nobody writes to."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._aside = path.with_name("aside")

    def __enter__(self) -> Self:
        self._path.rename(self._aside)
        os.mkfifo(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self._aside.replace(self._path)

    def is_being_read(self) -> bool:
        """Whether a process has opened the update, and so waits for its bytes."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads
                raise
            return False
        return True


def last_to_be_folded(coordinator: Coordinator) -> pathlib.Path:
    """The newest round's update whose digest sorts last.

    Updates of the round before may lie there still: its worker was killed.
    """
    folders = (coordinator.data_dir / "blobs" / "updates").iterdir()
    newest = max(folders, key=lambda folder: int(folder.name))
    return max(newest.iterdir(), key=lambda path: path.name.split("-")[1])
