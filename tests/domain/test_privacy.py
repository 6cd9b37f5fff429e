"""Keys, coins and prices of tasks under differential privacy."""

import math

import numpy as np
import pytest

from coordinator.domain import privacy, tasks
from coordinator.domain.privacy import AdaptiveClip, RoundKeys, Terms
from coordinator.protocol.plans import Plan

SECRET = bytes(range(32))
DEVICES = [f"device-{number}" for number in range(1000)]


@pytest.mark.parametrize(
    ("limits", "releases", "most"),
    [
        ({}, 7, 7),
        ({"max_rounds": 3}, 2, 2),
        ({"max_rounds": 3}, 7, 3),
        ({"min_separation": 5}, 5, 1),
        ({"min_separation": 5}, 6, 2),
        ({"min_separation": 67}, 100, 2),
        ({"min_separation": 33}, 500, 16),
        ({"min_separation": 5, "max_rounds": 1}, 100, 1),
        ({"min_separation": 5}, 0, 0),
    ],
)
def test_participations_follow_from_the_limits(
    limits: dict[str, int], releases: int, most: int
) -> None:
    terms = Terms(noise_multiplier=1.0, delta=1e-5, population=10, **limits)

    assert terms.participations(releases) == most


def test_no_round_and_no_purpose_shares_a_key_with_another() -> None:
    keys = {
        RoundKeys(secret, round_id).key(purpose, index)
        for secret in (SECRET, bytes(32))
        for round_id in (1, 2, 11)
        for purpose in ("noise", "count", "rounding", "coins")
        for index in (0, 1, 2)
    }

    assert len(keys) == 2 * 3 * 4 * 3
    assert {len(key) for key in keys} == {32}
    again = RoundKeys(SECRET, 1).key("noise")
    assert again == RoundKeys(SECRET, 1).key("noise")
    assert again in keys


def chosen(round_id: int, *, rate: float = 0.05, cap: int = 75) -> list[str]:
    return privacy.choose(RoundKeys(SECRET, round_id), DEVICES, rate=rate, cap=cap)


def test_each_device_is_chosen_as_often_as_the_coin_says() -> None:
    rounds = [chosen(round_id, cap=1000) for round_id in range(400)]

    # binomial: 20000 of 400000 with deviation 138; 20 a device with deviation 4.36
    assert sum(map(len, rounds)) == pytest.approx(20_000, abs=4 * 138)
    times = np.array(
        [sum(device in each for each in rounds) for device in DEVICES[:50]]
    )
    assert times.min() > 20 - 5 * 4.36
    assert times.max() < 20 + 5 * 4.36
    assert np.std([len(each) for each in rounds]) == pytest.approx(6.9, abs=1.2)


def test_the_same_round_chooses_the_same_devices_again() -> None:
    assert chosen(7) == chosen(7)
    assert chosen(7) != chosen(8)
    assert len(set(chosen(7))) == len(chosen(7))


def test_what_is_above_the_cap_is_cut_at_random() -> None:
    times = np.zeros(len(DEVICES))
    for round_id in range(300):
        heads = chosen(round_id, rate=0.5, cap=1000)
        kept = chosen(round_id, rate=0.5, cap=100)
        assert len(kept) == 100
        assert set(kept) <= set(heads)
        times[[DEVICES.index(device) for device in kept]] += 1

    # Who enrolled first is cut as often as who enrolled last: 30000 places, by halves.
    assert times[:500].sum() == pytest.approx(15_000, abs=5 * math.sqrt(30_000) / 2)


def test_the_noise_that_counts_cost_is_that_of_the_paper() -> None:
    # TFF's usual settings: z = 1, 50 devices a round, sigma_b = 0.05 * 50
    assert privacy.vector_noise_multiplier(1.0, 2.5) == pytest.approx(1.0206, abs=5e-5)


def test_the_clip_norm_follows_the_counts() -> None:
    adaptive = AdaptiveClip(quantile=0.5, rate=0.2, stddev=5.0)

    assert adaptive.next_norm(2.0, 50, 50) == pytest.approx(2 * math.exp(-0.1))
    assert adaptive.next_norm(2.0, -50, 50) == pytest.approx(2 * math.exp(0.1))
    assert adaptive.next_norm(2.0, 0, 50) == pytest.approx(2.0)
    assert adaptive.next_norm(1e-6, 1000, 50) == 1e-6
    assert adaptive.next_norm(1e6, -1000, 50) == 1e6


def plan(**privacy_: object) -> Plan:
    return Plan.model_validate(
        {
            "round": {"goal": 50, "minimum": 10},
            "privacy": {"population": 1000, "delta": 1e-4, **privacy_},
        }
    )


def test_a_plan_says_how_its_rounds_are_folded() -> None:
    settings = plan(clip_quantile=0.4, noise_multiplier=1.5, clip_norm=0.3)
    assert settings.privacy is not None

    fold = privacy.fold_of_round(
        settings, settings.privacy, SECRET, round_id=9, released=[3, 5]
    )

    assert (fold.clip_norm, fold.denominator, fold.bands) == (0.3, 50, 1)
    assert fold.noise_multiplier == pytest.approx((1.5**-2 - 5.0**-2) ** -0.5)
    assert fold.adaptive == AdaptiveClip(quantile=0.4, rate=0.2, stddev=5.0)
    assert fold.keys.key("noise") == RoundKeys(SECRET, 9).key("noise")
    assert fold.past == ()


def test_noise_that_is_taken_back_needs_the_keys_of_all_before() -> None:
    settings = Plan.model_validate(
        {
            "participation": {"min_separation": 8},
            "privacy": {
                "population": 1000,
                "delta": 1e-4,
                "mechanism": "central_bsr",
            },
        }
    )
    assert settings.privacy is not None

    fold = privacy.fold_of_round(
        settings, settings.privacy, SECRET, round_id=9, released=[3, 5]
    )

    assert fold.bands == 8
    assert fold.past == tuple(RoundKeys(SECRET, each).key("noise") for each in (3, 5))


def test_coins_take_the_place_of_the_goal() -> None:
    by_coin = tasks.training_policy(plan(sampling="poisson", sampling_rate=0.05))
    by_arrival = tasks.training_policy(plan())

    assert (by_coin.goal, by_coin.places, by_coin.sampling_rate) == (75, 75, 0.05)
    assert by_coin.chooses_in_secret
    assert (by_arrival.goal, by_arrival.sampling_rate) == (50, None)
    assert not by_arrival.chooses_in_secret


def test_the_price_follows_from_the_plan() -> None:
    settings = plan(sampling="poisson", sampling_rate=0.05, noise_multiplier=0.7)
    assert settings.privacy is not None

    assert privacy.terms(settings, settings.privacy) == Terms(
        noise_multiplier=0.7,
        delta=1e-4,
        sampling_rate=0.05,
        cap=75,
        population=1000,
    )
