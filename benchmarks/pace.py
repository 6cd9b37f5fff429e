"""How a large fleet is steered: ``python -m benchmarks.pace``.

A million virtual devices on a virtual clock meet the calendar that the check-in route
asks (``domain.pacing``), second after second, from several bad beginnings. Devices do
as they are told, one second late on average; a third of the target finds work and
comes back unasked, one to five minutes later.

What is printed are check-ins/s as shares of the target, over half an hour (of day and
night: a day) after settling: the mean, the quietest and the busiest minute, the busiest
second. Settling is one turn of the fleet (devices / target) and ten minutes, from the
disturbance on: nobody who has an appointment can be told another. The floor is chance:
the busiest second of as many check-ins that know nothing of one another. The last
column is the busiest minute meanwhile, from the second one on: who comes in the first
one was not asked to.
"""

import dataclasses
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import typer

from coordinator.domain.pacing import SLACK, Calendar, Pace

Seconds = npt.NDArray[np.float64]
Devices = npt.NDArray[np.int64]

GATHER_S: Final = 5.0
LONGEST_S: Final = 3600.0
DAY_S: Final = 86_400
_LATE_S: Final = 1.0  #: mean
_TRAINING_S: Final = (60.0, 300.0)
_MEASURED_S: Final = 1800  #: after settling
_MINUTE_S: Final = 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a fleet does beside what it is told. Times in seconds."""

    devices: int
    target_per_s: float
    first_s: float = 0.0  #: first check-ins, evenly until then; 0: all at once
    disturbed_at: int = 0  #: when the last disturbance is over
    newcomers: float = 0.0  #: share of devices that first come before ``disturbed_at``
    missing: float = 0.0  #: share of appointments missed by up to half an hour
    lost: float = 0.0  #: share of devices that are gone from ``disturbed_at`` on
    unreachable_s: int = 0  #: so long before ``disturbed_at`` nobody got through
    restarts: bool = False  #: the process forgets its calendar at ``disturbed_at``
    is_diurnal: bool = False  #: phones are idle for some hours a day each

    @property
    def settled_at(self) -> int:
        """When the rate must be right."""
        return self.disturbed_at + round(self.devices / self.target_per_s) + 600

    @property
    def ends_at(self) -> int:
        """When the measurement ends."""
        measured_s = DAY_S if self.is_diurnal else _MEASURED_S
        return self.settled_at + measured_s


def scenarios(devices: int, target_per_s: float) -> dict[str, Scenario]:
    """Return the bad beginnings, by name."""
    turn_s = devices / target_per_s

    def of(**habits: float) -> Scenario:
        return Scenario(devices=devices, target_per_s=target_per_s, **habits)  # type: ignore[arg-type]

    return {
        "all at once": of(),
        "all within a minute": of(first_s=60),
        "steady": of(first_s=turn_s),
        "grows tenfold": of(first_s=60, newcomers=0.9, disturbed_at=2 * round(turn_s)),
        "a tenth misses": of(missing=0.1),
        "a third is lost": of(lost=1 / 3, disturbed_at=1800),
        "outage of an hour": of(unreachable_s=3600, disturbed_at=5400),
        "restart": of(restarts=True, disturbed_at=1800),
        "day and night": of(first_s=60, is_diurnal=True),
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Check-ins/s, as shares of the target; but for the last, after settling."""

    mean: float
    quietest_minute: float
    busiest_minute: float
    busiest_second: float
    busiest_minute_before: float  #: between the disturbance's first minute and then


def measure(scenario: Scenario, *, seed: int = 0) -> Figures:
    """Run a fleet and look at it after settling."""
    shares = simulate(scenario, seed=seed) / scenario.target_per_s
    settled = shares[scenario.settled_at :]
    before = shares[scenario.disturbed_at + _MINUTE_S : scenario.settled_at]
    minutes = _by_minute(settled)
    return Figures(
        mean=float(settled.mean()),
        quietest_minute=float(minutes.min()),
        busiest_minute=float(minutes.max()),
        busiest_second=float(settled.max()),
        busiest_minute_before=float(_by_minute(before).max()),
    )


def _by_minute(rates: Seconds) -> Seconds:
    whole = len(rates) // _MINUTE_S * _MINUTE_S
    minutes: Seconds = rates[:whole].reshape(-1, _MINUTE_S).mean(axis=1)
    return minutes


