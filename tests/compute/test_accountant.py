"""What releases cost, against calls of dp-accounting of our own."""

import itertools
import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from coordinator.compute import accountant
from coordinator.compute.accountant import Accountant
from coordinator.domain.privacy import Terms

POPULATION = 3383
DELTA = POPULATION**-1.1
FINER = 4e-4  # than the product's own interval
ROWS = [(m, t, z) for m in (50, 100) for t in (100, 500) for z in (0.5, 0.7, 1, 1.5, 2)]


def column(text: str) -> list[float]:
    return [float(value) for value in text.split()]


#: epsilon without sampling, as published: k = ceil(m * releases / population) and 2 k
UNSAMPLED = column("""
    13.7 8.85 5.67 3.48 2.48  35.9 22.2 13.7 8.11 5.67
    18.0 11.5 7.29 4.43 3.15  57.5 34.7 20.9 12.1 8.38
""")
TWICE = column("""
    21.9 13.9 8.73 5.28 3.73  60.4 36.4 21.9 12.7 8.73
    29.1 18.2 11.3 6.77 4.76  99.1 58.4 34.2 19.3 13.1
""")
#: and by coins that are cut at half as many again as are expected
BY_COIN = column("""
    7.46 2.59 0.81 0.35 0.22  12.9 4.95 1.74 0.80 0.53
    9.96 3.96 1.61 0.74 0.49  20.7 8.02 3.49 1.73 1.15
""")


@pytest.fixture(scope="module")
def shared() -> Accountant:
    return Accountant()


def never() -> None:
    pass


@pytest.mark.parametrize(
    ("row", "times", "published"),
    [
        (row, times, value)
        for times, values in ((1, UNSAMPLED), (2, TWICE))
        for row, value in zip(ROWS, values, strict=True)
    ],
)
def test_without_sampling_epsilon_is_that_of_one_gaussian(
    shared: Accountant, row: tuple[int, int, float], times: int, published: float
) -> None:
    m, releases, z = row
    k = times * math.ceil(m * releases / POPULATION)
    terms = Terms(noise_multiplier=z, delta=DELTA, population=POPULATION, max_rounds=k)

    epsilon = shared.epsilon(terms, releases, on_wait=never)

    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(z), k)
    independent = RdpAccountant().compose(event).get_epsilon(DELTA)
    assert epsilon < independent < 1.25 * epsilon  # a bound that is looser
    if epsilon < 10:  # the other accountant takes long for more
        independent = PLDAccountant().compose(event).get_epsilon(DELTA)
        assert epsilon == pytest.approx(independent, rel=0.01)
    assert epsilon == pytest.approx(published, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "z"), sorted({(m, z) for m, _, z in ROWS}))
def test_by_coin_epsilon_is_that_of_a_truncated_poisson_sample(
    shared: Accountant, m: int, z: float
) -> None:
    cap = 3 * m // 2
    terms = Terms(
        noise_multiplier=z,
        delta=DELTA,
        sampling_rate=m / POPULATION,
        cap=cap,
        population=POPULATION,
    )
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        dataset_size=POPULATION,
        sampling_probability=m / POPULATION,
        truncated_batch_size=cap,
        noise_multiplier=z,
    )
    plain = dp_accounting.PoissonSampledDpEvent(
        m / POPULATION, dp_accounting.GaussianDpEvent(z)
    )
    for releases in (100, 500):
        epsilon = shared.epsilon(terms, releases, on_wait=never)

        independent = PLDAccountant(
            neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL,
            value_discretization_interval=FINER,
        )
        independent.compose(event, releases)
        assert epsilon == pytest.approx(independent.get_epsilon(DELTA), rel=0.005)
        published = BY_COIN[ROWS.index((m, releases, z))]
        assert epsilon == pytest.approx(published, rel=0.01, abs=0.006)
        uncut = (
            PLDAccountant(value_discretization_interval=FINER)
            .compose(plain, releases)
            .get_epsilon(DELTA)
        )
        assert epsilon > 0.999 * uncut


def test_by_coin_epsilon_grows_with_every_release_and_is_worked_out_while_waiting() -> (
    None
):
    # So much noise that its distribution is small, and quick to work with.
    terms = Terms(
        noise_multiplier=8.0, delta=1e-5, sampling_rate=0.01, cap=30, population=1000
    )
    fresh, waits = Accountant(), []

    curve = [
        fresh.epsilon(terms, releases, on_wait=lambda: waits.append(1))
        for releases in range(40)
    ]

    assert curve[0] == 0
    assert all(less < more for less, more in itertools.pairwise(curve))
    whole = PLDAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    )
    whole.compose(
        dp_accounting.TruncatedSubsampledGaussianDpEvent(
            dataset_size=1000,
            sampling_probability=0.01,
            truncated_batch_size=30,
            noise_multiplier=8.0,
        ),
        39,
    )
    assert curve[39] == pytest.approx(whole.get_epsilon(1e-5), rel=0.01)


def test_coins_make_it_smaller_and_rest_too(shared: Accountant) -> None:
    always = Terms(noise_multiplier=8.0, delta=1e-5, population=1000)
    resting = Terms(noise_multiplier=8.0, delta=1e-5, population=1000, min_separation=5)
    by_coin = Terms(
        noise_multiplier=8.0, delta=1e-5, sampling_rate=0.01, cap=30, population=1000
    )

    first, second, third = (
        shared.epsilon(terms, 20, on_wait=never) for terms in (always, resting, by_coin)
    )

    assert first > second > third > 0


def test_the_accountant_and_its_version_are_named() -> None:
    terms = Terms(noise_multiplier=1.0, delta=1e-5, population=1000)

    assert accountant.name(terms) == "dp-accounting 0.6.0 gaussian"
