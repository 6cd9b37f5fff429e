"""Numbers that each pass on their own must not harm the figures they are part of."""

import math

import numpy as np

from coordinator.domain.rounds import Phase
from coordinator.protocol.encodings import MAX_EXAMPLES, MAX_LOSS
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.usecases import tasks
from tests.support.federation import Federation, plan
from tests.support.models import update_body

HUGE = MAX_LOSS


def test_huge_training_losses_do_not_break_the_release(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=2))
    for _ in range(2):
        body = update_body([0.0] * 10, examples=10, train_loss=HUGE)
        federation.submit(federation.lease(), body)

    assert federation.release(federation.must_claim()) == 1

    train = tasks.list_metrics(federation.store, task_id="task")[1].train
    assert train is not None
    assert math.isfinite(train.loss)


def test_huge_evaluation_sums_do_not_break_the_figures(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=2)
    federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    for _ in range(2):
        federation.evaluate(federation.lease(), loss_sum=HUGE * MAX_EXAMPLES)

    views = tasks.list_rounds(
        federation.store, task_id="task", now=federation.clock.now()
    )
    assert views[-1].score is not None
    federation.release(federation.must_claim())
    assert federation.phases() == [Phase.COMMITTED] * 2


def test_the_largest_deltas_are_averaged_without_overflow(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=2))
    start = federation.weights(0)
    federation.take_part([3e38] * 10, examples=10_000)
    federation.take_part([-3e38] * 10, examples=10_000)

    federation.release(federation.must_claim())

    np.testing.assert_array_equal(federation.weights(1), start)
