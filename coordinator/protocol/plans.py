"""The plan: every setting of a task, as TOML or JSON.

What a plan holds is fixed when its task is made. The device is sent ``training`` only.
"""

import tomllib
from typing import Literal, Self

import pydantic
from pydantic import Field

from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.manifest import Name, Record


class TrainingPlan(Record):
    """What a device does with its own examples in one round."""

    optimizer: Literal["sgd"] = Field(
        "sgd", description="Local optimizer, inside the training graph."
    )
    learning_rate: float = Field(
        0.1, gt=0, le=10, allow_inf_nan=False, description="Step size of the optimizer."
    )
    batch_size: int = Field(20, ge=1, le=1024, description="Examples a step.")
    epochs: int = Field(1, ge=1, le=100, description="Passes over the examples.")
    max_shift: int = Field(
        0,
        ge=0,
        le=8,
        description="Augmentation: in every epoch each image is moved by up to so many "
        "pixels, drawn anew, each way; what comes in is 0.",
    )
    max_examples: int = Field(
        10_000,
        ge=1,
        le=MAX_EXAMPLES,
        description="Most examples a device trains on and counts in one round.",
    )


class _Collection(Record):
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


class ServerPlan(Record):
    """The server step: ``-aggregate`` is the gradient of this optimizer.

    SGD with rate 1 and no momentum is FedAvg; with momentum it is FedAvgM.
    """

    optimizer: Literal["sgd"] = Field("sgd", description="Server optimizer.")
    learning_rate: float = Field(
        1.0, gt=0, le=100, allow_inf_nan=False, description="Step size on the server."
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="How much of the last step the next one keeps.",
    )
    nesterov: bool = Field(
        False,  # noqa: FBT003 - the default
        description="Take the momentum's look ahead.",
    )

    @pydantic.model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class UpdatePlan(Record):
    """How devices write their deltas. One that cannot, writes ``f32``."""

    encoding: EncodingName = Field(
        "f32",
        description="`f32`; `f16`, half the bytes; `q8`, a quarter: 8 bits an element "
        "and one scale a tensor; `topk`: only the largest elements.",
    )
    topk_share: float = Field(
        0.05,
        gt=0,
        le=0.5,
        allow_inf_nan=False,
        description="Share of the elements that `topk` sends, 8 bytes each.",
    )
    error_feedback: bool = Field(
        True,  # noqa: FBT003 - the default
        description="A device adds to its delta what the encoding left out of its last "
        "accepted one. Makes no difference to `f32`.",
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


class Reference(Record):
    """A figure from elsewhere that reports print beside ours."""

    source: str = Field(max_length=200, description="Where the figure is from.")
    held_out_accuracy: float = Field(
        ge=0, le=1, description="Accuracy reported there after as many rounds."
    )


class Plan(Record):
    """Every setting of a task."""

    model: Name = Field("cnn", description="A model that the coordinator holds.")
    rounds: int = Field(
        10, ge=1, le=1_000_000, description="Committed rounds until it is finished."
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Draws initial weights; devices mix it in too."
    )
    round: RoundPlan = RoundPlan()
    training: TrainingPlan = TrainingPlan()
    update: UpdatePlan = UpdatePlan()
    server: ServerPlan = ServerPlan()
    evaluation: EvaluationPlan | None = None
    reference: Reference | None = None


class InvalidPlan(ValueError):
    """The text is no plan; the message names each field that is wrong."""


def parse(text: str) -> Plan:
    """Read a plan from TOML.

    Raises:
        InvalidPlan: The text is not TOML or not a plan.
    """
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidPlan(f"not TOML: {error}") from error
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, fault['loc'])) or 'plan'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        ]
        raise InvalidPlan("; ".join(lines)) from error
