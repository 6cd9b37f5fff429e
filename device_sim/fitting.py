"""How a plan is fitted to the devices there are."""

from typing import Final

import pydantic

from coordinator.protocol.plans import InvalidPlan, Plan
from device_sim import behaviour

_MOST_OVER_SELECT: Final = 4.0  # of RoundPlan


def fit(plan: Plan, habits: behaviour.Behaviour) -> tuple[Plan, list[str]]:
    """Fit a plan to the devices there are.

    Returns:
        The plan, and a sentence for each change.

    Raises:
        InvalidPlan: It cannot be followed by so few.
    """
    notes = []
    rounds, most = plan.round, habits.survivors
    if plan.secagg is not None:  # all join, and some vanish from their cohorts
        most = habits.devices
        rounds = rounds.model_copy(
            update={"minimum": min(rounds.minimum, habits.survivors)}
        )
    if rounds.goal > most:
        # Vanished devices hold places too: every device needs one.
        spare = max(rounds.over_select, habits.devices / most - 1)
        if plan.asynchronous is not None:  # its concurrency says how many places
            spare = 0.0
        rounds = rounds.model_copy(
            update={
                "goal": most,
                "minimum": min(rounds.minimum, most),
                "over_select": min(spare, _MOST_OVER_SELECT),
            }
        )
        notes.append(
            f"the plan's goal of {plan.round.goal} updates is lowered to {most}: so "
            f"many of {habits.devices} devices report"
            + (f" at dropout {habits.dropout:g}" if habits.dropout else "")
            + f"; its minimum is {rounds.minimum}"
        )
    evaluation = plan.evaluation
    if evaluation is not None and evaluation.goal > habits.devices:
        evaluation = evaluation.model_copy(
            update={
                "goal": habits.devices,
                "minimum": min(evaluation.minimum, habits.devices),
            }
        )
        notes.append(f"the evaluation's goal is lowered to {habits.devices} devices")
    fitted = plan.model_copy(update={"round": rounds, "evaluation": evaluation})
    try:  # what held for the plan's numbers may not hold for these
        return Plan.model_validate(fitted.model_dump()), notes
    except pydantic.ValidationError as error:
        told = "; ".join(fault["msg"] for fault in error.errors(include_url=False))
        raise InvalidPlan(f"the plan cannot be followed by so few: {told}") from error
