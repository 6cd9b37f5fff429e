"""The table of a plan on differential privacy: what is promised, and by which noise."""

import math
from typing import Final, Literal, Self, TypeAlias

import pydantic
from pydantic import Field

from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.manifest import Request
from coordinator.protocol.plan_checks import refuse_set
from coordinator.protocol.plan_rounds import ParticipationPlan, RoundPlan
from coordinator.protocol.plan_server import AggregationPlan, GatePlan

Mechanism: TypeAlias = Literal[
    "central_gaussian", "central_bsr", "distributed_gaussian", "local_gaussian"
]
_MOST_CHOSEN: Final = 100_000
MAX_BSR_ROUNDS: Final = 2000  # a worker that starts draws the noise of all before


class PrivacyPlan(Request):
    """Differential privacy of one enrolled device, in every version of the task.

    The coordinator clips each update, adds the clipped ones up as whole numbers, adds
    noise and divides by ``round.goal``, however many came: no device weighs more than
    another. It sees the updates, and is trusted to do so. Or devices clip and add a
    part of the noise each, and secure aggregation hides all but noisy sums from it.

    Source: McMahan et al. 2018, "Learning Differentially Private Recurrent Language
        Models"; Kairouz et al. 2021, "Practical and Private (Deep) Learning Without
        Sampling or Shuffling"; Andrew et al. 2021 for ``clip_quantile``; Kairouz, Liu
        and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated
        Learning with Secure Aggregation".
    """

    mechanism: Mechanism = Field(
        "central_gaussian",
        description="`central_gaussian`: independent noise in every round; "
        "`central_bsr`: noise that later rounds partly take back (DP-FTRL, banded "
        "square root), for devices that rest between rounds; `distributed_gaussian`: "
        "noise of the devices themselves, under `secagg`, so that the coordinator sees "
        "noisy sums alone; `local_gaussian`: all of the noise in each update, so that "
        "nobody is trusted and little is learnt.",
    )
    population: int = Field(
        ge=2,
        le=10_000_000,
        description="Devices among which one hides. With `poisson`, so many take part "
        "at most: those who enrolled first.",
    )
    epsilon: float = Field(
        8.0,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="The budget: a release that would pass it does not happen.",
    )
    delta: float = Field(
        ge=1e-15,
        lt=1,
        allow_inf_nan=False,
        description="Chance with which epsilon may not hold; below 1 / `population`.",
    )
    noise_multiplier: float = Field(
        1.0,
        ge=0.01,
        le=1000,
        allow_inf_nan=False,
        description="Standard deviation of the noise in the sum, as a multiple of what "
        "one device can change of it.",
    )
    clip_norm: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        allow_inf_nan=False,
        description="Longest an update may be (L2); a longer one is scaled down to it. "
        "With `clip_quantile`, that of the first round.",
    )
    clip_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Adaptive clipping: the length follows this quantile of the "
        "updates' lengths, as noisy counts tell it.",
    )
    clip_rate: float = Field(
        0.2,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="How fast that length follows: its logarithm's step a round.",
    )
    count_noise: float = Field(
        0.05,
        ge=1e-3,
        le=10,
        allow_inf_nan=False,
        description="Standard deviation of the noise in those counts, as a share of "
        "`round.goal`; it costs `noise_multiplier` a little.",
    )
    sampling: Literal["none", "poisson"] = Field(
        "none",
        description="`none`: whoever comes first, and no claim is made of chance; "
        "`poisson`: a secret coin for each device and round, which makes epsilon much "
        "smaller as long as nobody learns who took part.",
    )
    sampling_rate: float | None = Field(
        None,
        ge=1e-5,
        lt=1,
        allow_inf_nan=False,
        description="`poisson`: chance of a device to be chosen for a round.",
    )
    cap: int | None = Field(
        None,
        ge=1,
        le=_MOST_CHOSEN,
        description="`poisson`: most devices chosen for a round; more are cut at "
        "random. Absent: half as many again as are expected.",
    )
    bands: int = Field(
        8,
        ge=2,
        le=256,
        description="`central_bsr`: rounds over which noise is taken back; at most "
        "`participation.min_separation`.",
    )

    @property
    def expected(self) -> float:
        """Devices that coins choose for a round, on average."""
        return (self.sampling_rate or 0.0) * self.population

    @property
    def most_chosen(self) -> int:
        """Most devices that coins may choose for a round."""
        usual = math.ceil(round(1.5 * self.expected, 9))
        return self.cap or min(usual, self.population, _MOST_CHOSEN)

    def count_stddev(self, goal: int) -> float:
        """Return the noise's standard deviation in a count of short updates."""
        return self.count_noise * goal

    @pydantic.model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.delta >= 1 / self.population:
            raise ValueError(
                f"delta must be below 1 / population, {1 / self.population:.3g}, got "
                f"{self.delta}: else a promise that gives one device away whole holds"
            )
        if self.clip_quantile is None:
            refuse_set(
                self, {"clip_rate", "count_noise"}, "a plan without clip_quantile"
            )
        if self.mechanism != "central_bsr":
            refuse_set(self, {"bands"}, self.mechanism)
        if self.sampling == "none":
            refuse_set(self, {"sampling_rate", "cap"}, "sampling none")
        elif self.sampling_rate is None:
            raise ValueError("sampling poisson needs a sampling_rate")
        if self.mechanism == "central_bsr":
            self._insist_one_measure(
                "its noise spans rounds, for which coins promise nothing",
                "noise that is taken back later must be measured by one clip_norm",
            )
        if self.mechanism == "distributed_gaussian":
            self._insist_one_measure(
                "the coordinator knows who takes part, so coins promise nothing",
                "devices add noise before anybody knows how long updates are",
            )
        if self.sampling == "none" and self._delta_of_one() > self.delta:
            raise ValueError(
                f"noise_multiplier {self.noise_multiplier:g} is too little: one "
                f"release would pass epsilon {self.epsilon:g} at delta {self.delta:g}"
            )
        if self.mechanism == "local_gaussian":
            self._insist_one_measure(
                "the coordinator sees every update, and who sent it",
                "devices add noise before anybody knows how long updates are",
            )
        return self

    def _delta_of_one(self) -> float:
        """Return the chance with which one release breaks ``epsilon``.

        Source: Balle and Wang 2018, "Improving the Gaussian Mechanism for Differential
            Privacy", theorem 8.
        """
        mean = 1 / self.noise_multiplier
        beyond, within = self.epsilon / mean - mean / 2, self.epsilon / mean + mean / 2
        allowed = math.exp(min(0.0, self.epsilon + _log_tail(within)))
        return math.erfc(beyond / math.sqrt(2)) / 2 - allowed

    def _insist_one_measure(self, against_coins: str, against_quantile: str) -> None:
        if self.sampling == "poisson":
            raise ValueError(f"{self.mechanism} takes no sampling: {against_coins}")
        if self.clip_quantile is not None:
            raise ValueError(
                f"{self.mechanism} takes no clip_quantile: {against_quantile}"
            )

    def insist_rounds(
        self, rounds: int, round_: RoundPlan, participation: ParticipationPlan
    ) -> None:
        """Check that the promise holds for rounds like these.

        Raises:
            ValueError: It would not.
        """
        if self.clip_quantile is not None:
            most = 2 * self.count_stddev(round_.goal)
            if self.noise_multiplier >= most:
                raise ValueError(
                    f"noise_multiplier must be below {most:g}, twice the noise of the "
                    f"counts, got {self.noise_multiplier}: raise count_noise or "
                    "round.goal"
                )
        if self.mechanism == "central_bsr":
            self._insist_separation(rounds, participation)
        if self.sampling == "poisson":
            self._insist_coins_decide(round_, participation)

    def _insist_separation(self, rounds: int, participation: ParticipationPlan) -> None:
        separation = participation.min_separation
        if separation is None or separation < self.bands:
            raise ValueError(
                f"central_bsr needs participation.min_separation of at least bands "
                f"{self.bands}, got {separation}: noise is taken back over so many "
                "rounds, in which a device must not come twice"
            )
        if rounds > MAX_BSR_ROUNDS:
            raise ValueError(
                f"central_bsr takes at most {MAX_BSR_ROUNDS} rounds, got {rounds}"
            )

    def _insist_coins_decide(
        self, round_: RoundPlan, participation: ParticipationPlan
    ) -> None:
        if participation != ParticipationPlan():
            raise ValueError(
                "sampling poisson takes no participation limits: its coins are counted "
                "as independent of each other"
            )
        if round_.over_select:
            raise ValueError(
                f"sampling poisson takes no round.over_select, got "
                f"{round_.over_select}: coins and cap say how many come"
            )
        if self.most_chosen > self.population:
            raise ValueError(
                f"cap must be at most the population {self.population}, got "
                f"{self.most_chosen}"
            )
        seldom = self.expected - 2 * math.sqrt(self.expected)
        if round_.minimum > min(seldom, self.most_chosen):
            raise ValueError(
                f"round.minimum must be at most {max(0, math.floor(seldom))} where "
                f"{self.expected:.4g} devices are expected, got {round_.minimum}: "
                "else coins alone abandon rounds"
            )

    @property
    def local_noise(self) -> LocalNoise | None:
        """What each device adds for itself; none: nothing."""
        if self.mechanism != "local_gaussian":
            return None
        return LocalNoise(
            clip_norm=self.clip_norm, noise_multiplier=self.noise_multiplier
        )

    def insist_company(
        self, aggregation: AggregationPlan, gate: GatePlan | None
    ) -> None:
        """Check what else the plan does with updates.

        Raises:
            ValueError: It would undo what is promised.
        """
        if aggregation.rule != "mean":
            raise ValueError(
                f"privacy takes rule mean alone, got {aggregation.rule}: no bound on "
                "what one device can change of its result is as small as clip_norm"
            )
        if not aggregation.is_plain:
            raise ValueError(
                "privacy takes no max_norm, clip_quantile or zero_quantile in "
                "aggregation: privacy.clip_norm clips, and bounds that follow the "
                "updates' lengths tell them"
            )
        if gate is not None and (gate.max_loss_rise or gate.max_norm_ratio):
            raise ValueError(
                "privacy takes no gate.max_loss_rise or gate.max_norm_ratio: whether a "
                "round passes them tells what nobody added noise to"
            )


def _log_tail(x: float) -> float:
    """Return the logarithm of a normal variable's chance to be above ``x`` > 0."""
    tail = math.erfc(x / math.sqrt(2)) / 2
    if tail:
        return math.log(tail)
    # Abramowitz and Stegun 1964, 26.2.12, where that is too small for a float
    return -x * x / 2 - math.log(x * math.sqrt(2 * math.pi)) - 1 / (x * x)