def simulate(scenario: Scenario, *, seed: int) -> Devices:
    """Return how many devices check in, by second."""
    pace = Pace(
        gather_s=GATHER_S, longest_s=LONGEST_S, most_per_s=scenario.target_per_s
    )
    wanted = round(scenario.target_per_s * GATHER_S / SLACK)
    fleet = _Fleet(scenario, np.random.default_rng(seed))
    calendar = Calendar(pace)
    arrivals = np.zeros(scenario.ends_at, np.int64)
    places = 0.0
    for second in range(scenario.ends_at):
        if scenario.restarts and second == scenario.disturbed_at:
            calendar = Calendar(pace)
        devices = fleet.come(second)
        arrivals[second] = len(devices)
        if not len(devices):
            continue
        calendar.meet(second, count=len(devices))
        places = min(places + wanted / GATHER_S / SLACK, wanted)
        working, waiting = np.split(devices, [min(int(places), len(devices))])
        places -= len(working)
        fleet.work(second, working)
        draws = fleet.rng.random(len(waiting))
        fleet.wait(second, waiting, calendar.book(second, draws, wanted=wanted))
    return arrivals


class _Fleet:
    """Who comes when."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self.rng = rng
        self._scenario = scenario
        self._agenda: list[list[Devices]] = [[] for _ in range(scenario.ends_at)]
        devices = np.arange(scenario.devices)
        self._idle_from = rng.normal(23 * 3600, 3 * 3600, len(devices))
        self._idle_for = rng.uniform(4 * 3600, 20 * 3600, len(devices))
        first = rng.random(len(devices)) * scenario.first_s
        is_new = rng.random(len(devices)) < scenario.newcomers
        first[is_new] = rng.random(is_new.sum()) * scenario.disturbed_at
        self._expect(devices, first)

    def come(self, second: int) -> Devices:
        """Return who gets through in this second."""
        lists = self._agenda[second]
        self._agenda[second] = []
        devices = np.concatenate(lists) if lists else np.zeros(0, np.int64)
        scenario = self._scenario
        until = scenario.disturbed_at
        if until - scenario.unreachable_s <= second < until:
            back = until + self.rng.uniform(0, 10, len(devices))
            self._expect(devices, back)
            return devices[:0]
        if second >= until:  # the same devices, always
            devices = devices[devices % 1000 >= round(scenario.lost * 1000)]
        return self.rng.permutation(devices)

    def work(self, second: int, devices: Devices) -> None:
        """Let devices train, and come again."""
        self._expect(devices, second + self.rng.uniform(*_TRAINING_S, len(devices)))

    def wait(self, second: int, devices: Devices, waits_s: Seconds) -> None:
        """Let devices come when they are told to, more or less."""
        rng, count = self.rng, len(devices)
        due = second + waits_s + rng.exponential(_LATE_S, count)
        misses = rng.random(count) < self._scenario.missing
        self._expect(devices, due + misses * rng.uniform(0, 1800, count))

    def _expect(self, devices: Devices, at: Seconds) -> None:
        if self._scenario.is_diurnal:
            at = self._when_idle(devices, at)
        seconds = at.astype(np.int64)
        is_seen = seconds < len(self._agenda)
        devices, seconds = devices[is_seen], seconds[is_seen]
        order = np.argsort(seconds, kind="stable")
        found, starts = np.unique(seconds[order], return_index=True)
        for second, group in zip(
            found, np.split(devices[order], starts[1:]), strict=False
        ):
            self._agenda[second].append(group)

    def _when_idle(self, devices: Devices, at: Seconds) -> Seconds:
        """Return when phones are idle next, which may be at once."""
        idle_since = (at - self._idle_from[devices]) % DAY_S
        is_idle = idle_since < self._idle_for[devices]
        return np.where(is_idle, at, at + DAY_S - idle_since)


def main(
    *,
    devices: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    target: Annotated[float, typer.Option(min=1, help="Check-ins/s.")] = 500.0,
) -> None:
    """Run every scenario and print a line for each."""
    print(f"{devices} devices, target {target:g} check-ins/s, shares of the target")
    heads = ("settled s", "mean", "least min", "most min", "most s", "chance", "before")
    print(f"{'':20}" + "".join(f"{head:>11}" for head in heads))
    for name, scenario in scenarios(devices, target).items():
        seen = measure(scenario)
        seconds = scenario.ends_at - scenario.settled_at
        chance = np.random.default_rng(0).poisson(target, seconds).max() / target
        shares = (
            seen.mean,
            seen.quietest_minute,
            seen.busiest_minute,
            seen.busiest_second,
            chance,
            seen.busiest_minute_before,
        )
        print(
            f"{name:20}{scenario.settled_at - scenario.disturbed_at:11}"
            + "".join(f"{share:11.2f}" for share in shares),
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
