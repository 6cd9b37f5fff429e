"""A result is judged before its version is published, and again by its scores."""

import numpy as np
import pytest

from coordinator.domain.aggregation import Score
from coordinator.domain.gate import Rejected
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_server import GatePlan, ServerPlan
from coordinator.protocol.plans import Plan
from coordinator.usecases import tasks
from coordinator.worker import Worker
from tests.support.federation import Federation, plan
from tests.support.models import update_body

DROP = GatePlan(max_accuracy_drop=0.1)


def worker(federation: Federation) -> Worker:
    return Worker(
        federation.store,
        federation.blobs,
        federation.compute,
        federation.clock,
        name="ann",
        interval_s=0.001,
    )


def train(federation: Federation, *, delta: float = 1.0, loss: float = 1.0) -> None:
    """One device trains, and the worker does what follows."""
    body = update_body([delta] * 10, train_loss=loss)
    federation.submit(federation.lease(), body)
    worker(federation).step()


def measure(federation: Federation, number: int, accuracy: float) -> None:
    tasks.record_held_out(
        federation.store,
        task_id="task",
        number=number,
        score=Score(examples=100, loss=1.0, accuracy=accuracy),
        now=federation.clock.now(),
    )


def gated(gate: GatePlan, **rest: object) -> Plan:
    return plan(goal=1, rounds=10, gate=gate, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gate", "bad", "said"),
    [
        (GatePlan(max_norm_ratio=2), {"delta": 3.0}, "the aggregate's norm 9.487 is"),
        (GatePlan(max_loss_rise=1), {"loss": 2.5}, "the devices' training loss 2.5 is"),
    ],
    ids=["norm", "loss"],
)
def test_a_round_that_does_not_pass_is_tried_again_until_the_task_stops(
    federation: Federation, gate: GatePlan, bad: dict[str, float], said: str
) -> None:
    federation.start(settings=gated(gate))
    for _ in range(3):
        train(federation)

    train(federation, **bad)
    first_try = federation.task()
    files = [name for name in federation.files() if name.startswith("updates/")]
    train(federation, **bad)

    assert (first_try.status, first_try.version) == (Status.RUNNING, 3)
    assert files == []
    assert [(r.number, r.attempt) for r in federation.attempts()[-2:]] == [
        (4, 1),
        (4, 2),
    ]
    for round_ in federation.attempts()[-2:]:
        assert round_.phase is Phase.ABANDONED
        assert round_.reason is not None
        assert round_.reason.startswith(said)
    task = federation.task()
    assert (task.status, task.version) == (Status.STOPPED, 3)
    assert task.reason is not None
    assert said in task.reason


def test_a_loss_is_judged_before_anything_is_folded(federation: Federation) -> None:
    federation.start(settings=gated(GatePlan(max_loss_rise=1)))
    for _ in range(3):
        train(federation)
    federation.submit(federation.lease(), update_body([1.0] * 10, train_loss=9.0))
    claim = federation.must_claim()
    before = federation.state()

    with pytest.raises(Rejected):
        federation.release(claim)

    assert len(federation.compute.folded) == 3
    assert federation.state() == before


def test_a_later_try_may_pass(federation: Federation) -> None:
    federation.start(settings=gated(GatePlan(max_norm_ratio=2)))
    for _ in range(3):
        train(federation)
    train(federation, delta=9.0)
    train(federation)

    assert federation.task().version == 4
    np.testing.assert_array_equal(
        federation.weights(4), federation.weights(3) + np.float32(1.0)
    )


def test_only_the_window_counts(federation: Federation) -> None:
    federation.start(settings=gated(GatePlan(max_norm_ratio=2, window=1)))
    for delta in (1.0, 1.9, 3.7):
        train(federation, delta=delta)

    assert federation.task().version == 3


def test_a_first_version_has_nothing_to_be_compared_with(
    federation: Federation,
) -> None:
    federation.start(settings=gated(GatePlan(max_norm_ratio=2, window=1)))

    train(federation, delta=1000.0)

    assert federation.task().version == 1


