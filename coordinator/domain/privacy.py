"""What one device can lose by a task: mechanism, keys, coins, and the ledger.

A task under differential privacy has one secret. Keys for the noise, the rounding and
the coins of a round are made from it and the round's id, so that a round that is folded
again, because its worker died, gives the same bytes: one set of updates has one noise,
and different sets have different noise. The secret goes when the task has ended.
"""

import dataclasses
import datetime as dt
import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from coordinator.domain.errors import UnsuitablePlan
from coordinator.protocol import fixed_point
from coordinator.protocol.keystream import KEY_BYTES, Keystream
from coordinator.protocol.plan_privacy import Mechanism, PrivacyPlan
from coordinator.protocol.plans import Plan

BITS: Final = 24  #: clip_norm is 2**24 in the sum's units: rounding adds 0.01 % at most
_LEAST_CLIP: Final = 1e-6
_MOST_CLIP: Final = 1e6

#: Who adds it: to the sum of all, to what each adds to a sum, or to each update.
NoiseFrom = Literal["worker", "cohorts", "devices", "authority"]
_NOISE_FROM: Final[Mapping[str, NoiseFrom]] = {
    "distributed_gaussian": "cohorts",
    "local_gaussian": "devices",
}
Purpose = Literal["noise", "count", "rounding", "coins"]


class BudgetSpent(Exception):
    """The next release would pass the task's budget. The message gives both."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What decides how much a number of releases costs."""

    noise_multiplier: float
    delta: float
    sampling_rate: float | None = None  #: of the coins; none: no claim of chance
    cap: int | None = None  #: most devices that coins choose
    population: int
    max_rounds: int | None = None  #: releases that one device takes part in at most
    min_separation: int | None = None

    def participations(self, releases: int) -> int:
        """Return in how many of ``releases`` one device's updates may be."""
        most = releases
        if self.max_rounds is not None:
            most = min(most, self.max_rounds)
        if self.min_separation is not None:
            most = min(most, math.ceil(releases / self.min_separation))
        return most


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClip:
    """How a clip norm follows a quantile of the updates' lengths, told by noise."""

    quantile: float
    rate: float
    stddev: float  #: of the noise in the count of short updates, each counting 1

    def next_norm(self, norm: float, surplus: int, goal: int) -> float:
        """Return the next round's clip norm.

        Args:
            norm: This round's.
            surplus: Short updates less long ones, with noise.
            goal: The fixed number that stands for how many came.

        Source: Andrew et al. 2021, section 2.1.
        """
        below = 0.5 + surplus / (2 * goal)
        grown = norm * math.exp(self.rate * (self.quantile - below))
        return min(max(grown, _LEAST_CLIP), _MOST_CLIP)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFold:
    """How a round's updates become one noisy aggregate."""

    clip_norm: float  #: of the task's first round
    noise_multiplier: float  #: of the vector
    denominator: int
    keys: "RoundKeys"
    adaptive: AdaptiveClip | None = None
    bands: int = 1  #: over which noise is taken back; 1: it is independent
    noise_from: NoiseFrom = "worker"
    past: tuple[bytes, ...] = ()  #: noise keys of all releases before; bands above 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One entry of the ledger: a release, and what all up to it cost."""

    task: str
    number: int  #: from 1
    round_id: int
    mechanism: Mechanism
    clip_norm: float
    noise_multiplier: float
    terms: Terms
    epsilon: float  #: of this and all before
    accountant: str
    released_at: dt.datetime


class RoundKeys:
    """The secret keys of one round."""

    def __init__(self, secret: bytes, round_id: int) -> None:
        """Make them from the task's secret."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"secret must be {KEY_BYTES} bytes, got {len(secret)}")
        self._secret = secret
        self._round_id = round_id

    def key(self, purpose: Purpose, index: int = 0) -> bytes:
        """Return the key of one stream, 32 bytes."""
        label = f"shoal {purpose} {self._round_id} {index}".encode()
        return hmac.digest(self._secret, label, hashlib.sha256)


def terms(plan: Plan, privacy: PrivacyPlan) -> Terms:
    """Return what decides the price of a plan's releases."""
    by_coin = privacy.sampling == "poisson"
    return Terms(
        noise_multiplier=privacy.noise_multiplier,
        delta=privacy.delta,
        sampling_rate=privacy.sampling_rate,
        cap=privacy.most_chosen if by_coin else None,
        population=privacy.population,
        max_rounds=plan.participation.max_rounds,
        min_separation=plan.participation.min_separation,
    )


