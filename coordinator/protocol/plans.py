"""The plan: every setting of a task, as TOML or JSON.

What a plan holds is fixed when its task is made. The device is sent ``training`` only.
"""

import tomllib
from typing import Literal, Self, TypeAlias

import pydantic
from pydantic import Field

from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.manifest import Name, Record

ServerOptimizerName: TypeAlias = Literal["sgd", "adam", "yogi", "adagrad"]


def _refuse_set(record: Record, names: set[str], chosen: str) -> None:
    """Refuse fields that say something where ``chosen`` makes no use of them."""
    for name, field in type(record).model_fields.items():
        if name in names and getattr(record, name) != field.default:
            raise ValueError(f"{chosen} takes no {name}, got {getattr(record, name)}")


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

    SGD with rate 1 and no momentum is FedAvg, with momentum FedAvgM; the others are
    FedAdam, FedYogi and FedAdagrad. The rate is a function of the round's number.
    """

    optimizer: ServerOptimizerName = Field("sgd", description="Server optimizer.")
    learning_rate: float = Field(
        1.0, gt=0, le=100, allow_inf_nan=False, description="Step size on the server."
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="`sgd`: how much of the last step the next one keeps.",
    )
    nesterov: bool = Field(
        False,  # noqa: FBT003 - the default
        description="`sgd`: take the momentum's look ahead.",
    )
    beta_1: float = Field(
        0.9,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="`adam`, `yogi`: how much of the mean step is kept.",
    )
    beta_2: float = Field(
        0.99,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="`adam`, `yogi`: how much of the mean squared step is kept.",
    )
    epsilon: float = Field(
        1e-3,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="`adam`, `yogi`, `adagrad`: elements that move by much less than "
        "this are not scaled up (tau in the paper).",
    )
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
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @pydantic.model_validator(mode="after")
    def _settings_are_the_optimizers_own(self) -> Self:
        takes = {
            "sgd": {"momentum", "nesterov"},
            "adam": {"beta_1", "beta_2", "epsilon"},
            "yogi": {"beta_1", "beta_2", "epsilon"},
            "adagrad": {"epsilon"},
        }
        own = takes[self.optimizer]
        _refuse_set(self, set().union(*takes.values()) - own, self.optimizer)
        return self

    @pydantic.model_validator(mode="after")
    def _a_schedule_knows_how_long(self) -> Self:
        if self.schedule == "constant":
            _refuse_set(self, {"decay_rounds", "decay_rate"}, "schedule constant")
        elif self.decay_rounds is None:
            raise ValueError(f"schedule {self.schedule} needs decay_rounds")
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
