"""What a release publishes: numbers worked out by hand, and nothing twice."""

import numpy as np
import pytest

from coordinator.domain.aggregation import Score
from coordinator.domain.evaluation import distribution
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.protocol import encodings
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_server import ServerPlan
from coordinator.protocol.plan_training import UpdatePlan
from coordinator.protocol.vocabulary import Kind
from coordinator.store.engine import StaleWrite
from coordinator.usecases import models, registry, tasks
from tests.support.federation import Federation, plan
from tests.support.models import update_body


def test_the_mean_is_weighted_by_examples(federation: Federation) -> None:
    federation.start(settings=plan(goal=3))
    before = federation.weights(0)
    federation.take_part([1.0] * 10, examples=1)
    federation.take_part([-2.0] * 10, examples=2)
    federation.take_part([3.0] + [0.0] * 9, examples=5)

    number = federation.release(federation.must_claim())

    assert number == 1
    # (1 * 1 - 2 * 2 + 5 * 3) / 8 = 1.5 and (1 * 1 - 2 * 2) / 8 = -0.375
    expected = before + np.array([1.5] + [-0.375] * 9, np.float32)
    np.testing.assert_array_equal(federation.weights(1), expected)


def test_updates_of_different_encodings_are_one_mean(federation: Federation) -> None:
    update = UpdatePlan(encoding="topk", topk_share=0.2)
    federation.start(settings=plan(goal=2, update=update))
    before = federation.weights(0)
    federation.submit(federation.lease(), update_body([1.0] * 10, examples=1))
    sparse = update_body([0.0, 4, 0, 0, 0, 0, 0, 0, -8, 0], examples=3, update=update)
    assert len(sparse) != len(update_body([0.0] * 10))
    federation.submit(federation.lease(), sparse)

    federation.release(federation.must_claim())

    # (1 * 1 + 3 * 4) / 4 = 3.25 and (1 * 1 - 3 * 8) / 4 = -5.75
    expected = before + np.array([0.25, 3.25, *[0.25] * 6, -5.75, 0.25], np.float32)
    np.testing.assert_array_equal(federation.weights(1), expected)


def test_an_encoding_that_the_task_does_not_take_is_refused(
    federation: Federation,
) -> None:
    federation.start(settings=plan(update=UpdatePlan(encoding="q8")))
    work = federation.lease()
    before = federation.state()
    half = update_body([1.0] * 10, update=UpdatePlan(encoding="f16"))

    with pytest.raises(encodings.UnknownEncoding, match="one of f32, q8, got 'f16'"):
        federation.submit(work, half)

    assert federation.state() == before


def test_who_came_first_does_not_change_a_bit(federation: Federation) -> None:
    rng = np.random.default_rng(5)
    deltas = [rng.standard_normal(10, dtype=np.float32) for _ in range(4)]
    for task, order in (("forth", (0, 1, 2, 3)), ("back", (3, 2, 1, 0))):
        federation.start(task, plan(goal=4, rounds=1))
        for index in order:
            federation.take_part(deltas[index], examples=index + 1)
        federation.release(federation.must_claim())

    versions = [federation.task(task).version for task in ("forth", "back")]

    assert versions == [1, 3]
    np.testing.assert_array_equal(federation.weights(1), federation.weights(3))
    # Each fold took the same weights in the same order, which is not that of arrival.
    assert federation.compute.folded[0] == federation.compute.folded[1]


def test_a_release_commits_and_opens_the_next_round(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, over_select=1))
    straggler = federation.lease()
    federation.take_part(examples=4)
    federation.clock.advance(7)

    federation.release(federation.must_claim())

    first, second = federation.attempts()
    assert (first.phase, first.result_version) == (Phase.COMMITTED, 1)
    assert first.closed_at == federation.clock.now()
    assert (second.phase, second.number, second.base_version) == (
        Phase.COLLECTING,
        2,
        1,
    )
    assert federation.counts(straggler.round.id) == (0, 1, 0, 1)
    task = federation.task()
    assert (task.version, task.rounds_committed) == (1, 1)
    assert federation.happenings()[-3:] == [
        "round_committed",
        "version_published",
        "round_opened",
    ]
    _, version = models.find_version(federation.store, "tiny", 1)
    assert version.round_id == first.id
    assert version.published_at == federation.clock.now()


