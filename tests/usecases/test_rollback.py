"""A task goes on from another of its versions."""

import numpy as np
import pytest

from coordinator.domain.errors import RoundClosed, TaskEnded, VersionUnknown
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status, Task
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_server import ServerPlan
from coordinator.protocol.vocabulary import Kind
from coordinator.store.engine import StaleWrite
from coordinator.usecases import tasks
from tests.support.federation import Federation, plan
from tests.support.models import update_body

MOMENTUM = ServerPlan(momentum=0.5)


def commit(federation: Federation, delta: float = 1.0) -> None:
    federation.take_part([delta] * 10)
    federation.release(federation.must_claim())


def roll_back(federation: Federation, number: int, task_id: str = "task") -> Task:
    return tasks.roll_back(
        federation.store, task_id=task_id, number=number, now=federation.clock.now()
    ).task


def test_the_next_round_starts_from_the_older_version_and_its_optimizer(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1, server=MOMENTUM))
    commit(federation, 1.0)  # velocity 1
    commit(federation, 64.0)  # velocity 64.5

    task = roll_back(federation, 1)
    commit(federation, 2.0)  # velocity 0.5 * 1 + 2, as if version 2 had never been

    assert (task.version, task.rounds_committed) == (1, 2)
    assert federation.task().version == 3
    np.testing.assert_array_equal(
        federation.weights(3), federation.weights(1) + np.float32(2.5)
    )


def test_the_open_round_is_abandoned_and_opened_anew(federation: Federation) -> None:
    federation.start(settings=plan(goal=2, minimum=2, max_attempts=1, rounds=3))
    for _ in range(2):
        federation.take_part()
    federation.release(federation.must_claim())
    early = federation.lease()

    roll_back(federation, 0)

    _, abandoned, opened = federation.attempts()
    assert abandoned.phase is Phase.ABANDONED
    assert abandoned.reason == "an operator let the task go on from version 0"
    assert (opened.phase, opened.number, opened.attempt) == (Phase.COLLECTING, 2, 2)
    assert opened.base_version == 0
    assert federation.task().status is Status.RUNNING  # one attempt was all it had
    with pytest.raises(RoundClosed):
        federation.submit(early, update_body([1.0] * 10))
    assert federation.happenings()[-3:] == [
        "round_abandoned",
        "task_rolled_back",
        "round_opened",
    ]


def test_a_round_that_is_being_folded_is_not_released(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    commit(federation)
    federation.take_part()
    claim = federation.must_claim()

    roll_back(federation, 0)

    with pytest.raises(StaleWrite):
        federation.release(claim)
    assert federation.task().version == 0


def test_an_evaluation_of_a_later_version_ends(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=plan(goal=1, evaluation=evaluation))
    commit(federation)

    roll_back(federation, 0)

    phases = {r.kind: r.phase for r in federation.attempts()[:2]}
    assert phases == {Kind.TRAIN: Phase.COMMITTED, Kind.EVALUATE: Phase.ABANDONED}


def test_an_evaluation_of_what_is_gone_back_to_goes_on(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=plan(goal=1, evaluation=evaluation))
    commit(federation)
    commit(federation)

    roll_back(federation, 1)

    (evaluating,) = [r for r in federation.attempts() if r.kind is Kind.EVALUATE]
    assert (evaluating.base_version, evaluating.phase) == (1, Phase.COLLECTING)


def test_a_task_may_go_forward_again(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    commit(federation)
    roll_back(federation, 0)

    assert roll_back(federation, 1).version == 1
    assert federation.attempts()[-1].base_version == 1


def test_going_on_from_the_current_version_changes_nothing(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1))
    commit(federation)
    before = federation.state()

    assert roll_back(federation, 1).version == 1

    assert federation.state() == before


def test_a_version_of_another_task_is_refused(federation: Federation) -> None:
    federation.start("first")
    federation.start("second")
    before = federation.state()

    with pytest.raises(VersionUnknown):
        roll_back(federation, 0, "second")

    assert federation.state() == before


def test_a_task_that_has_ended_does_not_go_on(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, rounds=1))
    commit(federation)
    before = federation.state()

    with pytest.raises(TaskEnded):
        roll_back(federation, 0)

    assert federation.state() == before
