"""When devices without work come back: small fleets gathered, large ones spread.

Every device that is sent away gets an appointment, so what will come is known before it
comes. An appointment is the first free place at or after a gathering; gatherings are
``gather_s`` apart and at the same moments in every process, and a second has as many
places as the target has check-ins. A fleet that fits between two gatherings therefore
comes as one wave to each of them; of a larger one the waves run into each other and
become a steady stream at the target, whoever came all at once. Where the longest wait
has no room for the fleet, devices are drawn over the whole of it, evenly.

Not all who are asked come, and not all who come were asked: some arrive for the first
time, from their training, or from a process that has ended. Both are measured, and the
places of a second corrected for them.

Source: K. Bonawitz et al., "Towards Federated Learning at Scale: System Design", SysML
2019, section 2.3 (pace steering). The paper gives the aims; the calendar is ours.
"""

import dataclasses
import math
from typing import Final

import numpy as np
import numpy.typing as npt

#: Check-ins aimed at between two gatherings, for each place of a round: not every
#: device may take part, and a round that opens must not wait for a whole turn.
SLACK: Final = 3.0
#: Places that are reckoned with at least: nobody knows what the next task wants.
LEAST_WANTED: Final = 50
#: A device that comes just before a gathering is asked to the one after it: it would be
#: back at once. Share of the time between two.
_TOO_NEAR: Final = 0.25
_PERIOD_S: Final = 10  #: at least so long is counted before a rate is made of it
_MEMORY_S: Final = 120.0  #: time constant of the measured rates
#: A herd that comes once must not count as a stream: of a period counts so many times
#: what was expected.
_MOST_COUNTED: Final = 2.0
#: If fewer than this share of those who were asked come, it is no habit of theirs: the
#: coordinator could not be reached, and they all will come yet.
_LEAST_SHARE: Final = 0.25
_MOST_OVERBOOKED: Final = 2.0  #: times the target
_LEAST_BOOKED: Final = 0.25  #: times the target
#: So far ahead places are given away twice for those who will not come. Further on
#: there is time to do so later, and what is booked cannot be taken back.
_OVERBOOKED_S: Final = 300
_EASE: Final = 0.03  #: share of the target that steadies a ratio of small rates


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The bounds within which devices are steered."""

    gather_s: float  #: seconds between two gatherings, 1 or more
    longest_s: float  #: most seconds that a device waits; twice ``gather_s`` or more
    most_per_s: float  #: check-ins/s that are never aimed above

    def target_per_s(self, wanted: int) -> float:
        """Return the check-ins/s to aim at while rounds have ``wanted`` places."""
        needed = SLACK * max(wanted, LEAST_WANTED) / self.gather_s
        return min(needed, self.most_per_s)


class Calendar:
    """The appointments that one process has given, and what came of them.

    Times are seconds since any moment, if all processes mean the same one. Its memory
    is one number for each second of the longest wait, however large the fleet.
    """

    def __init__(self, pace: Pace) -> None:
        """Begin with no appointments."""
        self._pace = pace
        #: Devices asked to come, by second; the first is the present one.
        self._asked = np.zeros(math.ceil(pace.longest_s) + 1, np.int64)
        self._second: int | None = None  # the present one
        self._period_began = 0
        self._came_in_period = 0
        self._asked_in_period = 0
        self._asked_per_s = 0.0
        self.came_per_s = 0.0  #: measured check-ins/s, over some minutes; herds clipped
        self.target_per_s = pace.target_per_s(0)  #: what is aimed at

    @property
    def expected(self) -> int:
        """Devices that have an appointment: what is known of the fleet's size."""
        return int(self._asked.sum())

    def meet(self, now_s: float, *, count: int = 1) -> None:
        """Note that ``count`` devices check in, be there work for them or not."""
        self._turn_to(now_s)
        self._came_in_period += count

    def book(
        self, now_s: float, draws: npt.NDArray[np.float64], *, wanted: int
    ) -> npt.NDArray[np.float64]:
        """Give appointments to devices without work.

        Args:
            now_s: The present moment.
            draws: One for each device, uniform in [0, 1).
            wanted: Places of the rounds that are open or being folded.

        Returns:
            Seconds that each is to wait, from a quarter of ``gather_s`` to two seconds
            beyond ``longest_s``.
        """
        present = self._turn_to(now_s)
        self.target_per_s = self._pace.target_per_s(wanted)
        first = self._next_gathering(now_s) - present
        room = self._room(present, first)
        places = np.searchsorted(np.cumsum(room), np.arange(len(draws)), side="right")
        anywhere = draws * len(room)
        is_left = places >= len(room)
        seconds = first + np.where(is_left, anywhere.astype(np.int64), places)
        np.add.at(self._asked, seconds, 1)
        within = np.where(is_left, anywhere % 1.0, draws)
        return seconds + within + (present - now_s)

    def _next_gathering(self, now_s: float) -> int:
        gather_s = self._pace.gather_s
        return math.ceil(math.ceil(now_s / gather_s + _TOO_NEAR) * gather_s)

    def _room(self, present: int, first: int) -> npt.NDArray[np.int64]:
        """Return the free places of every second from ``first`` on."""
        target, came, asked = self.target_per_s, self.came_per_s, self._asked_per_s
        # Who comes unasked takes places.
        booked_per_s = max(_LEAST_BOOKED * target, target - max(0.0, came - asked))
        seconds = np.arange(first, len(self._asked))
        places = _whole(booked_per_s, present + seconds)
        if came < asked:
            ease = _EASE * target
            booked_per_s *= min(_MOST_OVERBOOKED, (asked + ease) / (came + ease))
            near = seconds[:_OVERBOOKED_S]
            places[:_OVERBOOKED_S] = _whole(booked_per_s, present + near)
        free: npt.NDArray[np.int64] = places - self._asked[first:]
        return np.maximum(free, 0)

    def _turn_to(self, now_s: float) -> int:
        """Leave behind what is past. Returns the present second."""
        present = math.floor(now_s)
        if self._second is None or present < self._second:
            # A clock that was put back changes how long nobody has yet to wait.
            self._second = self._period_began = present
            return present
        passed = min(present - self._second, len(self._asked))
        if passed:
            self._asked_in_period += int(self._asked[:passed].sum())
            self._asked[: -passed or None] = self._asked[passed:]
            self._asked[-passed:] = 0
            self._second = present
        if present - self._period_began >= _PERIOD_S:
            self._measure(present - self._period_began)
            self._period_began = present
            self._came_in_period = self._asked_in_period = 0
        return present

    def _measure(self, seconds: int) -> None:
        asked = self._asked_in_period
        most = _MOST_COUNTED * max(asked, self.target_per_s * seconds)
        came = min(self._came_in_period, most)
        if came < _LEAST_SHARE * asked:
            return
        weight = 1 - math.exp(-seconds / _MEMORY_S)
        self.came_per_s += weight * (came / seconds - self.came_per_s)
        self._asked_per_s += weight * (asked / seconds - self._asked_per_s)


def _whole(
    places_per_s: float, seconds: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return whole places for each second: half a one is one in every other second."""
    until = np.floor((seconds + 1) * places_per_s)
    places = until - np.floor(seconds * places_per_s)
    return np.asarray(places, np.int64)
