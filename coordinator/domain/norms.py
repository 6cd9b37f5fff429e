"""How long an update may be: zeroing and clipping, fixed or adaptive.

Adaptive bounds follow a quantile of the lengths by a geometric step a round: the bound
grows while more updates than meant lie above it, and shrinks while fewer do. Their
state is one number each, kept with the version. They start from the first round itself,
so that no task needs to know beforehand how long its updates are.

Source: Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping",
    section 2 (without noise).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from coordinator.protocol.plan_server import AggregationPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """The lengths that adaptive bounds follow, between rounds; none at first."""

    clip_norm: float | None = None
    zero_norm: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """What a round's bounds make of its updates."""

    kept: tuple[int, ...]  #: the updates that are not zeroed
    factors: tuple[float, ...]  #: of the kept ones, in (0, 1]
    zero_above: float  #: longer updates were zeroed; infinite: none was
    clip_to: float  #: longer updates were scaled down to this; infinite: none was
    tracked: Tracked  #: for the next round

    @property
    def clipped(self) -> int:
        """How many updates were scaled down."""
        return sum(factor < 1 for factor in self.factors)


def bound(norms: Sequence[float], plan: AggregationPlan, tracked: Tracked) -> Bounded:
    """Decide which updates are zeroed, and by what the others are scaled.

    At least half of the updates are kept, whatever was tracked: a round whose updates
    are all longer than before is no reason to lose it.

    Args:
        norms: L2 lengths of the updates, finite, at least one.
        plan: The task's.
        tracked: What the last round left.
    """
    zero_above, zero_norm = math.inf, None
    if plan.zero_quantile is not None:
        middle = float(np.median(norms))
        # A high quantile may be an outlier's own length; the median is not.
        first = min(float(np.quantile(norms, plan.zero_quantile)), 2 * middle)
        zero_norm = tracked.zero_norm or first
        if zero_norm > 0:
            zero_above = plan.zero_multiple * max(zero_norm, middle)
            zero_norm = _follow(zero_norm, norms, plan.zero_quantile, plan.zero_rate)
    kept = tuple(index for index, norm in enumerate(norms) if norm <= zero_above)
    lengths = [norms[index] for index in kept]
    clip_to, clip_norm = plan.max_norm or math.inf, None
    if plan.clip_quantile is not None:
        clip_norm = tracked.clip_norm or float(np.quantile(lengths, plan.clip_quantile))
        if clip_norm > 0:
            clip_to = min(clip_to, clip_norm)
            clip_norm = _follow(clip_norm, lengths, plan.clip_quantile, plan.clip_rate)
    return Bounded(
        kept=kept,
        factors=tuple(clip_to / norm if norm > clip_to else 1.0 for norm in lengths),
        zero_above=zero_above,
        clip_to=clip_to,
        # A length of 0 could never grow: such a round leaves it to the next to start.
        tracked=Tracked(clip_norm=clip_norm or None, zero_norm=zero_norm or None),
    )


def _follow(
    estimate: float, norms: Sequence[float], quantile: float, rate: float
) -> float:
    """Move an estimate of a quantile by one step towards it."""
    below = sum(norm <= estimate for norm in norms) / len(norms)
    return estimate * math.exp(rate * (quantile - below))
