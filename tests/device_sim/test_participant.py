"""One device, step by step: killed between steps, refused, cut off, vanishing."""

import dataclasses
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pytest

from coordinator.protocol import encodings, paths, problems
from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.manifest import Vector
from coordinator.protocol.messages import EvaluationReport, SecAggTerms
from coordinator.protocol.plan_training import TrainingPlan, UpdatePlan
from coordinator.protocol.vocabulary import FailureReason, Kind
from device_sim import behaviour, cache, client, secure, trainer
from device_sim.data import Shard
from device_sim.participant import Participant
from device_sim.state import State
from device_sim.steps import Action, Done, Progressed, Step, Vanished, Waiting
from tests.device_sim.fake_coordinator import FakeCoordinator


@pytest.fixture(scope="module")
def trainers() -> trainer.TrainerPool:
    return trainer.TrainerPool(1)


@pytest.fixture(scope="module")
def shard() -> Shard:
    rng = np.random.default_rng(3)
    return Shard(
        name="tester",
        train_images=rng.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        train_labels=rng.integers(0, 10, 6, dtype=np.uint8),
        test_images=rng.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        test_labels=rng.integers(0, 10, 3, dtype=np.uint8),
    )


class Bench:
    """Makes participants that talk to one fake coordinator."""

    def __init__(
        self,
        fake: FakeCoordinator,
        trainers: trainer.TrainerPool,
        shard: Shard,
        http: httpx.AsyncClient,
    ) -> None:
        self.fake = fake
        self.trainers = trainers
        self.shard = shard
        self.now_s = 0.0
        self.calls = client.Client(
            http,
            jitter=np.random.default_rng(0),
            sleep=self._sleep,
            monotonic=lambda: self.now_s,
        )

    async def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def participant(
        self,
        state: State | None = None,
        dropout: float = 0.0,
        habits: behaviour.Behaviour | None = None,
        tamper: trainer.Tamper | None = None,
    ) -> Participant:
        return Participant(
            index=0,
            shard=self.shard,
            calls=self.calls,
            library=cache.Library(cache.DownloadCache(self.calls)),
            trainers=self.trainers,
            habits=habits or behaviour.Behaviour(devices=2, dropout=dropout),
            state=state,
            tamper=tamper,
        )


@pytest.fixture
async def bench(trainers: trainer.TrainerPool, shard: Shard) -> AsyncIterator[Bench]:
    fake = FakeCoordinator(rounds=2)
    async with fake.client() as http:
        yield Bench(fake, trainers, shard, http)


async def steps_of(participant: Participant) -> list[Step]:
    steps: list[Step] = []
    while not steps or not isinstance(steps[-1], Done):
        assert len(steps) < 40
        steps.append(await participant.step())
    return steps


def actions(steps: list[Step]) -> list[Action]:
    return [step.action for step in steps if isinstance(step, Progressed)]


ROUND = [Action.CHECKED_IN, Action.DOWNLOADED, Action.TRAINED, Action.REPORTED]


async def test_a_device_works_step_by_step_until_tasks_end(bench: Bench):
    participant = bench.participant()
    assert actions(await steps_of(participant)) == [Action.ENROLLED, *ROUND, *ROUND]
    assert [number for _, number, _ in bench.fake.updates] == [1, 2]
    assert participant.state.contributions == 2
    assert bench.fake.updates[0][2] != bench.fake.updates[1][2]


async def test_a_device_killed_between_any_two_steps_sends_the_same_bodies(
    bench: Bench, trainers: trainer.TrainerPool, shard: Shard
):
    await steps_of(bench.participant())
    expected = [(number, body) for _, number, body in bench.fake.updates]
    fake = FakeCoordinator(rounds=2)
    async with fake.client() as http:
        other = Bench(fake, trainers, shard, http)
        kept = State.new().to_json()
        step: Step | None = None
        while not isinstance(step, Done):  # a new process for every step
            participant = other.participant(State.from_json(kept))
            step = await participant.step()
            if step != Progressed(action=Action.DOWNLOADED, assignment=_held(step)):
                kept = participant.state.to_json()
                continue
            # Downloads are not part of the state: train in the same process, but
            # killed once more before the result was kept.
            await participant.step()
            repeated = other.participant(State.from_json(kept))
            await repeated.step()
            await repeated.step()
            kept = repeated.state.to_json()
    assert [(number, body) for _, number, body in fake.updates] == expected
    assert len(fake.names) == 1, "enrolled once"
    assert len(fake.by_key) == 2, "one assignment a round"


