"""A clock that tests turn by hand."""

import datetime as dt


class ManualClock:
    """Stands still until it is advanced."""

    def __init__(self) -> None:
        self._now = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

    def now(self) -> dt.datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time does not go backwards, got {seconds} s")
        self._now += dt.timedelta(seconds=seconds)
