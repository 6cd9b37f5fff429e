"""Appointments, with numbers that one can redo by hand."""

import numpy as np
import pytest

from coordinator.domain.pacing import Calendar, Pace

PACE = Pace(gather_s=5.0, longest_s=100.0, most_per_s=10.0)
FEW = 1  # places wanted; 50 are reckoned with


def draws(count: int) -> np.ndarray:
    return np.random.default_rng(7).random(count)


def seconds(waits_s: np.ndarray, now_s: float) -> list[int]:
    """How many come in each second from ``now_s`` on."""
    return np.bincount(np.floor(waits_s + now_s % 1).astype(int)).tolist()


@pytest.mark.parametrize(
    ("wanted", "per_s"), [(0, 30), (50, 30), (51, 30.6), (200, 120), (1000, 400)]
)
def test_what_is_aimed_at_serves_the_places_with_some_slack(
    wanted: int, per_s: float
) -> None:
    pace = Pace(gather_s=5.0, longest_s=100.0, most_per_s=400.0)
    assert pace.target_per_s(wanted) == pytest.approx(per_s)


@pytest.mark.parametrize(
    ("now_s", "comes_at"), [(100.0, 105), (103.75, 105), (103.8, 110), (104.9, 110)]
)
def test_a_few_devices_are_asked_to_the_next_gathering(
    now_s: float, comes_at: int
) -> None:
    waits_s = Calendar(PACE).book(now_s, np.array([0.0, 0.5]), wanted=FEW)
    assert waits_s + now_s == pytest.approx([comes_at, comes_at + 0.5])


def test_processes_gather_at_the_same_moments() -> None:
    first = Calendar(PACE).book(1_000_001.0, draws(1), wanted=FEW)
    second = Calendar(PACE).book(1_000_003.0, draws(1), wanted=FEW)
    assert first - second == pytest.approx(2.0)


def test_devices_are_spread_from_the_gathering_on_in_the_order_they_came() -> None:
    calendar = Calendar(PACE)
    together = calendar.book(100.0, draws(25), wanted=FEW)
    after = calendar.book(100.0, draws(10), wanted=FEW)
    assert seconds(together, 100.0) == [0] * 5 + [10, 10, 5]
    assert seconds(after, 100.0) == [0] * 7 + [5, 5]
    assert (np.diff(np.floor(together)) >= 0).all()
    assert calendar.expected == 35


def test_one_by_one_they_are_spread_as_they_are_together() -> None:
    one_by_one, together = Calendar(PACE), Calendar(PACE)
    expected = together.book(100.0, draws(300), wanted=FEW)
    waits_s = [one_by_one.book(100.0, draw[None], wanted=FEW)[0] for draw in draws(300)]
    assert waits_s == pytest.approx(expected.tolist())


def test_less_than_one_a_second_is_aimed_at_too() -> None:
    pace = Pace(gather_s=5.0, longest_s=100.0, most_per_s=0.25)
    waits_s = Calendar(pace).book(100.0, draws(10), wanted=FEW)
    assert (np.diff(np.floor(waits_s)) == 4).all()


def test_a_fleet_too_large_for_the_longest_wait_is_spread_evenly_over_it() -> None:
    waits_s = Calendar(PACE).book(100.0, draws(100_000), wanted=FEW)
    counts = seconds(waits_s, 100.0)
    assert len(counts) == 101
    assert counts[:5] == [0] * 5
    assert max(counts) < 1.2 * np.mean(counts[5:])
    assert min(counts[5:]) > 0.8 * np.mean(counts[5:])
    assert np.mean(waits_s % 1.0) == pytest.approx(0.5, abs=0.01)  # within each, too


def test_appointments_that_are_past_leave_the_calendar() -> None:
    calendar = Calendar(PACE)
    calendar.book(100.0, draws(25), wanted=FEW)
    calendar.meet(106.5, count=0)
    assert calendar.expected == 15
    calendar.meet(1_000_000.0, count=0)
    assert calendar.expected == 0
    assert seconds(calendar.book(1_000_000.0, draws(3), wanted=FEW), 0.0)[5:] == [3]