def _held(step: Step) -> object:
    return step.assignment if isinstance(step, Progressed) else None


async def test_a_lost_check_in_answer_is_asked_for_with_the_same_key(bench: Bench):
    participant = bench.participant()
    await participant.step()
    before = participant.state
    await participant.step()
    assigned = participant.state.assignment
    again = bench.participant(before)  # the answer never reached the disk
    await again.step()
    assert again.state.assignment == assigned
    assert again.state.check_in_key == before.check_in_key
    assert bench.fake.taken == {"tester-0": 1}


async def test_a_state_hides_its_token_and_survives_json(bench: Bench):
    participant = bench.participant()
    for _ in range(4):
        await participant.step()
    state = participant.state
    assert state.body is not None
    assert State.from_json(state.to_json()) == state
    for secret in (state.token, state.key):
        assert secret is not None
        assert secret not in repr(state)


async def test_a_part_in_a_cohort_survives_json_and_hides_its_keys(bench: Bench):
    participant = bench.participant()
    for _ in range(4):
        await participant.step()
    assignment = participant.state.assignment
    assert assignment is not None
    terms = SecAggTerms(session="0a" * 16, path="/v1/assignments/x/secagg")
    secured = assignment.model_copy(update={"secagg": terms})
    part = secure.begin(secured, "ab" * 16, None)
    state = dataclasses.replace(participant.state, assignment=secured, part=part)
    assert State.from_json(state.to_json()) == state
    key = part.state.masking_private
    assert key is not None
    assert str(key)[2:-1] not in repr(state)
    assert str(part.rounding_key)[2:-1] not in repr(state)


async def test_an_evaluation_is_scored_on_the_own_test_examples(
    trainers: trainer.TrainerPool, shard: Shard
):
    fake = FakeCoordinator(kind=Kind.EVALUATE)
    async with fake.client() as http:
        steps = await steps_of(Bench(fake, trainers, shard, http).participant())
    assert actions(steps)[-1] is Action.SCORED
    (report,) = fake.evaluations
    assert report.examples == 3
    assert 0 <= report.correct <= 3
    assert report.loss_sum > 0
    assert report.model_fields_set == {"examples", "loss_sum", "correct"}


async def evaluations(
    trainers: trainer.TrainerPool, shard: Shard, plan: TrainingPlan | None
) -> list[EvaluationReport]:
    """What a device reports of two evaluations of the same version."""
    fake = FakeCoordinator(kind=Kind.EVALUATE, rounds=2, personalization=plan)
    async with fake.client() as http:
        steps = await steps_of(Bench(fake, trainers, shard, http).participant())
    assert actions(steps).count(Action.SCORED) == 2
    assert not fake.failures
    return fake.evaluations


async def test_a_device_scores_a_copy_that_it_fine_tuned_too(
    trainers: trainer.TrainerPool, shard: Shard
):
    plan = TrainingPlan(batch_size=2, epochs=3, learning_rate=0.05)
    plain = await evaluations(trainers, shard, None)

    first, second = await evaluations(trainers, shard, plan)

    for report in (first, second):
        # The second is as good as the first: nothing of the fine-tuned copy is left.
        assert report.model_copy(update={"personalized": None}) == plain[0]
        assert report.personalized is not None
        assert report.personalized.loss_sum != report.loss_sum
    assert first.personalized != second.personalized, "rounds draw other orders"
    assert await evaluations(trainers, shard, plan) == [first, second]


def fails(error: Exception) -> Callable[..., Vector]:
    def fine_tune(*_: object, **__: object) -> Vector:
        raise error

    return fine_tune


def overflows(*_: object, weights: Vector, **__: object) -> Vector:
    """Finite weights whose loss is not."""
    return np.full_like(weights, 1e30)


