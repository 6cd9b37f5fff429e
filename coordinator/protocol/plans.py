"""The plan: every setting of a task, as TOML or JSON.

What a plan holds is fixed when its task is made. The device is sent ``training`` only.
"""

import math
import tomllib
from typing import Final, Literal, Self, TypeAlias

import pydantic
from pydantic import Field

from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.manifest import Name, Record

ServerOptimizerName: TypeAlias = Literal["sgd", "adam", "yogi", "adagrad"]
AggregationRule: TypeAlias = Literal[
    "mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median"
]
_LEAST_CLIP_NORM: Final = 1e-6  # the graph's float32 would make less of it 0, or off
MAX_ROBUST_GOAL: Final = 4096  # a float64 for every two updates is then 128 MiB


def _refuse_set(record: Record, names: set[str], chosen: str) -> None:
    """Refuse fields that say something where ``chosen`` makes no use of them."""
    for name, field in type(record).model_fields.items():
        if name in names and getattr(record, name) != field.default:
            raise ValueError(f"{chosen} takes no {name}, got {getattr(record, name)}")


class TrainingPlan(Record):
    """What a device does with its own examples in one round."""

    optimizer: Literal["sgd", "adam"] = Field(
        "sgd",
        description="Local optimizer, inside the training graph; begins anew in every "
        "round.",
    )
    learning_rate: float = Field(
        0.1, gt=0, le=10, allow_inf_nan=False, description="Step size of the optimizer."
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
        le=0.99999,
        allow_inf_nan=False,
        description="`adam`: how much of the mean gradient is kept.",
    )
    beta_2: float = Field(
        0.999,
        ge=0,
        le=0.99999,
        allow_inf_nan=False,
        description="`adam`: how much of the mean squared gradient is kept.",
    )
    epsilon: float = Field(
        1e-7,
        ge=1e-12,
        le=1,
        allow_inf_nan=False,
        description="`adam`: added to the root of the mean squared gradient.",
    )
    proximal: float = Field(
        0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="FedProx's mu: how strongly each step is pulled back to the "
        "weights that the round began with; 0: not at all.",
    )
    clip_norm: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Longest gradient of a step (L2, over all tensors); a longer one "
        "is scaled down to it; 0: any.",
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
    max_rotation: float = Field(
        0.0,
        ge=0,
        le=45,
        allow_inf_nan=False,
        description="Augmentation: each image is turned by up to so many degrees.",
    )
    max_scale: float = Field(
        0.0,
        ge=0,
        le=0.5,
        allow_inf_nan=False,
        description="Augmentation: each image is made larger or smaller by up to this "
        "share.",
    )
    max_brightness: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Augmentation: up to so much is added to all pixels of an image or "
        "taken away, of which 1 is white.",
    )
    max_contrast: float = Field(
        0.0,
        ge=0,
        le=0.9,
        allow_inf_nan=False,
        description="Augmentation: the pixels' distance from their mean is made larger "
        "or smaller by up to this share.",
    )
    flip: bool = Field(
        False,  # noqa: FBT003 - the default
        description="Augmentation: an image is mirrored, left to right, as often as "
        "not. Wrong for handwriting: a mirrored digit or letter is mostly none.",
    )
    max_examples: int = Field(
        10_000,
        ge=1,
        le=MAX_EXAMPLES,
        description="Most examples a device trains on and counts in one round.",
    )

    @pydantic.model_validator(mode="after")
    def _settings_are_the_optimizers_own(self) -> Self:
        if self.optimizer == "adam":
            _refuse_set(self, {"momentum", "nesterov"}, "adam")
        else:
            _refuse_set(self, {"beta_1", "beta_2", "epsilon"}, "sgd")
        if 0 < self.clip_norm < _LEAST_CLIP_NORM:
            raise ValueError(
                f"clip_norm must be 0 or at least {_LEAST_CLIP_NORM}, "
                f"got {self.clip_norm}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @property
    def signature(self) -> str:
        """Name of the training graph's signature that does this."""
        name = "train_epoch"
        if self.optimizer == "adam":
            name += "_adam"
        elif self.momentum:
            name += "_momentum"
        elif self.clip_norm and not self.proximal:
            return f"{name}_proximal"  # which clips too, with a pull of 0
        return f"{name}_proximal" if self.proximal else name

    def augmentations(self) -> dict[str, float]:
        """Return the augmentations that are asked for, with how much; none: empty."""
        asked = {
            "max_shift": self.max_shift,
            "max_rotation": self.max_rotation,
            "max_scale": self.max_scale,
            "max_brightness": self.max_brightness,
            "max_contrast": self.max_contrast,
            "flip": self.flip,
        }
        return {name: value for name, value in asked.items() if value}


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


class AsynchronousPlan(Record):
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


class AggregationPlan(Record):
    """How a round's updates become one aggregate.

    Zeroing, then clipping, then the rule. Only the mean weighs devices by examples,
    which they state themselves; every other rule counts each update once.
    """

    rule: AggregationRule = Field(
        "mean",
        description="`mean` is weighted by examples and trusts every device; the "
        "others count each update once and bear a share of devices that lie.",
    )
    trim: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        allow_inf_nan=False,
        description="`trimmed_mean`: share of the values of each element that is left "
        "out at either end.",
    )
    byzantine: int = Field(
        0,
        ge=0,
        le=MAX_ROBUST_GOAL,
        description="`krum`, `multi_krum`: how many lying devices a round must bear.",
    )
    keep: int = Field(
        0,
        ge=0,
        le=MAX_ROBUST_GOAL,
        description="`multi_krum`: how many updates are averaged; 0: all but "
        "`byzantine`.",
    )
    iterations: int = Field(
        100,
        ge=1,
        le=10_000,
        description="`geometric_median`: Weiszfeld steps from the mean.",
    )
    max_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Longest an update may be (L2); a longer one is scaled down to it.",
    )
    clip_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Adaptive clipping: scale down to a length that follows this "
        "quantile of the updates' lengths.",
    )
    clip_rate: float = Field(
        0.2,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="How fast that length follows: its logarithm's step a round.",
    )
    zero_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Adaptive zeroing: leave out updates much longer than a length "
        "that follows this quantile; 0.98 is usual.",
    )
    zero_multiple: float = Field(
        2.0,
        ge=1,
        le=1e6,
        allow_inf_nan=False,
        description="How many times that length is too long.",
    )
    zero_rate: float = Field(
        2.3,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="How fast that length follows.",
    )

    @property
    def is_plain(self) -> bool:
        """Whether this is the weighted mean of all updates as they are."""
        return self.rule == "mean" and not (
            self.max_norm or self.clip_quantile or self.zero_quantile
        )

    @pydantic.model_validator(mode="after")
    def _settings_are_the_rules_own(self) -> Self:
        takes = {
            "trimmed_mean": {"trim"},
            "krum": {"byzantine"},
            "multi_krum": {"byzantine", "keep"},
            "geometric_median": {"iterations"},
        }
        own = takes.get(self.rule, set())
        _refuse_set(self, set().union(*takes.values()) - own, f"rule {self.rule}")
        if "byzantine" in own and self.byzantine == 0:
            raise ValueError(f"rule {self.rule} needs byzantine above 0")
        if self.clip_quantile is None:
            _refuse_set(self, {"clip_rate"}, "a plan without clip_quantile")
        if self.zero_quantile is None:
            _refuse_set(
                self, {"zero_multiple", "zero_rate"}, "a plan without zero_quantile"
            )
        return self

    def insist_enough(self, round_: RoundPlan) -> None:
        """Check that the rule holds in every round that may commit.

        Raises:
            ValueError: Too few or too many updates may come for it.
        """
        if self.rule == "mean":
            return
        if round_.goal > MAX_ROBUST_GOAL:
            raise ValueError(
                f"rule {self.rule} compares updates with each other: round.goal must "
                f"be at most {MAX_ROBUST_GOAL}, got {round_.goal}"
            )
        least, why = 3, ""
        if "krum" in self.rule:
            least = 2 * self.byzantine + 3
            why = f" with byzantine {self.byzantine}"
        elif self.rule == "trimmed_mean":
            least = max(least, math.ceil(round(1 / self.trim, 9)))
            why = f" with trim {self.trim}"
        if round_.minimum < least:
            raise ValueError(
                f"rule {self.rule}{why} needs round.minimum at least {least}, "
                f"got {round_.minimum}"
            )
        if self.keep > round_.minimum - self.byzantine:
            raise ValueError(
                f"keep must be at most round.minimum less byzantine, "
                f"{round_.minimum - self.byzantine}, got {self.keep}"
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


class GatePlan(Record):
    """What a result must be to become its task's current version, and to stay it."""

    window: int = Field(
        5,
        ge=1,
        le=100,
        description="How many versions before it one is compared with; losses and "
        "norms from the third on.",
    )
    max_loss_rise: float | None = Field(
        None,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Abandon a round whose devices' training loss exceeds the median "
        "of those before by more than this share: 0.5 = 50 %.",
    )
    max_norm_ratio: float | None = Field(
        None,
        gt=1,
        le=1e6,
        allow_inf_nan=False,
        description="Abandon a round whose aggregate's L2 norm is more than so many "
        "times the median of those before.",
    )
    max_accuracy_drop: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Go back from a version whose federated or held-out accuracy is "
        "more than this below the best of those before: 0.05 = 5 points.",
    )

    @pydantic.model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        rules = (self.max_loss_rise, self.max_norm_ratio, self.max_accuracy_drop)
        if rules == (None, None, None):
            raise ValueError(
                "a gate needs max_loss_rise, max_norm_ratio or max_accuracy_drop"
            )
        return self


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
    asynchronous: AsynchronousPlan | None = None
    training: TrainingPlan = TrainingPlan()
    update: UpdatePlan = UpdatePlan()

    aggregation: AggregationPlan = AggregationPlan()
    server: ServerPlan = ServerPlan()
    evaluation: EvaluationPlan | None = None
    gate: GatePlan | None = None
    reference: Reference | None = None

    @pydantic.model_validator(mode="after")
    def _enough_updates_for_the_rule(self) -> Self:
        self.aggregation.insist_enough(self.round)
        return self

    @pydantic.model_validator(mode="after")
    def _concurrency_replaces_over_select(self) -> Self:
        if self.asynchronous is not None and self.round.over_select:
            raise ValueError(
                "an asynchronous task takes no round.over_select, got "
                f"{self.round.over_select}: asynchronous.concurrency says how many "
                "devices train at a time"
            )
        return self


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
