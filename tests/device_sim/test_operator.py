"""What the operator's part of a swarm asks, measures and makes of the answers."""

import datetime as dt
import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from coordinator.protocol import paths, problems
from coordinator.protocol.operations import RoundState, Score, TaskState
from coordinator.protocol.plan_rounds import AsynchronousPlan, EvaluationPlan, RoundPlan
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.plans import InvalidPlan, Plan
from device_sim import attacks, behaviour, client, fitting, operator, trainer
from device_sim.data import Federation
from device_sim.data.federation import to_float

TOKEN = "operators-own"  # noqa: S105 - of a fake
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PLAN = Plan(rounds=3, round=RoundPlan(goal=4, minimum=2))


def round_of(number: int, *, result: int | None, kind: str = "train") -> RoundState:
    return RoundState.model_validate(
        {
            "id": number,
            "task": "t",
            "kind": kind,
            "number": number,
            "attempt": 1,
            "phase": "committed" if result is not None else "collecting",
            "base_version": number - 1,
            "result_version": result,
            **dict.fromkeys(
                ("goal", "minimum", "places", "assigned", "reported", "accepted"), 4
            ),
            **dict.fromkeys(("failed", "lapsed", "bytes_up", "examples"), 0),
            "train_loss": None,
            "train_accuracy": None,
            "opened_at": NOW,
            "deadline": NOW,
            "closed_at": NOW,
            "reason": None,
        }
    )


def state_of(
    version: int, status: str = "running", *open_rounds: RoundState
) -> TaskState:
    return TaskState.model_validate(
        {
            "id": "t",
            "status": status,
            "reason": None,
            "plan": PLAN,
            "version": version,
            "rounds_committed": version,
            "created_at": NOW,
            "open_rounds": open_rounds,
        }
    )


class FakeTask:
    """A coordinator whose task is in the next of ``states`` at every look."""

    def __init__(self, *states: TaskState) -> None:
        self.states = list(states)
        self.posted: list[tuple[str, dict[str, object]]] = []
        self.refusal: problems.ProblemType | None = None

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if request.method == "POST":
            self.posted.append((request.url.path, json.loads(request.content)))
            if self.refusal is not None:
                kind = self.refusal
                return httpx.Response(int(kind.status), json=problems.document(kind))
            return httpx.Response(201, json={})
        if request.url.path == paths.rounds("t"):
            known = [
                round_of(n, result=n) for n in range(1, self.states[0].version + 1)
            ]
            rounds = [record.model_dump(mode="json") for record in known]
            return httpx.Response(200, json={"rounds": rounds})
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return httpx.Response(200, content=state.model_dump_json())

    def operator(self) -> operator.Operator:
        http = httpx.AsyncClient(
            base_url="http://c.test", transport=httpx.MockTransport(self.answer)
        )
        calls = client.Client(http, jitter=np.random.default_rng(0))
        return operator.Operator(calls, token=TOKEN, task="t")


