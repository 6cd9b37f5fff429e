"""Who is whose neighbour."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.secagg import graph

ROSTER = "5a" * 32


@given(devices=st.integers(3, 60), half=st.integers(1, 29), seed=st.binary(max_size=4))
def test_the_graph_is_regular_and_mutual(devices: int, half: int, seed: bytes) -> None:
    degree = min(2 * half, devices - 1)
    roster = hashlib.sha256(seed).hexdigest()
    around = graph.neighbours(roster, devices, degree)
    assert len(around) == devices
    for index, others in enumerate(around):
        assert len({*others}) == len(others) == degree
        assert list(others) == sorted(others)
        assert index not in others
        assert all(index in around[other] for other in others)


def test_all_are_in_one_piece() -> None:
    around = graph.neighbours(ROSTER, 60, 4)
    reached, new = {0}, {0}
    while new:
        new = {other for index in new for other in around[index]} - reached
        reached |= new
    assert len(reached) == 60


def test_another_list_of_keys_gives_another_graph() -> None:
    one = graph.neighbours(ROSTER, 60, 4)
    other = graph.neighbours("5b" * 32, 60, 4)
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 5


def test_every_pair_is_as_likely() -> None:
    """20,000 graphs of 7: each pair should be neighbours in 2/6 of them."""
    counts = [0] * 7
    for number in range(20_000):
        roster = hashlib.sha256(number.to_bytes(4, "big")).hexdigest()
        for other in graph.neighbours.__wrapped__(roster, 7, 2)[3]:
            counts[other] += 1
    assert counts[3] == 0
    for count in counts[:3] + counts[4:]:
        assert abs(count / 20_000 - 1 / 3) < 0.02


@pytest.mark.parametrize(("devices", "degree"), [(10, 3), (10, 10), (10, 0), (9, 11)])
def test_no_graph_has_an_odd_or_an_impossible_degree(devices: int, degree: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        graph.neighbours(ROSTER, devices, degree)
