"""Accuracy over devices: quantiles, the worst tenth, before and after fine-tuning."""

import dataclasses

import numpy as np
import pytest

from coordinator.domain.aggregation import Score
from coordinator.domain.evaluation import (
    MIN_DEVICES,
    Distribution,
    Evaluation,
    Metrics,
    Sums,
    distribution,
    pooled,
    summarize,
)

#: 11 devices with 0, 1, ... 10 of 10 right: each quantile is a device's own accuracy,
#: or halfway between two.
LADDER = [
    Evaluation(examples=10, sums=Sums(loss_sum=1.0, correct=n)) for n in range(11)
]


def tuned(evaluation: Evaluation, correct: int, loss_sum: float = 0.5) -> Evaluation:
    sums = Sums(loss_sum=loss_sum, correct=correct)
    return dataclasses.replace(evaluation, personalized=sums)


def metrics_of(evaluations: list[Evaluation]) -> Metrics:
    metrics = summarize(evaluations)
    assert metrics is not None
    return metrics


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ([1.0, 0.0], [0.1, 0.25, 0.5, 0.75, 0.9, 0.0]),
        # 0.0 ... 1.0 by tenths; the worst tenth of 11 is 2 devices: 0.0 and 0.1.
        ([n / 10 for n in range(11)], [0.1, 0.25, 0.5, 0.75, 0.9, 0.05]),
        # The worst tenth of 10 is 1 device, of 20 it is 2, of 21 it is 3.
        ([0.2] + [0.9] * 9, [0.83, 0.9, 0.9, 0.9, 0.9, 0.2]),
        ([0.2, 0.4] + [0.9] * 18, [0.85, 0.9, 0.9, 0.9, 0.9, 0.3]),
        ([0.2, 0.4, 0.6] + [0.9] * 18, [0.6, 0.9, 0.9, 0.9, 0.9, 0.4]),
        ([-0.5, 0.5], [-0.4, -0.25, 0.0, 0.25, 0.4, -0.5]),
    ],
)
def test_quantiles_and_the_worst_tenth(
    values: list[float], expected: list[float]
) -> None:
    found = distribution(values)

    assert list(dataclasses.asdict(found).values()) == pytest.approx(expected)
    assert list(dataclasses.asdict(found))[-1] == "worst_tenth"


def test_quantiles_are_numpys_and_forget_the_order() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(137).tolist()
    shuffled = rng.permutation(values).tolist()

    found = distribution(values)

    assert distribution(shuffled) == found
    assert [found.p10, found.p25, found.p50, found.p75, found.p90] == [
        float(np.quantile(values, share)) for share in (0.1, 0.25, 0.5, 0.75, 0.9)
    ]
    assert found.worst_tenth == pytest.approx(np.mean(sorted(values)[:14]))


def test_means_are_over_examples_and_distributions_over_devices() -> None:
    large = Evaluation(examples=890, sums=Sums(loss_sum=9.0, correct=890))

    metrics = metrics_of([*LADDER, large])

    assert metrics.score == Score(examples=1000, loss=20.0 / 1000, accuracy=945 / 1000)
    assert metrics.devices == 12
    assert metrics.distribution is not None
    assert metrics.distribution.p50 == pytest.approx(0.55)
    assert metrics.distribution.worst_tenth == pytest.approx(0.05)
    assert metrics.personalized is None


def test_nothing_comes_of_no_device() -> None:
    assert pooled([]) is None
    assert summarize([]) is None


def test_figures_of_one_device_need_ten_of_them() -> None:
    assert MIN_DEVICES == 10
    all_tuned = [tuned(each, 10) for each in LADDER]

    enough, too_few = metrics_of(all_tuned[:10]), metrics_of(all_tuned[:9])

    assert enough.distribution is not None
    assert enough.personalized is not None
    assert enough.personalized.distribution is not None
    assert enough.personalized.change is not None
    assert too_few.score == Score(examples=90, loss=0.1, accuracy=0.4)
    assert too_few.distribution is None
    assert too_few.personalized is not None
    assert too_few.personalized.score == Score(examples=90, loss=0.05, accuracy=1.0)
    assert too_few.personalized.distribution is None
    assert too_few.personalized.change is None


def test_fine_tuning_is_compared_device_by_device() -> None:
    # All gain one right answer, but the best, which loses four.
    evaluations = [tuned(each, each.sums.correct + 1) for each in LADDER[:10]]
    evaluations.append(tuned(LADDER[10], 6))

    found = metrics_of(evaluations).personalized

    assert found is not None
    assert found.devices == 11
    assert found.score.accuracy == pytest.approx((55 + 10 - 4) / 110)
    assert found.score.loss == pytest.approx(0.05)
    assert found.distribution == distribution([*(n / 10 for n in range(1, 11)), 0.6])
    assert found.change is not None
    assert found.change.p50 == pytest.approx(0.1)
    assert found.change.worst_tenth == pytest.approx((-0.4 + 0.1) / 2)


def test_a_device_that_did_not_fine_tune_counts_as_it_is() -> None:
    evaluations = [*LADDER, *(tuned(each, 10) for each in LADDER[:10])]

    found = metrics_of(evaluations).personalized

    assert found is not None
    assert found.devices == 10
    assert found.score == Score(
        examples=210, loss=(11 * 1.0 + 10 * 0.5) / 210, accuracy=(55 + 100) / 210
    )
    assert found.distribution == distribution(
        [*(n / 10 for n in range(11)), *[1.0] * 10]
    )


def test_few_that_fine_tuned_do_not_show_among_many_that_did_not() -> None:
    evaluations = [*LADDER, *(tuned(each, 10) for each in LADDER[:9])]

    metrics = metrics_of(evaluations)

    assert isinstance(metrics.distribution, Distribution)
    assert metrics.personalized is None, "the difference of the means is theirs alone"
