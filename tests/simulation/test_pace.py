"""A million virtual devices are steered by the calendar that the route asks."""

import pytest

from benchmarks import pace

SCENARIOS = pace.scenarios(1_000_000, 1000.0)


@pytest.mark.parametrize("name", ["all at once", "a third is lost"])
def test_the_rate_is_within_a_fifth_of_the_target_and_has_no_peak(name: str) -> None:
    insist_steady(SCENARIOS[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "all within a minute",
        "steady",
        "grows tenfold",
        "a tenth misses",
        "outage of an hour",
        "restart",
    ],
)
def test_it_settles_from_other_beginnings(name: str) -> None:
    insist_steady(SCENARIOS[name])


@pytest.mark.slow
def test_day_and_night_the_rate_stays() -> None:
    insist_steady(pace.scenarios(200_000, 50.0)["day and night"])


def insist_steady(scenario: pace.Scenario) -> None:
    seen = pace.measure(scenario)

    assert 0.8 <= seen.quietest_minute <= seen.mean <= seen.busiest_minute <= 1.2
    assert seen.busiest_second <= 2 * seen.mean
    # While it settles, nobody whom the coordinator asked comes in a herd.
    assert seen.busiest_minute_before <= 2
