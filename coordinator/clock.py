"""The time, as an argument."""

import datetime as dt
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Tests pass one that they turn by hand."""

    def now(self) -> dt.datetime:
        """Return the present moment, aware, UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> dt.datetime:
        """Return the present moment, aware, UTC."""
        return dt.datetime.now(dt.UTC)  # noqa: TID251 - the one place that may
