"""Tells devices without work when to come back, and remembers whom it told what.

The calendar is this process's own, as are its measurements: each of several processes
steers those who come to it. It is used on the event loop alone.
"""

import secrets
from typing import Final

import numpy as np
from starlette.concurrency import run_in_threadpool

from coordinator.api.metrics import Metrics
from coordinator.clock import Clock
from coordinator.domain.pacing import Calendar, Pace
from coordinator.store.engine import Store
from coordinator.usecases import check_in

_DEMAND_AGE_S: Final = 1.0  #: so long the database is not asked again what is wanted


class Pacer:
    """Applies ``domain.pacing`` to those who check in here."""

    def __init__(self, store: Store, clock: Clock, pace: Pace) -> None:
        """Expect nobody."""
        self._store = store
        self._clock = clock
        self._calendar = Calendar(pace)
        self._wanted = 0
        self._looked_at: float | None = None

    def meet_device(self) -> None:
        """Note that a device checks in."""
        self._calendar.meet(self._now_s())

    async def wait_s(self) -> float:
        """Give an appointment to a device without work; seconds from now."""
        now_s = self._now_s()
        if (
            self._looked_at is None
            or abs(now_s - self._looked_at) >= _DEMAND_AGE_S  # clocks are put back, too
        ):
            self._looked_at = now_s  # first: others must not look meanwhile
            self._wanted = await run_in_threadpool(check_in.places_wanted, self._store)
        draw = np.array([secrets.randbelow(1 << 53) / (1 << 53)])
        waits_s = self._calendar.book(self._now_s(), draw, wanted=self._wanted)
        return round(float(waits_s[0]), 3)

    def show(self, metrics: Metrics) -> None:
        """Hand the figures to ``metrics``."""
        calendar = self._calendar
        calendar.meet(self._now_s(), count=0)
        metrics.show_pace(
            per_s=calendar.came_per_s,
            target_per_s=calendar.target_per_s,
            expected=calendar.expected,
        )

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
