"""How fast each device is, and when it is there."""

import pathlib

import numpy as np
import pytest

from device_sim import trace
from device_sim.trace import Group, Lognormal, Profile, Trace

HOUR = 3600.0
SHIPPED = pathlib.Path(trace.__file__).parent / "traces" / "phones.toml"


def test_devices_are_in_groups_by_their_shares_and_the_seed_says_which():
    plan = Trace(
        groups=(Group(share=0.7, slowness=1), Group(share=0.3, slowness=5, dropout=0.5))
    )

    def slow(seed: int) -> list[bool]:
        profiles = trace.profiles(plan, devices=50, seed=seed)
        assert {p.dropout for p in profiles if p.seconds_per_example == 0.05} == {0.5}
        return [profile.seconds_per_example == 0.05 for profile in profiles]

    assert sum(slow(1)) == 15
    assert slow(1) == slow(1)
    assert slow(1) != slow(2)


def test_a_lognormal_number_has_its_median_and_spread():
    plan = Trace(
        seconds_per_example=2.0,
        groups=(Group(slowness=Lognormal(median=3.0, sigma=0.5)),),
    )
    logs = np.log(
        [p.seconds_per_example for p in trace.profiles(plan, devices=2000, seed=0)]
    )
    assert np.median(logs) == pytest.approx(np.log(6.0), abs=0.05)
    assert logs.std() == pytest.approx(0.5, rel=0.05)


def test_a_device_keeps_its_numbers_when_more_devices_come():
    plan = Trace(groups=(Group(slowness=Lognormal(median=3.0, sigma=0.5)),))
    few = trace.profiles(plan, devices=3, seed=0)
    assert trace.profiles(plan, devices=9, seed=0)[:3] == few


@pytest.mark.parametrize(
    ("windows", "starts_at", "now", "expected"),
    [
        ((), 0, 5.0, 5.0),
        (((9, 17),), 0, 8 * HOUR, 9 * HOUR),
        (((9, 17),), 0, 9 * HOUR, 9 * HOUR),
        (((9, 17),), 0, 17 * HOUR, 33 * HOUR),
        (((22, 7),), 0, 3 * HOUR, 3 * HOUR),
        (((22, 7),), 0, 8 * HOUR, 22 * HOUR),
        (((22, 7),), 12, 0.0, 10 * HOUR),
        (((9, 10), (20, 21)), 0, 34.5 * HOUR, 44 * HOUR),
        (((6, 6),), 0, 1.0, 1.0),
    ],
)
def test_a_device_checks_in_within_its_windows(
    windows: tuple[tuple[int, int], ...], starts_at: int, now: float, expected: float
):
    profile = Profile(
        seconds_per_example=1,
        down_bytes_per_s=1,
        up_bytes_per_s=1,
        dropout=0,
        windows=tuple((start * HOUR, end * HOUR) for start, end in windows),
        starts_at_s=starts_at * HOUR,
    )
    assert profile.next_available(now) == pytest.approx(expected)


def test_a_window_is_read_from_its_text():
    plan = trace.parse_trace(
        'starts_at = "12:30"\n[[groups]]\navailable = ["22:15-07:00"]\n'
    )
    (profile,) = trace.profiles(plan, devices=1, seed=0)
    assert profile.windows == ((22.25 * HOUR, 7 * HOUR),)
    assert profile.next_available(0.0) == pytest.approx(9.75 * HOUR)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[groups]", "not TOML"),
        ("speed = 1", "speed: Extra inputs"),
        ("[[groups]]\nshare = 0.4", "must add up to 1, got 0.4"),
        ("[[groups]]\nslowness = 0", "groups.0.slowness"),
        ("[[groups]]\nslowness = { median = 1, sigma = -1 }", "sigma"),
        ("[[groups]]\ndropout = 1.0", "groups.0.dropout"),
        ('[[groups]]\navailable = ["9-17"]', "groups.0.available.0"),
        ('starts_at = "24:00"', "starts_at"),
        ("seconds_per_example = " + "1" * 5000, "not TOML"),
        ("groups = " + "[" * 3000 + "]" * 3000, "not TOML"),
    ],
)
def test_a_wrong_trace_is_refused_by_field(text: str, message: str):
    with pytest.raises(trace.InvalidTrace, match=message):
        trace.parse_trace(text)


def test_the_trace_that_ships_is_one():
    assert len(trace.parse_trace(SHIPPED.read_text()).groups) == 2


PHONES = """name,slowness,up_bytes_per_s,dropout,available
pixel,0.5,2e6,0.1,
old,4,,,22:00-07:00 12:00-13:00
"""


def test_a_csv_has_a_row_for_each_phone(tmp_path: pathlib.Path):
    (tmp_path / "phones.csv").write_text(PHONES)
    plan = trace.read_trace(tmp_path / "phones.csv")
    assert plan.groups == (
        Group(name="pixel", share=0.5, slowness=0.5, up_bytes_per_s=2e6, dropout=0.1),
        Group(
            name="old",
            share=0.5,
            slowness=4,
            available=("22:00-07:00", "12:00-13:00"),
        ),
    )
    found = trace.profiles(plan, devices=40, seed=0)
    assert [p.dropout for p in found].count(0.1) == 20


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no rows"),
        ("slowness\n", "no rows"),
        ("speed\n1\n", "column 'speed'"),
        ("share\n1\n", "column 'share'"),
        ("slowness,dropout\n1,0.1\n2\n", "line 3: as many cells"),
        ("slowness\n1\n2,3\n", "line 3: as many cells"),
        ("slowness\n1\n-2\n", "line 3: slowness"),
        ("available\nalways\n", "line 2: available"),
        ('slowness\n"1\n', "not CSV"),
        ("name\nbad-\xff\n", "not UTF-8"),
    ],
)
def test_a_csv_that_is_no_trace_says_where(tmp_path: pathlib.Path, text: str, why: str):
    path = tmp_path / "phones.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(trace.InvalidTrace, match=why):
        trace.read_trace(path)
