import dataclasses

import pytest

from coordinator.domain.rounds import NewRound, Policy
from coordinator.domain.tasks import (
    Status,
    Task,
    evaluation_round,
    next_training_round,
)
from coordinator.protocol.plan_rounds import EvaluationPlan, RoundPlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind
from tests.support.rounds import OPENED

PLAN = Plan(
    model="tiny",
    rounds=3,
    round=RoundPlan(
        goal=4, minimum=2, over_select=0.5, lease_s=60, deadline_s=120, max_attempts=9
    ),
    evaluation=EvaluationPlan(every=2, goal=7, minimum=5, lease_s=11, deadline_s=13),
)


def task_after(committed: int, plan: Plan = PLAN) -> Task:
    return Task(
        id="digits",
        plan=plan,
        status=Status.RUNNING,
        reason=None,
        version=10 + committed,
        rounds_committed=committed,
        created_at=OPENED,
        revision=4,
    )


@pytest.mark.parametrize(
    ("committed", "status"),
    [(0, Status.RUNNING), (1, Status.RUNNING), (2, Status.FINISHED)],
)
def test_a_task_is_finished_by_the_last_round_of_its_plan(
    committed: int, status: Status
) -> None:
    before = task_after(committed)
    after = before.after_commit(17)
    assert after == dataclasses.replace(
        before,
        version=17,
        rounds_committed=committed + 1,
        status=status,
        revision=5,
    )
    assert before == task_after(committed)


def test_a_task_stops_with_a_reason_and_keeps_what_it_has() -> None:
    before = task_after(1)
    assert before.stopped("too few devices") == dataclasses.replace(
        before, status=Status.STOPPED, reason="too few devices", revision=5
    )


def test_the_next_round_starts_from_the_newest_version() -> None:
    assert next_training_round(task_after(2), now=OPENED, attempt=3) == NewRound(
        task="digits",
        kind=Kind.TRAIN,
        number=3,
        attempt=3,
        model="tiny",
        base_version=12,
        policy=Policy(
            goal=4, minimum=2, over_select=0.5, lease_s=60.0, deadline_s=120.0
        ),
        opened_at=OPENED,
    )


def test_a_round_is_tried_for_the_first_time_unless_said() -> None:
    assert next_training_round(task_after(0), now=OPENED).attempt == 1
    assert next_training_round(task_after(0), now=OPENED).number == 1


@pytest.mark.parametrize(
    ("every", "evaluated"),
    [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), (6, [6]), (7, [])],
)
def test_every_so_many_th_version_is_evaluated(
    every: int, evaluated: list[int]
) -> None:
    plan = Plan(rounds=9, evaluation=EvaluationPlan(every=every))
    task, asked = task_after(0, plan), []
    for version in range(1, 7):
        task = task.after_commit(version)
        new = evaluation_round(task, now=OPENED)
        if new is not None:
            assert new.base_version == version
            asked.append(new.number)
    assert asked == evaluated


def test_an_evaluation_is_a_round_of_its_own_kind_and_policy() -> None:
    assert evaluation_round(task_after(2), now=OPENED) == NewRound(
        task="digits",
        kind=Kind.EVALUATE,
        number=2,
        attempt=1,
        model="tiny",
        base_version=12,
        policy=Policy(
            goal=7, minimum=5, over_select=0.0, lease_s=11.0, deadline_s=13.0
        ),
        opened_at=OPENED,
    )


def test_a_plan_without_evaluation_asks_for_none() -> None:
    assert evaluation_round(task_after(2, Plan(rounds=3)), now=OPENED) is None
