"""The table of a plan on secure aggregation: who may vanish, and who may collude."""

import math
from typing import Final, Self

import pydantic
from pydantic import Field

from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.manifest import Request
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_server import AggregationPlan
from coordinator.protocol.plan_sums import insist_summable
from coordinator.protocol.plan_training import UpdatePlan
from coordinator.protocol.secagg import parameters
from coordinator.protocol.secagg.parameters import MAX_DEVICES, MIN_DEVICES

_LEAST_COLLUSION: Final = 0.05  # what devices insist on
_LEAST_HONEST: Final = 2


class SecAggPlan(Request):
    """Secure aggregation: the coordinator learns sums of cohorts, and no update.

    Devices train first and then join. Those that joined are split into cohorts, which
    take three steps together: they exchange keys, send masked vectors, and help to take
    the masks out of the sum. A device may vanish at any of them.

    Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving
        Machine Learning"; Bell et al. 2020, "Secure Single-Server Aggregation with
        (Poly)Logarithmic Overhead".
    """

    clip_norm: float | None = Field(
        None,
        ge=1e-6,
        le=1e6,
        allow_inf_nan=False,
        description="Longest an update may be (L2); the device scales a longer one "
        "down to it. Absent where `privacy` has one.",
    )
    max_examples: int = Field(
        1000,
        ge=1,
        le=MAX_EXAMPLES,
        description="A device with so many examples, or more, has weight 1 in the "
        "mean, one with fewer its share of it. With `privacy` all weigh 1.",
    )
    dropout: float = Field(
        0.1,
        ge=0,
        le=0.45,
        allow_inf_nan=False,
        description="Share of those who joined that may vanish: a cohort has so many "
        "masks that its sum can still be had.",
    )
    collusion: float = Field(
        _LEAST_COLLUSION,
        ge=_LEAST_COLLUSION,
        le=0.4,
        allow_inf_nan=False,
        description="Share of a cohort that may work together with the coordinator and "
        "still learn no update.",
    )
    cohort_size: int = Field(
        MAX_DEVICES,
        ge=MIN_DEVICES,
        le=MAX_DEVICES,
        description="Most devices in a cohort; a round with more has several.",
    )
    cohort_minimum: int = Field(
        MIN_DEVICES,
        ge=MIN_DEVICES,
        le=MAX_DEVICES,
        description="Fewest devices that a sum is made of.",
    )
    step_s: float = Field(
        30,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds that each of the three steps waits for devices; it ends "
        "sooner when all have come.",
    )

    @pydantic.model_validator(mode="after")
    def _minimum_within_size(self) -> Self:
        if self.cohort_minimum > self.cohort_size:
            raise ValueError(
                f"cohort_minimum must be at most cohort_size {self.cohort_size}, got "
                f"{self.cohort_minimum}"
            )
        return self

    def sizes(self, joined: int) -> list[int]:
        """Return the sizes of the cohorts that so many devices make, largest first."""
        count = math.ceil(joined / self.cohort_size)
        return [len(range(place, joined, count)) for place in range(count)]

    def honest(self, goal: int) -> int:
        """Return how many devices of a sum do not collude at least.

        Args:
            goal: Devices with which a round closes.
        """
        largest = min(self.cohort_size, goal)
        return self.cohort_minimum - math.floor(self.collusion * largest)

    def insist_honest(self, goal: int) -> None:
        """Check that noise of devices can be told from those that do not collude.

        Raises:
            ValueError: There may be fewer than two.
        """
        honest = self.honest(goal)
        if honest < _LEAST_HONEST:
            raise ValueError(
                f"distributed_gaussian needs secagg.cohort_minimum so high that two "
                f"devices of a sum do not collude; of {self.cohort_minimum} it may be "
                f"{max(0, honest)}, at a collusion of {self.collusion:g} among "
                f"{min(self.cohort_size, goal)}"
            )

    def insist_sizes(self, **joined: int) -> None:
        """Check that so many devices make cohorts that keep the promise.

        Args:
            joined: By the plan's name for it, how many may have joined.

        Raises:
            ValueError: They do not.
        """
        for name, devices in joined.items():
            if devices < self.cohort_minimum:
                raise ValueError(
                    f"{name} must be at least secagg.cohort_minimum "
                    f"{self.cohort_minimum}, got {devices}"
                )
            for size in {*self.sizes(devices)}:
                where = f"{name} {devices} makes a cohort of {size} devices"
                if self.cohort_minimum > size:
                    raise ValueError(
                        f"{where}, secagg.cohort_minimum is {self.cohort_minimum}"
                    )
                try:
                    parameters.choose(
                        size, dropout=self.dropout, collusion=self.collusion
                    )
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error

    def insist_company(
        self,
        aggregation: AggregationPlan,
        update: UpdatePlan,
        evaluation: EvaluationPlan | None,
        privacy: PrivacyPlan | None,
    ) -> None:
        """Check what else the plan does with what devices send.

        Raises:
            ValueError: It needs what nobody sees, or gives away what is to be hidden.
        """
        insist_summable(
            "secagg",
            self.clip_norm,
            aggregation=aggregation,
            update=update,
            evaluation=evaluation,
            privacy=privacy,
        )
        if privacy is not None and privacy.sampling == "poisson":
            raise ValueError(
                "secagg takes no privacy.sampling poisson: devices of a cohort learn "
                "who its others are, and coins promise nothing to who knows them"
            )
