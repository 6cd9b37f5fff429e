"""Degree and threshold: the published table, and what cannot be kept."""

import itertools
import math

import pytest

from coordinator.protocol.secagg import parameters
from coordinator.protocol.secagg.parameters import Parameters
from coordinator.protocol.secagg.refusals import UnsuitableCohort

RATES = [(0.05, 0.1), (0.1, 0.1), (0.05, 0.3), (0.1, 0.3)]  # collusion, dropout
#: Degree and threshold at these rates, by the number of devices. As Google's
#: graph_parameter_finder gives them for semi-malicious coordinators.
TABLE = {
    10: [(4, 3), (4, 3), (8, 5), (8, 5)],
    20: [(6, 4), (8, 6), (14, 8), (16, 10)],
    50: [(14, 9), (16, 11), (34, 19), (36, 21)],
    100: [(26, 16), (32, 22), (66, 36), (72, 42)],
    200: [(42, 27), (56, 39), (116, 64), (134, 78)],
    500: [(66, 44), (82, 57), (212, 119), (276, 164)],
    1000: [(78, 52), (96, 67), (314, 179), (414, 247)],
}


@pytest.mark.parametrize("devices", TABLE)
def test_the_smallest_graph_is_the_tables(devices: int) -> None:
    found = [
        parameters.smallest(devices, dropout=dropout, collusion=collusion)
        for collusion, dropout in RATES
    ]
    assert found == [Parameters(degree=k, threshold=t) for k, t in TABLE[devices]]


@pytest.mark.parametrize(
    ("devices", "collusion", "threshold"),
    [
        (5, 0.0, 3),
        (5, 0.1, 3),
        (10, 0.0, 5),
        (10, 1 / 3, 7),
        (29, 0.1, 16),
        (29, 0, 15),
    ],
)
def test_a_small_cohort_is_complete(
    devices: int, collusion: float, threshold: int
) -> None:
    chosen = parameters.choose(devices, dropout=0.1, collusion=collusion)
    assert chosen == Parameters(degree=devices - 1, threshold=threshold)


def test_a_larger_cohort_is_sparse_where_that_keeps_the_promise() -> None:
    assert parameters.choose(100, dropout=0.1, collusion=0.1) == Parameters(
        degree=32, threshold=22
    )
    # No sparse graph of 30 bears these, but the complete one does.
    assert parameters.smallest(30, dropout=0.38, collusion=0.2) is None
    assert parameters.choose(30, dropout=0.38, collusion=0.2) == Parameters(
        degree=29, threshold=18
    )


def test_all_nine_that_collude_may_be_among_29_neighbours() -> None:
    # 20 honest ones give one share, 9 give two: 38, of which 20 and 20 are not had.
    assert parameters.least_threshold(30, 29, collusion=0.3) == 20


@pytest.mark.parametrize("devices", [5, 8, 13, 29, 30, 47, 100, 200])
def test_thresholds_exceed_what_two_stories_and_colluders_give(devices: int) -> None:
    for collusion, dropout in itertools.product((0, 0.05, 0.1, 0.2), (0, 0.1, 0.2)):
        chosen = parameters.choose(devices, dropout=dropout, collusion=collusion)
        assert chosen.threshold <= chosen.degree < devices
        # Of each device's neighbours, honest ones give one share, others two.
        expected = math.floor(collusion * devices) * chosen.degree / (devices - 1)
        assert 2 * chosen.threshold > chosen.degree + expected


@pytest.mark.parametrize(
    ("devices", "dropout", "collusion", "words"),
    [
        (4, 0.0, 0.0, "5 to 200 devices, got 4"),
        (201, 0.0, 0.0, "5 to 200 devices, got 201"),
        (20, -0.1, 0.0, "dropout must lie in"),
        (20, 0.1, 1.0, "collusion must lie in"),
        (20, math.nan, 0.1, "dropout must lie in"),
        (20, 0.4, 0.2, "of 20 devices, 12 neighbours must stay"),
        (100, 0.5, 0.1, "of 100 devices, 55 neighbours must stay"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(
    devices: int, dropout: float, collusion: float, words: str
) -> None:
    with pytest.raises(UnsuitableCohort, match=words):
        parameters.choose(devices, dropout=dropout, collusion=collusion)


def test_a_sparse_graph_holds_together_or_is_refused() -> None:
    assert parameters.is_connected(100, 32, lost=20)
    assert not parameters.is_connected(100, 4, lost=20)
    assert parameters.is_connected(100, 4, lost=3)
