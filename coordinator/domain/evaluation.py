"""How good a version is for each of many devices, as it is and fine-tuned.

A mean over all examples hides the devices that a model serves badly, so an evaluation
also says how accuracy is distributed over devices. Decided here: that no figure of one
device is stated for fewer than ``MIN_DEVICES`` of them, and that a device which did not
fine-tune counts after it as before, because that is the model it would run. So both
distributions are over the same devices and examples. Means are stated for any number of
devices: the plan's ``evaluation.minimum`` is their floor. But where fewer than
``MIN_DEVICES`` fine-tuned and others did not, nothing is stated of it: the difference
of the two means would be those few devices' own.

Source: Wang et al. 2019, "Federated Evaluation of On-device Personalization".
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from coordinator.domain.aggregation import Score

MIN_DEVICES: Final = 10  # below, a quantile is as good as one device's own figure
_QUANTILES: Final = (0.10, 0.25, 0.50, 0.75, 0.90)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over a device's test examples."""

    loss_sum: float
    correct: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one device found on its own test examples."""

    examples: int
    sums: Sums
    personalized: Sums | None = None  #: after fine-tuning; none: it did not


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A figure of one device, over devices."""

    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    worst_tenth: float  #: mean of the lowest tenth of the devices, rounded up


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Personalized:
    """How good a version is once devices have fine-tuned it."""

    devices: int  #: that fine-tuned
    score: Score  #: over all devices of the evaluation
    distribution: Distribution | None  #: of accuracy; none: too few fine-tuned
    change: Distribution | None  #: of accuracy after minus accuracy before


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What one source says of a version."""

    score: Score
    devices: int | None = None
    distribution: Distribution | None = None  #: of accuracy; none: too few devices
    personalized: Personalized | None = None


def distribution(values: Sequence[float]) -> Distribution:
    """Return quantiles, linear between values, and the mean of the worst tenth.

    Source: Hyndman and Fan 1996, definition 7.
    """
    ordered = sorted(values)
    p10, p25, p50, p75, p90 = np.quantile(ordered, _QUANTILES).tolist()
    worst = -(-len(ordered) // 10)
    return Distribution(
        p10=p10,
        p25=p25,
        p50=p50,
        p75=p75,
        p90=p90,
        worst_tenth=math.fsum(ordered[:worst]) / worst,
    )


def pooled(evaluations: Sequence[Evaluation]) -> Score | None:
    """Return the means over all examples of all devices; none if no device."""
    if not evaluations:
        return None
    return _pooled(evaluations, [each.sums for each in evaluations])


def summarize(evaluations: Sequence[Evaluation]) -> Metrics | None:
    """Return what is kept and published of an evaluation; none if no device."""
    score = pooled(evaluations)
    if score is None:
        return None
    devices = len(evaluations)
    accuracies = [each.sums.correct / each.examples for each in evaluations]
    return Metrics(
        score=score,
        devices=devices,
        distribution=_of_enough(accuracies, devices),
        personalized=_personalized(evaluations),
    )


def _personalized(evaluations: Sequence[Evaluation]) -> Personalized | None:
    devices = sum(each.personalized is not None for each in evaluations)
    if devices == 0 or devices < min(MIN_DEVICES, len(evaluations)):
        return None  # beside the score before, it would be those few devices' own
    kept = [each.personalized or each.sums for each in evaluations]
    pairs = list(zip(evaluations, kept, strict=True))
    accuracies = [sums.correct / each.examples for each, sums in pairs]
    changes = [
        (sums.correct - each.sums.correct) / each.examples for each, sums in pairs
    ]
    return Personalized(
        devices=devices,
        score=_pooled(evaluations, kept),
        distribution=_of_enough(accuracies, devices),
        change=_of_enough(changes, devices),
    )


def _of_enough(values: Sequence[float], devices: int) -> Distribution | None:
    return distribution(values) if devices >= MIN_DEVICES else None


def _pooled(evaluations: Sequence[Evaluation], sums: Sequence[Sums]) -> Score:
    examples = sum(each.examples for each in evaluations)
    return Score(
        examples=examples,
        # fsum: exactly rounded, so the order of arrival does not show.
        loss=math.fsum(each.loss_sum for each in sums) / examples,
        accuracy=sum(each.correct for each in sums) / examples,
    )