def test_a_version_that_is_measured_worse_is_gone_back_from(
    federation: Federation,
) -> None:
    server = ServerPlan(momentum=0.5)
    federation.start(settings=gated(DROP, server=server))
    train(federation, delta=1.0)  # velocity 1
    measure(federation, 1, 0.9)
    train(federation, delta=64.0)

    measure(federation, 2, 0.7)

    task = federation.task()
    assert (task.version, task.rounds_committed) == (1, 2)
    _, worse, cancelled, opened = federation.attempts()
    reason = (
        "version 2 has held_out accuracy 0.7000, more than 0.1 below 0.9000, "
        "the best of the last 1 that were scored"
    )
    assert (worse.phase, worse.result_version, worse.reason) == (
        Phase.COMMITTED,
        2,
        reason,
    )
    assert (cancelled.phase, cancelled.reason) == (Phase.ABANDONED, reason)
    assert (opened.number, opened.attempt, opened.base_version) == (3, 2, 1)
    (event,) = [
        event
        for event in tasks.list_events(federation.store, after=0, limit=1000)
        if event.happening == "task_rolled_back"
    ]
    assert event.data == {"version": 1, "before": 2, "reason": reason}
    train(federation, delta=2.0)  # velocity 0.5 * 1 + 2
    np.testing.assert_array_equal(
        federation.weights(3), federation.weights(1) + np.float32(2.5)
    )


def test_what_was_built_upon_a_worse_version_goes_with_it(
    federation: Federation,
) -> None:
    federation.start(settings=gated(DROP))
    for _ in range(4):
        train(federation)
    measure(federation, 1, 0.9)

    measure(federation, 3, 0.5)

    assert federation.task().version == 1


def test_a_version_that_was_gone_back_from_is_not_judged_again(
    federation: Federation,
) -> None:
    federation.start(settings=gated(DROP))
    for _ in range(3):
        train(federation)
    measure(federation, 1, 0.9)
    measure(federation, 2, 0.5)
    train(federation)
    after = federation.task()

    measure(federation, 3, 0.1)  # built upon 2
    measure(federation, 2, 0.4)

    assert federation.task() == after
    assert after.version == 4


def test_what_was_gone_back_from_is_not_compared_with(
    federation: Federation,
) -> None:
    federation.start(settings=gated(DROP))
    for number, accuracy in ((1, 0.5), (2, 0.3)):
        train(federation)
        measure(federation, number, accuracy)
    train(federation)
    measure(federation, 3, 0.45)

    measure(federation, 2, 1.0)  # of the line that was left
    train(federation)
    measure(federation, 4, 0.45)

    assert federation.task().version == 4


def test_a_good_enough_version_stays(federation: Federation) -> None:
    federation.start(settings=gated(DROP))
    for number, accuracy in ((1, 0.9), (2, 0.85), (3, 0.81)):
        train(federation)
        measure(federation, number, accuracy)

    assert federation.task().version == 3
    assert "task_rolled_back" not in federation.happenings()


def test_federated_and_held_out_accuracies_are_not_compared(
    federation: Federation,
) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=gated(DROP, evaluation=evaluation))
    train(federation)
    measure(federation, 1, 0.9)

    federation.lease()  # takes the place to train: evaluation comes second
    federation.evaluate(federation.lease(), examples=10, correct=2)
    worker(federation).step()

    assert federation.task().version == 1


def test_federated_evaluation_may_take_a_version_back(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=gated(DROP, evaluation=evaluation, over_select=1))
    for correct in (9, 5):
        train(federation)
        federation.lease()  # takes the place to train: evaluation comes second
        federation.lease()
        federation.evaluate(federation.lease(), examples=10, correct=correct)
        worker(federation).step()
        federation.clock.advance(60)
        federation.advance()  # the silent devices' places are free again

    assert federation.task().version == 1
    assert federation.attempts()[-1].base_version == 1


def test_a_finished_task_still_goes_back(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, rounds=2, gate=DROP))
    train(federation)
    measure(federation, 1, 0.9)
    train(federation)

    measure(federation, 2, 0.5)

    task = federation.task()
    assert (task.status, task.version) == (Status.FINISHED, 1)
    assert federation.phases() == [Phase.COMMITTED] * 2


def test_without_a_gate_nothing_is_judged(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, rounds=5))
    for number, accuracy in ((1, 0.9), (2, 0.1), (3, 0.0)):
        train(federation, delta=10.0**number, loss=10.0**number)
        measure(federation, number, accuracy)

    assert federation.task().version == 3
