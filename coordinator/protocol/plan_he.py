"""The table of a plan on homomorphic encryption: sums that nobody sees the parts of."""

from pydantic import Field

from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.he.parameters import MAX_DEVICES
from coordinator.protocol.manifest import Request
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan, RoundPlan
from coordinator.protocol.plan_server import AggregationPlan
from coordinator.protocol.plan_sums import insist_summable
from coordinator.protocol.plan_training import UpdatePlan


class HePlan(Request):
    """Homomorphic encryption: the coordinator adds up what it cannot read.

    Devices encrypt what they trained with the key of their round. A key authority, in
    other hands, decrypts one blinded sum of each round, if enough devices signed.
    Devices that vanish cost nothing. An update is four times as large as in the clear.
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
    minimum: int = Field(
        2,
        ge=2,
        le=MAX_DEVICES,
        description="Fewest devices whose sum the authority decrypts.",
    )

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
            "he",
            self.clip_norm,
            aggregation=aggregation,
            update=update,
            evaluation=evaluation,
            privacy=privacy,
        )
        if privacy is not None and privacy.mechanism != "central_gaussian":
            raise ValueError(
                f"he takes privacy.mechanism central_gaussian alone, got "
                f"{privacy.mechanism}: the authority adds each round's noise, and "
                "knows of no other"
            )

    def insist_rounds(
        self, round_: RoundPlan, evaluation: EvaluationPlan | None
    ) -> None:
        """Check that rounds close with as many as the authority wants.

        Raises:
            ValueError: They may close with fewer.
        """
        least = {"round.minimum": round_.minimum}
        if evaluation is not None:
            least["evaluation.minimum"] = evaluation.minimum
        for name, minimum in least.items():
            if minimum < self.minimum:
                raise ValueError(
                    f"{name} must be at least he.minimum {self.minimum}, got {minimum}"
                )
