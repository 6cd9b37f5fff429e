"""Which updates are summed, in which order, with which weight.

The mean is ``sum(w_i * delta_i) / sum(w_i)`` with ``w_i`` the examples of device
``i`` (McMahan et al. 2017, FedAvg). Floating-point sums depend on their order, so it is
fixed by the updates' own digests: neither who came first nor how devices are named can
change a bit of the result.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.domain.norms import Tracked
from coordinator.protocol.plan_rounds import AsynchronousPlan

_WEIGHT_BITS: Final = 29  # times a float32's 24 bits: exact in a float64's 53


class SumLost(ArithmeticError):
    """The sum of too few devices can be had."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """An update that counts, without its delta."""

    assignment_id: str
    blob: str  #: where the body lies
    sha256: str
    size_bytes: int
    examples: int  #: the weight
    train_loss: float
    train_accuracy: float
    staleness: int = 0  #: rounds between its base version and where it landed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good a model is on some examples: means over all of them."""

    examples: int
    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What a cohort's updates came to."""

    mean: npt.NDArray[np.float64]  #: shape (size,): what the server step is given
    #: Kept with the version that comes of it.
    tracked: Tracked = dataclasses.field(default_factory=Tracked)
    report: Mapping[str, str | int | float] | None = None  #: for the history
    clipped_to: float = math.inf  #: what no update was longer than


def in_fold_order(updates: Iterable[AcceptedUpdate]) -> list[AcceptedUpdate]:
    """Return the updates in the order in which they are summed."""
    return sorted(updates, key=lambda update: (update.sha256, update.assignment_id))


def fold_weight(update: AcceptedUpdate, plan: AsynchronousPlan | None) -> float:
    """Return the weight of an update in the mean, above 0.

    Its examples, and in an asynchronous task that divided by ``(1 + staleness)`` to
    the plan's exponent, rounded to 29 significant bits so that its product with a
    float32 stays exact in float64.

    Source: Nguyen et al. 2022, section 3 (the factor 1 / sqrt(1 + staleness)).
    """
    if plan is None:
        return float(update.examples)
    scaled = update.examples * (1.0 + update.staleness) ** -plan.staleness_exponent
    fraction, exponent = math.frexp(scaled)
    return math.ldexp(
        round(math.ldexp(fraction, _WEIGHT_BITS)), exponent - _WEIGHT_BITS
    )


def train_score(updates: Iterable[AcceptedUpdate]) -> Score | None:
    """Return the devices' training metrics, weighted by examples; none if no update."""
    ordered = in_fold_order(updates)
    examples = sum(update.examples for update in ordered)
    if examples == 0:
        return None
    return Score(
        examples=examples,
        loss=sum(u.examples * u.train_loss for u in ordered) / examples,
        accuracy=sum(u.examples * u.train_accuracy for u in ordered) / examples,
    )
