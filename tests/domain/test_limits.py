"""Rates by key, and whom an address counts for."""

import pytest

from coordinator.domain import limits
from coordinator.domain.limits import Rates, origin


def taken(rates: Rates, key: str, now: float, tries: int) -> int:
    return sum(rates.take(key, now) for _ in range(tries))


def test_ten_seconds_worth_may_come_at_once_and_then_the_rate() -> None:
    rates = Rates(4.0)

    assert taken(rates, "ann", 100.0, 100) == 40
    assert taken(rates, "ann", 100.25, 5) == 1
    assert taken(rates, "ann", 101.25, 50) == 4
    assert taken(rates, "ann", 1000.0, 100) == 40


def test_a_rate_below_one_in_ten_seconds_lets_one_through_now_and_then() -> None:
    rates = Rates(0.05)

    assert [rates.take("ann", float(now)) for now in (0, 10, 19, 20, 30)] == [
        *[True, False, False, True, False]
    ]


def test_refused_tries_cost_nothing_and_keys_do_not_mind_each_other() -> None:
    rates = Rates(1.0)
    assert taken(rates, "ann", 0.0, 1000) == 10

    assert taken(rates, "bob", 0.0, 1000) == 10
    assert taken(rates, "ann", 1.0, 1000) == 1


def test_who_was_here_longest_ago_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_MOST_KEYS", 2)
    rates = Rates(1.0)
    for key in ("ann", "bob", "ann", "eve"):
        taken(rates, key, 0.0, 9)

    assert len(rates._full_at) == 2
    assert taken(rates, "ann", 0.0, 10) == 0
    assert taken(rates, "bob", 0.0, 10) == 10


@pytest.mark.parametrize(
    ("host", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("2001:db8:1:2::", "20010db800010002"),
        ("2001:db8:1:3::1", "20010db800010003"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("no:address", "no:address"),
        ("", ""),
    ],
)
def test_an_address_counts_for_its_network(host: str, counts_as: str) -> None:
    assert origin(host) == counts_as
