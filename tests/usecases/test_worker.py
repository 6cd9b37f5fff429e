"""The worker's loop: one step after the other, whatever happens in between."""

import datetime as dt
import logging
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from coordinator import worker as worker_module
from coordinator.domain.aggregation import Folded
from coordinator.domain.rounds import FOLD_LEASE, Phase
from coordinator.domain.tasks import Status
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_server import AggregationPlan, ServerPlan
from coordinator.protocol.signatures import Signature
from coordinator.usecases import access, tasks
from coordinator.worker import Worker, name_of_this_process
from tests.support.compute import NumpyCompute
from tests.support.federation import Federation, dump, plan


class Meddled(NumpyCompute):
    """A compute during whose fold something else happens."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__()
        self._meddle = meddle

    def fold(
        self,
        updates: Sequence[tuple[float, Vector]],
        *,
        size: int,
        plan: AggregationPlan,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        self._meddle()
        return super().fold(
            updates, size=size, plan=plan, state=state, on_progress=on_progress
        )


def worker(federation: Federation, compute: NumpyCompute | None = None) -> Worker:
    return Worker(
        federation.store,
        federation.blobs,
        compute or federation.compute,
        federation.clock,
        name="ann",
        interval_s=0.001,
    )


def test_a_worker_forgets_nonces_that_are_of_no_use(federation: Federation) -> None:
    skew = dt.timedelta(seconds=300)
    device = federation.enrol()
    running = worker(federation)

    def spend(nonce: str) -> None:
        signature = Signature(nonce=nonce, created=federation.clock.now())
        federation.store.run(
            "spend",
            lambda tx: access.spend_nonce(
                tx, device, signature, now=federation.clock.now(), skew=skew
            ),
        )

    spend("first")
    running.step()
    federation.clock.advance(60)
    spend("second")
    federation.clock.advance(541)
    running.step()

    assert [row[1] for row in dump(federation.store)["nonces"]] == ["second"]


def test_a_worker_with_nothing_to_do_says_so(federation: Federation) -> None:
    federation.start()
    before = federation.state()

    assert not worker(federation).step()

    assert federation.state() == before


def test_a_step_folds_releases_and_cleans_up(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    start = federation.weights(0)
    federation.take_part([0.5] * 10)

    assert worker(federation).step()

    assert federation.phases() == [Phase.COMMITTED, Phase.COLLECTING]
    np.testing.assert_array_equal(federation.weights(1), start + np.float32(0.5))
    assert not [name for name in federation.files() if name.startswith("updates/")]
    assert not worker(federation).step()


def test_a_step_ends_what_is_due_and_folds_it(federation: Federation) -> None:
    federation.start(settings=plan(goal=3, minimum=1))
    federation.take_part()
    federation.clock.advance(120)

    assert worker(federation).step()

    assert federation.phases() == [Phase.COMMITTED, Phase.COLLECTING]


def test_a_result_that_is_not_finite_abandons_the_round(
    federation: Federation,
) -> None:
    server = ServerPlan(learning_rate=100)
    federation.start(settings=plan(goal=1, max_attempts=1, server=server))
    federation.take_part([3e38] * 10)

    assert worker(federation).step()

    assert federation.phases() == [Phase.ABANDONED]
    task = federation.task()
    assert (task.status, task.version) == (Status.STOPPED, 0)
    assert task.reason is not None
    assert "not finite" in task.reason


def test_a_long_fold_holds_on_to_its_round(federation: Federation) -> None:
    federation.start(settings=plan(goal=3))
    for _ in range(3):
        federation.take_part()
    taken_over: list[object] = []
    compute = NumpyCompute()
    fold = compute.fold

    def slow_fold(
        updates: Sequence[tuple[float, Vector]],
        *,
        size: int,
        plan: AggregationPlan,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        def slower(count: int) -> None:
            federation.clock.advance(FOLD_LEASE.total_seconds() * 0.6)
            on_progress(count)
            taken_over.append(federation.claim("bob"))

        return fold(updates, size=size, plan=plan, state=state, on_progress=slower)

    compute.fold = slow_fold  # type: ignore[method-assign]  # slower, else the same

    assert worker(federation, compute).step()

    assert taken_over == [None, None, None]
    assert federation.task().version == 1


def test_a_round_that_was_cancelled_meanwhile_is_let_go(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()

    def stop() -> None:
        tasks.stop(federation.store, task_id="task", now=federation.clock.now())

    assert worker(federation, Meddled(stop)).step()

    assert federation.phases() == [Phase.ABANDONED]
    assert federation.task().version == 0
    assert "taken over or cancelled" in caplog.text


def test_a_round_that_was_taken_over_and_released_meanwhile_is_let_go(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()

    def take_over() -> None:
        federation.clock.advance(FOLD_LEASE.total_seconds())
        federation.release(federation.must_claim("bob"))

    assert worker(federation, Meddled(take_over)).step()

    assert federation.task().rounds_committed == 1
    assert "taken over or cancelled" in caplog.text


def test_a_failure_does_not_end_the_worker(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(worker_module, "_AFTER_FAILURE_S", 0.0)
    federation.start(settings=plan(goal=1))
    federation.take_part()
    failures = iter([RuntimeError("a bug"), None])
    stop = threading.Event()

    def fail_once() -> None:
        failure = next(failures)
        if failure is not None:
            federation.clock.advance(FOLD_LEASE.total_seconds())
            raise failure
        stop.set()

    worker(federation, Meddled(fail_once)).run(stop)

    assert federation.phases() == [Phase.COMMITTED, Phase.COLLECTING]
    failed = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(failed) == 1
    assert "a bug" in caplog.text


def test_at_its_start_a_worker_frees_the_rounds_of_the_dead(
    federation: Federation,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.must_claim(f"{host}:{ended.pid}")

    stopped = threading.Event()
    stopped.set()
    worker(federation).run(stopped)

    assert federation.claim("bob") is not None


@pytest.mark.parametrize("name", ["elsewhere:1", "{host}:{parent}", "{host}:x", "ann"])
def test_at_its_start_a_worker_leaves_the_rounds_of_the_living(
    federation: Federation, name: str
) -> None:
    living = name.format(host=socket.gethostname(), parent=os.getppid())
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.must_claim(living)

    stopped = threading.Event()
    stopped.set()
    worker(federation).run(stopped)

    assert federation.claim("bob") is None


def test_a_worker_that_has_a_dead_ones_number_knows_it_is_another(
    federation: Federation,
) -> None:
    """In a container every worker is process 1."""
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.must_claim(name_of_this_process())

    stopped = threading.Event()
    stopped.set()
    worker(federation).run(stopped)

    assert federation.claim("bob") is not None


def test_at_its_start_a_worker_deletes_what_never_became_whole(
    federation: Federation,
) -> None:
    hour_s, now = 3600, federation.clock.now().timestamp()
    paths: list[pathlib.Path] = []
    for age_s in (hour_s + 1, hour_s - 1):
        path = federation.blobs.new_incoming()
        path.write_bytes(b"half")
        os.utime(path, (now - age_s, now - age_s))
        paths.append(path)

    stopped = threading.Event()
    stopped.set()
    worker(federation).run(stopped)

    assert [path.exists() for path in paths] == [False, True]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_worker_rests_longer_while_no_round_is_open(
    federation: Federation, *, is_open: bool
) -> None:
    if is_open:
        federation.start()
    rests: list[float] = []

    class Rest(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            rests.append(timeout or 0.0)
            self.set()
            return True

    worker(federation).run(Rest())

    assert rests == [0.001 if is_open else 0.01]