@pytest.mark.parametrize(
    ("fine_tune", "said"),
    [
        (fails(trainer.TrainingDiverged("not finite")), "not finite"),
        (fails(trainer.NoExamples("nothing to train on")), "nothing to train on"),
        (fails(trainer.GraphFailed("no such signature")), "no such signature"),
        (overflows, "fine-tuned copy has loss"),
    ],
)
async def test_a_device_that_cannot_fine_tune_reports_the_plain_sums(  # noqa: PLR0917
    trainers: trainer.TrainerPool,
    shard: Shard,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fine_tune: Callable[..., Vector],
    said: str,
):
    plain = await evaluations(trainers, shard, None)
    monkeypatch.setattr(trainer.Trainer, "fine_tune", fine_tune)

    assert await evaluations(trainers, shard, TrainingPlan()) == plain
    assert said in caplog.text


@pytest.mark.parametrize(
    "kind", [problems.LEASE_LAPSED, problems.ROUND_CLOSED, problems.ALREADY_REPORTED]
)
async def test_an_assignment_that_is_over_is_left_without_a_failure_report(
    bench: Bench, kind: problems.ProblemType
):
    bench.fake.refuse_reports_with = kind
    steps = await steps_of(bench.participant())
    assert actions(steps).count(Action.GAVE_UP) == 2
    assert not bench.fake.failures


async def test_another_refusal_is_reported_as_a_failure(bench: Bench):
    bench.fake.refuse_reports_with = problems.WRONG_SHAPE
    await steps_of(bench.participant())
    assert {failure.reason for failure in bench.fake.failures} == {
        FailureReason.REFUSED
    }


async def test_a_corrupt_download_is_reported_as_one(bench: Bench):
    bench.fake.corrupt = True
    steps = await steps_of(bench.participant())
    assert Action.TRAINED not in actions(steps)
    assert {failure.reason for failure in bench.fake.failures} == {
        FailureReason.BAD_DOWNLOAD
    }
    assert not bench.fake.updates


async def test_a_device_that_diverges_says_so_and_sends_nothing(bench: Bench):
    manifest = bench.fake.manifest
    huge = np.full(manifest.size, 1e30, np.float32)
    bench.fake.files[paths.weights("cnn", 0)] = encodings.encode_weights(manifest, huge)
    await steps_of(bench.participant())
    assert {failure.reason for failure in bench.fake.failures} == {
        FailureReason.NOT_FINITE
    }
    assert not bench.fake.updates


async def test_a_device_that_vanishes_takes_its_place_and_is_silent(bench: Bench):
    participant = bench.participant(dropout=0.5)
    steps = await steps_of(participant)
    vanished = [step for step in steps if isinstance(step, Vanished)]
    habits = behaviour.Behaviour(devices=2, dropout=0.5)
    expected = [
        number
        for number in (1, 2)
        if habits.vanishes(round_number=number, attempt=1, device=0)
    ]
    assert [step.assignment.round for step in vanished] == expected
    assert [number for _, number, _ in bench.fake.updates] == [
        number for number in (1, 2) if number not in expected
    ]
    assert bench.fake.taken == {"tester-0": 3}
    assert not bench.fake.failures


async def test_a_report_is_not_tried_beyond_the_lease(
    bench: Bench, trainers: trainer.TrainerPool, shard: Shard
):
    def lose_reports(request: httpx.Request) -> httpx.Response:
        if "/update" in request.url.path:
            raise httpx.ConnectError("no route")
        return bench.fake._answer(request)

    transport = httpx.MockTransport(lose_reports)
    async with httpx.AsyncClient(transport=transport, base_url="http://c.test") as http:
        cut_off = Bench(bench.fake, trainers, shard, http)
        participant = cut_off.participant()
        for _ in range(5):
            step = await participant.step()
    assert isinstance(step, Progressed)
    assert step.action is Action.GAVE_UP
    assert "no route" in (step.why or "")
    assert 50 < cut_off.now_s <= 60, "the lease is 60 s"
    assert dataclasses.replace(participant.state, check_in_key="") == State(
        check_in_key="",
        device_id=participant.state.device_id,
        token=participant.state.token,
        key=participant.state.key,
    )