@pytest.mark.parametrize("now_s", [400.0, 990.0])
def test_a_clock_that_is_put_back_keeps_the_appointments(now_s: float) -> None:
    calendar = Calendar(PACE)
    calendar.book(1000.0, draws(25), wanted=FEW)
    waits_s = calendar.book(now_s, draws(10), wanted=FEW)
    assert seconds(waits_s, now_s) == [0] * 7 + [5, 5]


def test_who_comes_unasked_takes_places() -> None:
    calendar = Calendar(PACE)
    for second in range(600):
        calendar.meet(float(second), count=4)
    assert calendar.came_per_s == pytest.approx(4, rel=0.02)
    waits_s = calendar.book(600.0, draws(120), wanted=FEW)
    assert seconds(waits_s, 0.0) == pytest.approx([0] * 5 + [6] * 20, abs=1)


def test_a_quarter_of_the_target_is_given_away_whoever_comes_unasked() -> None:
    calendar = Calendar(PACE)
    for second in range(600):
        calendar.meet(float(second), count=100)
    waits_s = calendar.book(600.0, draws(40), wanted=FEW)
    assert seconds(waits_s, 0.0)[5:] == pytest.approx([2.5] * 16, abs=0.5)


def test_for_those_who_will_not_come_others_are_asked_but_not_far_ahead() -> None:
    pace = Pace(gather_s=5.0, longest_s=1000.0, most_per_s=100.0)
    calendar = Calendar(pace)
    for second in range(600):
        calendar.book(float(second), draws(100), wanted=200)
        calendar.meet(float(second), count=0 if second < 5 else 80)

    fresh = calendar.book(600.0, draws(100_000), wanted=200)
    counts = np.array(seconds(fresh, 0.0))

    # 100 a second are asked already until second 605 or so, for 80 who come.
    assert counts[20:300] == pytest.approx(np.full(280, 125), abs=8)
    assert set(counts[310:800]) == {100}


def test_that_nobody_gets_through_is_not_the_devices_habit() -> None:
    calendar = Calendar(PACE)
    for second in range(600):
        calendar.book(float(second), draws(10), wanted=FEW)  # and nobody comes
    calendar.meet(700.0, count=0)
    waits_s = calendar.book(700.0, draws(40), wanted=FEW)
    assert seconds(waits_s, 0.0) == [0] * 5 + [10] * 4


def test_a_herd_counts_as_little_more_than_was_expected() -> None:
    calendar = Calendar(PACE)
    calendar.meet(0.0, count=1_000_000)
    calendar.meet(10.0, count=0)
    # Twice the target, for 10 of 120 seconds.
    assert calendar.came_per_s == pytest.approx(20 * (1 - np.exp(-10 / 120)))


@pytest.mark.parametrize("opens_at", [200.0, 202.5, 204.9])
def test_a_fleet_of_50_is_gathered_and_fills_a_round_in_eight_seconds(
    opens_at: float,
) -> None:
    """Devices that begin anywhere in a minute, and come half a second late."""
    pace = Pace(gather_s=5.0, longest_s=3600.0, most_per_s=300.0)
    calendar, rng = Calendar(pace), np.random.default_rng(3)
    due = rng.uniform(0, 60, 50)
    came_at: list[tuple[float, int]] = []
    while (now_s := float(due.min())) < 240:
        device = int(due.argmin())
        came_at.append((now_s, device))
        calendar.meet(now_s)
        wait_s = calendar.book(now_s, rng.random(1), wanted=50)[0]
        due[device] = now_s + wait_s + rng.exponential(0.5)

    first = {}
    for now_s, device in came_at:
        if now_s >= opens_at:
            first.setdefault(device, now_s)
    assert len(first) == 50
    assert max(first.values()) - opens_at <= 8
    # Nine in ten come within 3 of the 5 seconds: with one another, not one by one.
    moments = np.sort([now_s % 5 for now_s, _ in came_at if now_s >= 120])
    assert np.mean(moments < 3) > 0.9
