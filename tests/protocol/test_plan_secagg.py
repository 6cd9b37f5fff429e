"""Plans of secure aggregation: what cannot keep the promise is refused, saying why."""

import re

import pytest

from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.plans import InvalidPlan, parse

SECAGG = "[secagg]\nclip_norm = 1.0\n"
PRIVACY = "[privacy]\npopulation = 1000\ndelta = 1e-6\n"


def test_the_table_turns_it_on() -> None:
    plan = parse(SECAGG)
    assert plan.secagg == SecAggPlan(clip_norm=1.0)
    assert parse("").secagg is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[secagg]", "secagg needs a clip_norm, or privacy with one"),
        (SECAGG + PRIVACY, "secagg takes no clip_norm beside privacy, got 1.0"),
        (
            SECAGG + '[aggregation]\nrule = "krum"\nbyzantine = 2',
            "secagg takes rule mean alone, got krum: it compares updates",
        ),
        (SECAGG + "[aggregation]\nmax_norm = 1.0", "secagg takes no max_norm"),
        (SECAGG + "[aggregation]\nclip_quantile = 0.5", "clip_quantile or zero"),
        (SECAGG + "[asynchronous]", "secagg takes no asynchronous rounds"),
        (SECAGG + '[update]\nencoding = "q8"', "takes no update.encoding, got q8"),
        (
            SECAGG + "[evaluation]\npersonalize_epochs = 1",
            "takes no evaluation.personalize_epochs, got 1",
        ),
        (
            "[secagg]\n" + PRIVACY + "clip_quantile = 0.5",
            "secagg takes no privacy.clip_quantile",
        ),
        (
            "[secagg]\n"
            + PRIVACY
            + 'sampling = "poisson"\nsampling_rate = 0.1\n[round]\nminimum = 5',
            "secagg takes no privacy.sampling poisson",
        ),
        (
            SECAGG + "[round]\nminimum = 4",
            "round.minimum must be at least secagg.cohort_minimum 5, got 4",
        ),
        (
            SECAGG + "dropout = 0.45\ncollusion = 0.3",
            "cohort of 25 devices: of 25 devices, 16 neighbours must stay",
        ),
        (
            SECAGG + "cohort_size = 8\ncohort_minimum = 7",
            "round.minimum 25 makes a cohort of 6 devices, secagg.cohort_minimum is 7",
        ),
        (
            SECAGG + "cohort_size = 5\ncohort_minimum = 6",
            "cohort_minimum must be at most cohort_size 5, got 6",
        ),
        (
            PRIVACY + 'mechanism = "distributed_gaussian"',
            "distributed_gaussian needs secagg: what one device adds",
        ),
        (
            "[secagg]\ncohort_minimum = 5\ncollusion = 0.1\n"
            + PRIVACY
            + 'mechanism = "distributed_gaussian"',
            "of 5 it may be 0, at a collusion of 0.1 among 50",
        ),
        (
            "[secagg]\n"
            + PRIVACY
            + 'mechanism = "distributed_gaussian"\nclip_quantile = 0.5',
            "distributed_gaussian takes no clip_quantile: devices add noise before",
        ),
        (
            "[secagg]\n"
            + PRIVACY
            + 'mechanism = "distributed_gaussian"\n'
            + 'sampling = "poisson"\nsampling_rate = 0.1',
            "distributed_gaussian takes no sampling: the coordinator knows who",
        ),
        (
            SECAGG + "[evaluation]\nminimum = 1",
            "evaluation.minimum must be at least secagg.cohort_minimum 5, got 1",
        ),
    ],
)
def test_what_cannot_hold_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidPlan, match=re.escape(message)):
        parse(text)


def test_it_goes_with_noise() -> None:
    plan = parse("[secagg]\n" + PRIVACY)
    assert plan.privacy is not None
    assert plan.secagg is not None


@pytest.mark.parametrize(
    ("joined", "sizes"),
    [
        (5, [5]),
        (200, [200]),
        (201, [101, 100]),
        (1000, [200] * 5),
        (1001, [167] * 5 + [166]),
    ],
)
def test_cohorts_are_of_equal_size(joined: int, sizes: list[int]) -> None:
    assert SecAggPlan(clip_norm=1.0).sizes(joined) == sizes