async def sent_over_two_rounds(
    bench: Bench, update: UpdatePlan, *, restart: bool = False
) -> list[Vector]:
    """What the coordinator reads of a device's two updates."""
    bench.fake.update = update
    participant = bench.participant()
    for _ in range(20):
        step = await participant.step()
        if isinstance(step, Done):
            break
        # Killed after every step, but after a download, which would be done again.
        if restart and getattr(step, "action", None) is not Action.DOWNLOADED:
            kept = participant.state.to_json()
            participant = bench.participant(State.from_json(kept))
    manifest = bench.fake.manifest
    bodies = [body for _, _, body in bench.fake.updates]
    return [encodings.read_delta(manifest, body) for body in bodies]


@pytest.mark.parametrize("encoding", ["f16", "q8", "topk"])
async def test_what_an_encoding_leaves_out_is_made_up_by_the_next_update(
    bench: Bench, encoding: EncodingName
):
    exact = await sent_over_two_rounds(bench, UpdatePlan())
    plan = UpdatePlan(encoding=encoding, topk_share=0.05)
    bench.fake.updates.clear()
    bench.fake.taken.clear()
    first, second = await sent_over_two_rounds(bench, plan)

    left_out = exact[0] - first
    assert np.abs(left_out).max() > 0
    # The second update encodes its own delta and what the first left out.
    total = exact[1] + left_out
    if encoding == "topk":
        kept = second != 0
        assert kept.sum() == int(0.05 * second.size)
        np.testing.assert_allclose(second[kept], total[kept], atol=1e-7)
        assert np.abs(total[~kept]).max() <= np.abs(total[kept]).min() + 1e-7
    else:
        step = np.abs(total).max() / (100 if encoding == "q8" else 1000)
        assert np.abs(second - total).max() < step


async def test_without_feedback_nothing_is_made_up(bench: Bench):
    exact = await sent_over_two_rounds(bench, UpdatePlan())
    plan = UpdatePlan(encoding="topk", topk_share=0.05, error_feedback=False)
    bench.fake.updates.clear()
    bench.fake.taken.clear()
    _, second = await sent_over_two_rounds(bench, plan)
    kept = second != 0
    np.testing.assert_array_equal(second[kept], exact[1][kept])


async def test_a_killed_device_keeps_what_was_left_out(bench: Bench):
    plan = UpdatePlan(encoding="topk", topk_share=0.05)
    undisturbed = await sent_over_two_rounds(bench, plan)
    bench.fake.updates.clear()
    bench.fake.taken.clear()
    killed = await sent_over_two_rounds(bench, plan, restart=True)
    np.testing.assert_array_equal(undisturbed, killed)


async def test_a_refused_update_leaves_nothing_to_make_up(bench: Bench):
    bench.fake.update = UpdatePlan(encoding="topk", topk_share=0.05)
    bench.fake.refuse_reports_with = problems.ROUND_CLOSED
    participant = bench.participant()
    await steps_of(participant)
    assert participant.state.residual is None
    assert participant.state.next_residual is None


async def test_a_place_in_a_round_of_another_cohort_is_given_back(bench: Bench):
    habits = next(
        habits
        for seed in range(20)
        for habits in [behaviour.Behaviour(devices=1, population=2, seed=seed)]
        if (habits.cohort(1), habits.cohort(2)) == ((1,), (0,))
    )
    steps = await steps_of(bench.participant(habits=habits))
    assert [type(step) for step in steps].count(Waiting) == 1
    assert [failure.reason for failure in bench.fake.failures] == [
        FailureReason.INTERRUPTED
    ]
    assert [number for _, number, _ in bench.fake.updates] == [2]


async def test_an_attacker_sends_what_it_makes_of_its_delta_and_nothing_else(
    bench: Bench,
):
    await steps_of(bench.participant())
    bench.fake.taken.clear()
    await steps_of(bench.participant(tamper=lambda delta, _: -2 * delta))

    def read(body: bytes) -> encodings.Update:
        return encodings.decode_update(bench.fake.manifest, body, max_examples=100)

    honest, _, false, _ = (read(body) for _, _, body in bench.fake.updates)
    np.testing.assert_allclose(false.delta, -2 * honest.delta)
    assert dataclasses.replace(false, delta=honest.delta) == honest
