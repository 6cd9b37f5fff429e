"""From a cohort's updates to its aggregate, by the rule of the plan.

The weighted mean of updates as they are streams, as ever. Anything else first measures
every update, then zeroes and clips, and applies its rule:

* the median and the trimmed mean sort (``order``);
* Krum, Multi-Krum and the geometric median get weights from the inner products of the
  updates (``gram``, ``domain.robust``) and stream once more, as a mean with those
  weights.

Examples weigh in the mean alone: a device states their number itself, and a rule that
bears devices that lie must not ask them how much they count.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt

from coordinator.compute import cohort, fold, gram, order
from coordinator.compute.backend import ComputeDevice
from coordinator.domain import norms, robust
from coordinator.domain.aggregation import Folded
from coordinator.protocol.plan_server import AggregationPlan


class TooFewUpdates(ArithmeticError):
    """Zeroing left fewer updates than the rule needs."""

    def __init__(self, plan: AggregationPlan, kept: int, count: int) -> None:
        super().__init__(
            f"zeroing left {kept} of {count} updates, too few for rule {plan.rule} "
            f"with byzantine {plan.byzantine}"
        )


def aggregate(
    updates: cohort.Updates,
    *,
    size: int,
    plan: AggregationPlan,
    tracked: norms.Tracked,
    device: ComputeDevice,
    on_progress: cohort.Progress,
) -> Folded:
    """Return the aggregate of a cohort. Run by the worker.

    Args:
        updates: In fold order. Opened more than once, one at a time.
        size: Number of elements of each delta.
        plan: The task's.
        tracked: What the last version was kept with.
        device: Where to compute.
        on_progress: Called often, with a number of updates.

    Raises:
        NonFiniteUpdate: An update is NaN or infinite.
        TooFewUpdates: Zeroing left fewer than the rule needs.
        ValueError: There is no update, or one has a wrong shape, dtype or weight.
    """
    if plan.is_plain:
        weighted = (
            fold.WeightedDelta(weight=weight, delta=delta) for weight, delta in updates
        )
        folded = fold.fold_mean(
            weighted, size=size, device=device, on_progress=on_progress
        )
        return Folded(mean=folded.mean)
    if len(updates) == 0:
        raise ValueError("an aggregate needs at least one update, got none")
    lengths = cohort.norms(updates, size=size, on_progress=on_progress)
    bounded = norms.bound(lengths, plan, tracked)
    job = _Job(
        updates=updates,
        bounded=bounded,
        size=size,
        device=device,
        on_progress=on_progress,
    )
    return Folded(
        mean=_apply(plan, job),
        tracked=bounded.tracked,
        report=_report(plan, bounded, lengths),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A measured cohort, and what can be worked out of it."""

    updates: cohort.Updates
    bounded: norms.Bounded
    size: int
    device: ComputeDevice
    on_progress: cohort.Progress

    def middle(self, cut: int) -> npt.NDArray[np.float64]:
        """Return each element's mean without ``cut`` values at either end."""
        return order.middle_mean(
            self.updates,
            self.bounded.kept,
            self.bounded.factors,
            cut=cut,
            size=self.size,
            device=self.device,
            on_progress=self.on_progress,
        )

    def products(self) -> npt.NDArray[np.float64]:
        """Return the inner products of the kept updates, as they were scaled."""
        matrix = gram.gram_matrix(
            self.updates,
            self.bounded.kept,
            size=self.size,
            device=self.device,
            on_progress=self.on_progress,
        )
        return matrix * np.outer(self.bounded.factors, self.bounded.factors)

    def mean(self, weights: Sequence[float] | None = None) -> npt.NDArray[np.float64]:
        """Return the mean of the kept updates, weighted by examples or as told."""
        return fold.fold_mean(
            self._weighted(weights),
            size=self.size,
            device=self.device,
            on_progress=self.on_progress,
        ).mean

    def _weighted(
        self, weights: Sequence[float] | None
    ) -> Iterator[fold.WeightedDelta]:
        for place, index in enumerate(self.bounded.kept):
            if weights is not None and weights[place] == 0:
                continue  # not even read
            examples, delta = self.updates[index]
            yield fold.WeightedDelta(
                weight=examples if weights is None else weights[place],
                delta=delta,
                scale=self.bounded.factors[place],
            )


def _apply(plan: AggregationPlan, job: _Job) -> npt.NDArray[np.float64]:
    count = len(job.bounded.kept)
    match plan.rule:
        case "mean":
            return job.mean()
        case "median":
            return job.middle(robust.middle_of(count))
        case "trimmed_mean":
            return job.middle(robust.cut_of(count, plan.trim))
        case "krum":
            return job.mean(_krum_weights(plan, job, keep=1))
        case "multi_krum":
            most = count - plan.byzantine
            return job.mean(_krum_weights(plan, job, keep=min(plan.keep or most, most)))
        case "geometric_median":
            weights = robust.geometric_median_weights(
                job.products(), iterations=plan.iterations
            )
            return job.mean(weights.tolist())
        case _:
            assert_never(plan.rule)


def _krum_weights(plan: AggregationPlan, job: _Job, *, keep: int) -> list[float]:
    count = len(job.bounded.kept)
    if count < robust.least_for_krum(plan.byzantine):
        raise TooFewUpdates(plan, count, len(job.updates))
    weights = robust.krum_weights(job.products(), byzantine=plan.byzantine, keep=keep)
    return list(weights.tolist())


def _report(
    plan: AggregationPlan, bounded: norms.Bounded, lengths: Sequence[float]
) -> dict[str, str | int | float]:
    report: dict[str, str | int | float] = {
        "rule": plan.rule,
        "zeroed": len(lengths) - len(bounded.kept),
        "clipped": bounded.clipped,
        "median_norm": float(np.median(lengths)),
        "largest_norm": max(lengths),
    }
    if math.isfinite(bounded.zero_above):
        report["zero_above"] = bounded.zero_above
    if math.isfinite(bounded.clip_to):
        report["clip_to"] = bounded.clip_to
    return report
