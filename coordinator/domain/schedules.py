"""Which learning rate a round has."""

import functools
import math
from typing import Final, assert_never

from coordinator.protocol.plan_schedule import ScheduledRate
from coordinator.protocol.plan_training import TrainingPlan

_LEAST_RATE: Final = 2.0**-126  # of float32, in which devices compute


@functools.lru_cache(maxsize=256)
def training_of_round(plan: TrainingPlan, number: int) -> TrainingPlan:
    """Return what devices do in a round: the plan with this round's constant rate.

    Args:
        plan: The task's.
        number: The round's number within its task, from 1. Attempts do not count.
    """
    fixed = {
        name: field.default
        for name, field in ScheduledRate.model_fields.items()
        if name != "learning_rate"
    }
    rate = rate_of_round(plan, number)
    return plan.model_copy(update={"learning_rate": rate, **fixed})


def rate_of_round(plan: ScheduledRate, number: int) -> float:
    """Return the learning rate of a round: a function of its number and nothing else.

    Over ``warmup_rounds`` the rate grows in equal steps to ``learning_rate``, which the
    first round after them has too; from there the schedule counts.

    Args:
        plan: Of the server's step or of the devices' training.
        number: The round's number within its task, from 1.
    """
    if number <= plan.warmup_rounds:
        share = number / plan.warmup_rounds
    else:
        share = _share_left(plan, number - 1 - plan.warmup_rounds)
    # a rate that fell for very long must not become 0, which is none
    return max(plan.learning_rate * share, min(plan.learning_rate, _LEAST_RATE))


def _share_left(plan: ScheduledRate, passed: int) -> float:
    """Return the schedule's factor after ``passed`` rounds of it."""
    if plan.decay_rounds is None:  # the plan has made sure: a constant rate
        return 1.0
    periods = passed / plan.decay_rounds
    match plan.schedule:
        case "constant":
            return 1.0
        case "exponential":
            return float(plan.decay_rate**periods)
        case "step":
            return float(plan.decay_rate ** math.floor(periods))
        case "cosine":
            fallen = (1 - math.cos(math.pi * min(periods, 1.0))) / 2  # 0 to 1
            return 1 - (1 - plan.decay_rate) * fallen
        case _:
            assert_never(plan.schedule)
