"""How a learning rate changes from round to round."""

from typing import Literal, Self

import pydantic
from pydantic import Field

from coordinator.protocol.manifest import Request
from coordinator.protocol.plan_checks import refuse_set


class ScheduledRate(Request):
    """A table of a plan with a ``learning_rate`` that its round's number decides."""

    learning_rate: float

    schedule: Literal["constant", "exponential", "step", "cosine"] = Field(
        "constant", description="How the step size falls from round to round."
    )
    decay_rounds: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Rounds after which `decay_rate` of the step size is left; every "
        "schedule but `constant` needs it.",
    )
    decay_rate: float = Field(
        0.1,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Share of the step size that is left then; `cosine` stays there, "
        "the others go on.",
    )
    warmup_rounds: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="First rounds, over which the step size grows to "
        "`learning_rate`; the schedule starts after them.",
    )

    @pydantic.model_validator(mode="after")
    def _a_schedule_knows_how_long(self) -> Self:
        if self.schedule == "constant":
            refuse_set(self, {"decay_rounds", "decay_rate"}, "schedule constant")
        elif self.decay_rounds is None:
            raise ValueError(f"schedule {self.schedule} needs decay_rounds")
        return self