class FixedExaminer(operator.Examiner):
    """Finds version ``n`` right in ``n`` of ten examples."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    async def measure(self, version: int) -> Score:
        self.measured.append(version)
        return Score(examples=10, loss=1.0, accuracy=version / 10)


async def follow(task: FakeTask) -> tuple[TaskState, list[int], list[int]]:
    examiner, rounds = FixedExaminer(), list[int]()
    ended = await operator.follow(
        task.operator(),
        examiner,
        bytes_down=lambda: 0,
        on_state=lambda _: None,
        on_measured=lambda measured: rounds.append(measured.round.number),
    )
    return ended, examiner.measured, rounds


async def test_every_version_is_measured_once_in_order_also_when_looks_miss_some():
    task = FakeTask(state_of(0), state_of(1), state_of(3), state_of(3, "finished"))
    ended, measured, rounds = await follow(task)
    assert ended.status == "finished"
    assert measured == rounds == [1, 2, 3]
    assert [
        (path, body["version"], body["score"]["accuracy"])
        for path, body in task.posted
        if isinstance(body["score"], dict)
    ] == [(paths.metrics("t"), n, n / 10) for n in (1, 2, 3)]


async def test_the_last_evaluation_is_waited_for_but_not_that_of_a_stopped_task():
    evaluation = round_of(3, result=None, kind="evaluate")
    finished = FakeTask(
        state_of(3, "finished", evaluation),
        state_of(3, "finished", evaluation),
        state_of(3, "finished"),
    )
    ended, _, _ = await follow(finished)
    assert not ended.open_rounds
    stopped = FakeTask(state_of(1, "stopped", evaluation))
    ended, measured, _ = await follow(stopped)
    assert (ended.status, measured) == ("stopped", [1])


async def test_a_task_that_exists_under_the_same_plan_is_gone_on_with():
    task = FakeTask(state_of(1))
    assert await task.operator().start(PLAN)
    task.refusal = problems.TASK_EXISTS
    assert not await task.operator().start(PLAN)


async def test_a_task_that_exists_under_another_plan_is_refused():
    task = FakeTask(state_of(1))
    task.refusal = problems.TASK_EXISTS
    other = PLAN.model_copy(update={"rounds": 9})
    with pytest.raises(operator.OtherPlan, match="--task"):
        await task.operator().start(other)


def test_a_plan_is_fitted_to_few_devices_and_says_so():
    plan = Plan(
        round=RoundPlan(goal=50, minimum=25),
        evaluation=EvaluationPlan(goal=50, minimum=20),
    )
    fitted, notes = fitting.fit(plan, behaviour.Behaviour(devices=10))
    assert (fitted.round.goal, fitted.round.minimum) == (10, 10)
    assert fitted.round.over_select == 0
    assert fitted.evaluation is not None
    assert (fitted.evaluation.goal, fitted.evaluation.minimum) == (10, 10)
    assert len(notes) == 2
    assert "50" in notes[0]


def test_with_dropout_a_plan_waits_for_survivors_and_leases_a_place_to_all():
    plan = Plan(round=RoundPlan(goal=50, minimum=25))
    fitted, _ = fitting.fit(plan, behaviour.Behaviour(devices=50, dropout=0.3))
    assert (fitted.round.goal, fitted.round.minimum) == (35, 25)
    places = fitted.round.goal * (1 + fitted.round.over_select)
    assert places == pytest.approx(50)


def test_an_asynchronous_plan_is_fitted_without_over_selection():
    plan = Plan(round=RoundPlan(goal=50, minimum=25), asynchronous=AsynchronousPlan())
    fitted, _ = fitting.fit(plan, behaviour.Behaviour(devices=50, dropout=0.3))
    assert fitted.round.goal == 35
    assert Plan.model_validate(fitted.model_dump()) == fitted


def test_under_secure_aggregation_all_join_and_some_vanish_later():
    plan = Plan(round=RoundPlan(goal=50, minimum=45), secagg=SecAggPlan(clip_norm=1.0))
    fitted, _ = fitting.fit(plan, behaviour.Behaviour(devices=40, dropout=0.3))
    assert (fitted.round.goal, fitted.round.minimum) == (40, 28)


def test_a_plan_for_more_than_there_are_is_refused():
    plan = Plan(secagg=SecAggPlan(clip_norm=1.0))
    with pytest.raises(InvalidPlan, match=r"so few: .*cohort_minimum 5, got 4"):
        fitting.fit(plan, behaviour.Behaviour(devices=4))


def test_a_plan_that_fits_is_left_alone():
    fitted, notes = fitting.fit(PLAN, behaviour.Behaviour(devices=4))
    assert (fitted, notes) == (PLAN, [])


async def test_a_backdoor_is_measured_on_other_classes_with_the_trigger():
    images = np.arange(4, dtype=np.uint8)[:, None, None] + np.zeros(
        (1, 28, 28), np.uint8
    )
    federation = Federation(
        name="four",
        classes=10,
        shards=(),
        held_out_images=images,
        held_out_labels=np.array([0, 7, attacks.TARGET, 3], np.uint8),
    )
    seen: dict[str, np.ndarray] = {}

    class FixedTrainer:
        def score(
            self, x: np.ndarray, y: np.ndarray, *, weights: str
        ) -> trainer.Scored:
            seen.update(x=x, y=y)
            assert weights == "weights of 5"
            return trainer.Scored(examples=len(x), loss_sum=1.0, correct=1)

    class FixedPool:
        async def run(
            self, _: object, work: Callable[[FixedTrainer], object]
        ) -> object:
            return work(FixedTrainer())

    class FixedLibrary:
        async def version(self, name: str, number: int) -> tuple[str, str]:
            return name, f"weights of {number}"

    examiner = operator.Examiner(
        model="cnn", library=FixedLibrary(), trainers=FixedPool(), federation=federation
    )
    score = await examiner.measure_backdoor(5)
    assert (score.examples, score.accuracy) == (2, 0.5)
    assert seen["y"].tolist() == [attacks.TARGET] * 2
    expected = to_float(attacks.triggered(images[[1, 3]]))
    assert np.array_equal(seen["x"], expected)
