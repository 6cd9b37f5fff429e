"""The plan: every setting of a task, as TOML or JSON.

What a plan holds is fixed when its task is made. The device is sent ``training`` only,
with other epochs for a personalized evaluation. The tables of it are in modules beside
this one.
"""

import tomllib
from typing import Self

import pydantic
from pydantic import Field

from coordinator.protocol.manifest import Name, Request
from coordinator.protocol.plan_he import HePlan
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import (
    AsynchronousPlan,
    EvaluationPlan,
    ParticipationPlan,
    RoundPlan,
)
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.plan_server import AggregationPlan, GatePlan, ServerPlan
from coordinator.protocol.plan_training import TrainingPlan, UpdatePlan


class Reference(Request):
    """A figure from elsewhere that reports print beside ours."""

    source: str = Field(max_length=200, description="Where the figure is from.")
    held_out_accuracy: float = Field(
        ge=0, le=1, description="Accuracy reported there after as many rounds."
    )


class Plan(Request):
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
    participation: ParticipationPlan = ParticipationPlan()
    training: TrainingPlan = TrainingPlan()
    update: UpdatePlan = UpdatePlan()

    aggregation: AggregationPlan = AggregationPlan()
    server: ServerPlan = ServerPlan()
    evaluation: EvaluationPlan | None = None
    gate: GatePlan | None = None
    privacy: PrivacyPlan | None = None
    secagg: SecAggPlan | None = None
    he: HePlan | None = None
    reference: Reference | None = None

    @property
    def personalization(self) -> TrainingPlan | None:
        """How a device fine-tunes for its second score; none: it is not asked to."""
        if self.evaluation is None or self.evaluation.personalize_epochs == 0:
            return None
        return self.training.model_copy(
            update={"epochs": self.evaluation.personalize_epochs}
        )

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

    @pydantic.model_validator(mode="after")
    def _privacy_holds(self) -> Self:
        if self.privacy is None:
            return self
        if self.asynchronous is not None:
            raise ValueError(
                "privacy takes no asynchronous rounds: their updates weigh by "
                "staleness, and count in rounds that nobody chose them for"
            )
        self.privacy.insist_rounds(self.rounds, self.round, self.participation)
        self.privacy.insist_company(self.aggregation, self.gate)
        if self.privacy.local_noise is not None:
            if self.secagg is not None:
                raise ValueError(
                    "local_gaussian takes no secagg: under it distributed_gaussian "
                    "promises as much with less noise"
                )
            if self.update.encoding != "f32":
                raise ValueError(
                    f"local_gaussian takes no update.encoding, got "
                    f"{self.update.encoding}: noise leaves nothing to be saved"
                )
        if self.privacy.mechanism == "distributed_gaussian":
            if self.secagg is None:
                raise ValueError(
                    "distributed_gaussian needs secagg: what one device adds hides its "
                    "update only within a sum"
                )
            self.secagg.insist_honest(self.round.goal)
        return self

    @pydantic.model_validator(mode="after")
    def _sums_are_of_many(self) -> Self:
        if self.secagg is None:
            return self
        if self.asynchronous is not None:
            raise ValueError(
                "secagg takes no asynchronous rounds: a cohort's masks cancel only "
                "when all of it is summed together"
            )
        self.secagg.insist_company(
            self.aggregation, self.update, self.evaluation, self.privacy
        )
        self.secagg.insist_sizes(
            **{"round.minimum": self.round.minimum, "round.goal": self.round.goal}
        )
        if self.evaluation is not None:
            self.secagg.insist_sizes(
                **{
                    "evaluation.minimum": self.evaluation.minimum,
                    "evaluation.goal": self.evaluation.goal,
                }
            )
        return self

    @pydantic.model_validator(mode="after")
    def _encrypted_sums_are_of_many(self) -> Self:
        if self.he is None:
            return self
        if self.secagg is not None:
            raise ValueError(
                "he takes no secagg: each alone hides updates from the coordinator"
            )
        if self.asynchronous is not None:
            raise ValueError(
                "he takes no asynchronous rounds: a key is of one round, and an update "
                "may land in a later one"
            )
        self.he.insist_company(
            self.aggregation, self.update, self.evaluation, self.privacy
        )
        self.he.insist_rounds(self.round, self.evaluation)
        return self


class InvalidPlan(ValueError):
    """The text is no plan; the message names each field that is wrong."""


def parse(text: str) -> Plan:
    """Read a plan from TOML.

    Raises:
        InvalidPlan: The text is not TOML or not a plan.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML, or numbers and depth beyond
        raise InvalidPlan(f"not TOML: {error}") from error
    try:
        return Plan.model_validate(content)
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, fault['loc'])) or 'plan'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        ]
        raise InvalidPlan("; ".join(lines)) from error
