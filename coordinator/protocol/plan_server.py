"""The tables of a plan on what the coordinator makes of a round's updates."""

import math
from typing import Final, Literal, Self, TypeAlias

import pydantic
from pydantic import Field

from coordinator.protocol.manifest import Request
from coordinator.protocol.plan_checks import refuse_set
from coordinator.protocol.plan_rounds import RoundPlan
from coordinator.protocol.plan_schedule import ScheduledRate

ServerOptimizerName: TypeAlias = Literal["sgd", "adam", "yogi", "adagrad"]
AggregationRule: TypeAlias = Literal[
    "mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median"
]
MAX_ROBUST_GOAL: Final = 4096  # a float64 for every two updates is then 128 MiB


class AggregationPlan(Request):
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
        refuse_set(self, set().union(*takes.values()) - own, f"rule {self.rule}")
        if "byzantine" in own and self.byzantine == 0:
            raise ValueError(f"rule {self.rule} needs byzantine above 0")
        if self.clip_quantile is None:
            refuse_set(self, {"clip_rate"}, "a plan without clip_quantile")
        if self.zero_quantile is None:
            refuse_set(
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


class ServerPlan(ScheduledRate):
    """The server step: ``-aggregate`` is the gradient of this optimizer.

    SGD with rate 1 and no momentum is FedAvg, with momentum FedAvgM; the others are
    FedAdam, FedYogi and FedAdagrad.
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
        refuse_set(self, set().union(*takes.values()) - own, self.optimizer)
        return self


class GatePlan(Request):
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
