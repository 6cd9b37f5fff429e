"""The gate: whether a result becomes its task's current version, and stays it.

Two rules judge a round before its version is published, by what the coordinator sees
anyway: the devices' training loss and the length of the aggregate. One judges a version
by its scores, which come later: a version found worse is gone back from. Each compares
with the versions that this one was built upon, so that what was gone back from counts
no more.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Final

from coordinator.protocol.plan_server import GatePlan

_FEWEST: Final = 3  # a median of fewer says little


class Rejected(Exception):
    """A round's result does not pass. The message says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What the last versions' rounds were like, newest first."""

    losses: tuple[float, ...] = ()  #: of the devices' training
    norms: tuple[float, ...] = ()  #: of the aggregates, L2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """How often a version was right, by one source."""

    version: int
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retreat:
    """That a task goes back, to where, and why."""

    version: int
    reason: str


def insist_loss(rules: GatePlan | None, loss: float, before: Sequence[float]) -> None:
    """Judge a round by its devices' training loss.

    Raises:
        Rejected: It rose too far.
    """
    if rules is None or rules.max_loss_rise is None:
        return
    usual = _usual(rules, before)
    if usual is not None and loss > usual * (1 + rules.max_loss_rise):
        raise Rejected(
            f"the devices' training loss {loss:.4g} is more than "
            f"{rules.max_loss_rise:.0%} above {usual:.4g}, the median of the last "
            f"{len(before)} rounds"
        )


def insist_norm(rules: GatePlan | None, norm: float, before: Sequence[float]) -> None:
    """Judge a round by the L2 norm of its aggregate.

    Raises:
        Rejected: It is too long.
    """
    if rules is None or rules.max_norm_ratio is None:
        return
    usual = _usual(rules, before)
    if usual is not None and norm > usual * rules.max_norm_ratio:
        raise Rejected(
            f"the aggregate's norm {norm:.4g} is more than {rules.max_norm_ratio:g} "
            f"times {usual:.4g}, the median of the last {len(before)} rounds"
        )


def retreat(
    rules: GatePlan | None, source: str, scored: Scored, before: Sequence[Scored]
) -> Retreat | None:
    """Return where to go back to from a version that was scored; none: it is fine.

    Args:
        rules: Of the plan.
        source: Who scored.
        scored: The version.
        before: The last versions of its line that the same source scored, newest
            first. The first of them that was good enough is gone back to.
    """
    if rules is None or rules.max_accuracy_drop is None or not before:
        return None
    best = max(each.accuracy for each in before)
    least = best - rules.max_accuracy_drop
    if scored.accuracy >= least:
        return None
    good = next(each for each in before if each.accuracy >= least)
    return Retreat(
        version=good.version,
        reason=f"version {scored.version} has {source} accuracy "
        f"{scored.accuracy:.4f}, more than {rules.max_accuracy_drop:g} below "
        f"{best:.4f}, the best of the last {len(before)} that were scored",
    )


def _usual(rules: GatePlan, before: Sequence[float]) -> float | None:
    """Return the median of what was before; none where it tells nothing."""
    if len(before) < min(rules.window, _FEWEST):
        return None
    return statistics.median(before) or None  # nothing is a multiple of 0
