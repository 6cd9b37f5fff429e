"""The tables of a plan on when rounds and evaluations begin and end."""

from typing import Self

import pydantic
from pydantic import Field

from coordinator.protocol.manifest import Request


class _Collection(Request):
    """What every kind of round has: results enough to close, and to be of use."""

    goal: int
    minimum: int

    @pydantic.model_validator(mode="after")
    def _minimum_within_goal(self) -> Self:
        if self.minimum > self.goal:
            raise ValueError(
                f"minimum must be at most the goal {self.goal}, got {self.minimum}"
            )
        return self


class RoundPlan(_Collection):
    """When a round has enough updates, and how long it waits for them."""

    goal: int = Field(
        50, ge=1, le=100_000, description="Close as soon as so many are accepted."
    )
    minimum: int = Field(
        25, ge=1, le=100_000, description="At the deadline, commit with at least these."
    )
    over_select: float = Field(
        0.0,
        ge=0,
        le=4,
        allow_inf_nan=False,
        description="Places leased beyond the goal, as a share of it: 0.3 = 30 % more.",
    )
    lease_s: float = Field(
        60,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds until a silent device frees its place.",
    )
    deadline_s: float = Field(
        120,
        gt=0,
        le=604_800,
        allow_inf_nan=False,
        description="Seconds after its opening at which a round ends, come what may.",
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="Abandoned attempts until the task stops."
    )


class ParticipationPlan(Request):
    """How often one device may take part in training.

    Held to exactly, whatever happens at the same time: an update that was accepted
    counts, unless its round was abandoned, and a device holds one place at a time.
    """

    max_rounds: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Rounds of the task that one device takes part in at most.",
    )
    min_separation: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="A device that took part in round r takes part again in round r "
        "plus this at the earliest; 1: in the next.",
    )


class AsynchronousPlan(Request):
    """Collect without waiting: a round is the next ``round.goal`` updates.

    Source: Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous
    Aggregation" (FedBuff).
    """

    concurrency: int = Field(
        100, ge=1, le=100_000, description="Most devices that train at a time."
    )
    max_staleness: int = Field(
        20,
        ge=0,
        le=1_000_000,
        description="A device whose version is more rounds behind loses its place.",
    )
    staleness_exponent: float = Field(
        0.5,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="An update that is s rounds behind weighs its examples divided "
        "by (1 + s) to this power.",
    )


class EvaluationPlan(_Collection):
    """Federated evaluation: devices score a version on their own test examples."""

    every: int = Field(
        10, ge=1, description="Evaluate the version of every so-many-th round."
    )
    goal: int = Field(50, ge=1, le=100_000, description="Close with so many results.")
    minimum: int = Field(
        1, ge=1, le=100_000, description="At the deadline, report with at least these."
    )
    lease_s: float = Field(
        30,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds until a silent device frees its place.",
    )
    deadline_s: float = Field(
        60,
        gt=0,
        le=604_800,
        allow_inf_nan=False,
        description="Seconds after its opening at which an evaluation ends.",
    )
    personalize_epochs: int = Field(
        0,
        ge=0,
        le=20,
        description="Personalized evaluation: each device also fine-tunes a copy, as "
        "`training` says, for so many epochs on its own training examples, and scores "
        "that on the same test examples; 0: it scores the version alone.",
    )