def fold_of_round(
    plan: Plan,
    privacy: PrivacyPlan,
    secret: bytes,
    *,
    round_id: int,
    released: Sequence[int],
) -> PrivateFold:
    """Return how a round is folded.

    Args:
        plan: The task's.
        privacy: The plan's own.
        secret: The task's.
        round_id: The round.
        released: Ids of the rounds that the task released before, oldest first.
    """
    goal = plan.round.goal
    noise, adaptive = privacy.noise_multiplier, None
    if privacy.clip_quantile is not None:
        adaptive = AdaptiveClip(
            quantile=privacy.clip_quantile,
            rate=privacy.clip_rate,
            stddev=2 * privacy.count_stddev(goal),
        )
        noise = vector_noise_multiplier(noise, privacy.count_stddev(goal))
    bands = privacy.bands if privacy.mechanism == "central_bsr" else 1
    return PrivateFold(
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise,
        denominator=goal,
        keys=RoundKeys(secret, round_id),
        adaptive=adaptive,
        bands=bands,
        noise_from=(
            "authority"
            if plan.he is not None
            else _NOISE_FROM.get(privacy.mechanism, "worker")
        ),
        past=tuple(
            RoundKeys(secret, each).key("noise")
            for each in (released if bands > 1 else ())
        ),
    )


def sum_stddev(privacy: PrivacyPlan, bits: int, size: int) -> float:
    """Return the standard deviation of all noise in a sum, in whole numbers.

    Args:
        privacy: The plan's.
        bits: ``clip_norm`` is ``2**bits`` in the vector.
        size: Elements of an update.
    """
    return privacy.noise_multiplier * fixed_point.longest(bits, size)


def device_stddev(privacy: PrivacyPlan, bits: int, size: int, *, honest: int) -> float:
    """Return the standard deviation of the noise that each device adds; 0: none.

    As many devices as are honest in any sum add all of the noise that is promised;
    whoever else is in it adds more.

    Args:
        privacy: The plan's.
        bits: ``clip_norm`` is ``2**bits`` in the vector.
        size: Elements of an update.
        honest: Devices of a sum that do not collude, at least.

    Source: Kairouz, Liu and Steinke 2021, theorem 1 and section 4.4; with deviations
        above 40 a sum of discrete Gaussians is one to within 1e-1000.
    """
    if privacy.mechanism != "distributed_gaussian":
        return 0.0
    return sum_stddev(privacy, bits, size) / math.sqrt(honest)


def insist_candidates(plan: Plan, enrolled: int) -> None:
    """Check that coins have enough devices to choose among when a task begins.

    Raises:
        UnsuitablePlan: Fewer than the round's minimum would be chosen, on average.
    """
    privacy = plan.privacy
    if privacy is None or privacy.sampling_rate is None:
        return
    expected = privacy.sampling_rate * enrolled
    if expected < plan.round.minimum:
        raise UnsuitablePlan(
            f"of {enrolled} enrolled devices coins choose {expected:.4g} on average, "
            f"round.minimum is {plan.round.minimum}: let devices enrol first"
        )


def vector_noise_multiplier(noise_multiplier: float, count_stddev: float) -> float:
    """Return the noise of the vector with which vector and count cost what they may.

    A count of halves, noised with ``count_stddev``, is half a unit of sensitivity.

    Source: Andrew et al. 2021, theorem 1: z_delta.
    """
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * count_stddev) ** -2)


def choose(
    keys: RoundKeys, devices: Sequence[str], *, rate: float, cap: int
) -> list[str]:
    """Flip a secret coin for each device; cut at random what is above the cap.

    The same keys and devices give the same list.
    """
    stream = Keystream(keys.key("coins"))
    coins = stream.uniforms(len(devices))
    heads = [device for device, coin in zip(devices, coins, strict=True) if coin < rate]
    if len(heads) <= cap:
        return heads
    lots = stream.words(len(heads))  # 64 bits: two alike never come up
    drawn = sorted(range(len(heads)), key=lambda place: int(lots[place]))[:cap]
    return [heads[place] for place in sorted(drawn)]