def test_the_next_round_starts_from_the_new_version(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    start = federation.weights(0)
    for _ in range(2):
        federation.take_part([0.5] * 10)
        federation.release(federation.must_claim())

    np.testing.assert_array_equal(federation.weights(2), start + np.float32(1.0))


def test_the_servers_optimizer_goes_on_where_it_was(federation: Federation) -> None:
    server = ServerPlan(learning_rate=0.5, momentum=0.5)
    federation.start(settings=plan(goal=1, server=server))
    start = federation.weights(0)
    for _ in range(2):
        federation.take_part([2.0] * 10)
        federation.release(federation.must_claim())

    # velocities 0.5 * 2 = 1 and 0.5 * 1 + 0.5 * 2 = 1.5
    np.testing.assert_array_equal(federation.weights(1), start + np.float32(1.0))
    np.testing.assert_array_equal(
        federation.weights(2), start + np.float32(1.0) + np.float32(1.5)
    )
    _, version = models.find_version(federation.store, "tiny", 2)
    assert version.optimizer_sha256 is not None
    state = np.frombuffer(federation.blobs.get(version.optimizer_sha256))
    np.testing.assert_array_equal(state, np.full(10, 1.5))


def test_the_step_size_follows_the_rounds_and_not_the_attempts(
    federation: Federation,
) -> None:
    server = ServerPlan(schedule="step", decay_rounds=1, decay_rate=0.5)
    federation.start(settings=plan(goal=1, server=server))
    start = federation.weights(0)
    federation.clock.advance(120)
    federation.advance()  # the first attempt is abandoned
    for _ in range(2):
        federation.take_part([2.0] * 10)
        federation.release(federation.must_claim())

    assert [(r.number, r.attempt) for r in federation.attempts()][:3] == [
        (1, 1),
        (1, 2),
        (2, 1),
    ]
    np.testing.assert_array_equal(federation.weights(1), start + np.float32(2.0))
    np.testing.assert_array_equal(
        federation.weights(2), start + np.float32(2.0) + np.float32(1.0)
    )


def test_the_training_score_is_weighted_by_examples(federation: Federation) -> None:
    federation.start(settings=plan(goal=2))
    for examples, loss, accuracy in ((1, 4.0, 0.0), (3, 2.0, 1.0)):
        body = update_body(
            [0.0] * 10, examples=examples, train_loss=loss, train_accuracy=accuracy
        )
        federation.submit(federation.lease(), body)

    federation.release(federation.must_claim())

    views = tasks.list_metrics(federation.store, task_id="task")
    assert [view.version.number for view in views] == [0, 1]
    assert views[0].train is None
    assert views[1].round_number == 1
    assert views[1].train is not None
    assert views[1].train.examples == 4
    assert views[1].train.loss == pytest.approx(2.5, abs=1e-12)
    assert views[1].train.accuracy == pytest.approx(0.75, abs=1e-12)


def test_the_last_round_finishes_the_task(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, rounds=2))
    for _ in range(2):
        federation.take_part()
        federation.release(federation.must_claim())

    assert federation.task().status is Status.FINISHED
    assert federation.phases() == [Phase.COMMITTED] * 2
    assert federation.happenings()[-1] == "task_finished"


def test_a_result_that_is_not_finite_is_not_released(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, server=ServerPlan(learning_rate=100)))
    federation.take_part([3e38] * 10)
    claim = federation.must_claim()
    before = federation.state()

    with pytest.raises(ArithmeticError):
        federation.release(claim)

    assert federation.state() == before


def test_a_cancelled_round_is_not_released(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    claim = federation.must_claim()
    tasks.stop(federation.store, task_id="task", now=federation.clock.now())
    before = federation.rows()

    with pytest.raises(StaleWrite):
        federation.release(claim)

    assert federation.rows() == before
    assert federation.task().version == 0


def test_an_evaluation_is_summed_over_devices(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=2)
    federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    for examples, loss_sum, correct in ((10, 5.0, 5), (30, 25.0, 27)):
        work = federation.lease()
        assert work.round.kind is Kind.EVALUATE
        assert work.version.number == 1
        federation.evaluate(work, examples=examples, loss_sum=loss_sum, correct=correct)

    assert federation.release(federation.must_claim()) is None

    assert federation.phases() == [Phase.COMMITTED] * 2
    view = tasks.list_metrics(federation.store, task_id="task")[1]
    assert view.federated is not None
    assert view.federated.score.examples == 40
    assert view.federated.score.loss == pytest.approx(0.75, abs=1e-12)
    assert view.federated.score.accuracy == pytest.approx(0.8, abs=1e-12)
    assert view.federated.devices == 2
    assert (view.federated.distribution, view.federated.personalized) == (None, None)
    assert federation.happenings()[-2:] == ["round_committed", "version_scored"]


@pytest.mark.parametrize("devices", [9, 10])
def test_an_evaluation_says_how_accuracy_is_distributed(
    federation: Federation, devices: int
) -> None:
    evaluation = EvaluationPlan(every=1, goal=devices, personalize_epochs=2)
    federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    for right in range(devices):
        federation.evaluate(
            federation.lease(), correct=right, personalized=(2.5, right + 1)
        )

    federation.release(federation.must_claim())

    (_, view) = tasks.list_metrics(federation.store, task_id="task")
    (entry, _) = registry.list_versions(federation.store, model="tiny", limit=5)
    assert view.federated == entry.federated
    assert view.federated is not None
    personalized = view.federated.personalized
    assert personalized is not None
    assert personalized.devices == devices
    assert personalized.score == Score(
        examples=10 * devices, loss=0.25, accuracy=(devices + 1) / 20
    )
    if devices < 10:
        assert view.federated.distribution is None
        assert (personalized.distribution, personalized.change) == (None, None)
        return
    accuracies = [right / 10 for right in range(10)]
    assert view.federated.distribution == distribution(accuracies)
    assert personalized.distribution == distribution(
        [(right + 1) / 10 for right in range(10)]
    )
    assert personalized.change == distribution([0.1] * 10)


def test_every_so_many_rounds_are_evaluated(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=2, goal=1)
    federation.start(settings=plan(goal=1, rounds=4, evaluation=evaluation))
    for _ in range(4):
        federation.take_part()
        federation.release(federation.must_claim())
        federation.clock.advance(60)
        federation.advance()  # the evaluation that nobody took is abandoned

    evaluated = [
        round_.base_version
        for round_ in federation.attempts()
        if round_.kind is Kind.EVALUATE
    ]

    assert evaluated == [2, 4]


def test_an_evaluation_that_goes_on_is_not_opened_twice(
    federation: Federation,
) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=plan(goal=1, rounds=2, evaluation=evaluation))
    for _ in range(2):
        federation.take_part()
        federation.release(federation.must_claim())

    kinds = [round_.kind for round_ in federation.attempts()]

    assert kinds == [Kind.TRAIN, Kind.EVALUATE, Kind.TRAIN]
