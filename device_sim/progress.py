"""What a person sees while a swarm runs.

On a terminal: a table that lives, one row a round and the present state on top.
Elsewhere: one plain line a round, so that logs stay readable.
"""

import dataclasses
from typing import Final, Protocol, TextIO

import rich.console
import rich.live
import rich.table

from device_sim.report import RoundRow

_ROWS: Final = 20  # newest rounds in the table; all of them are in the report


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """Where the run is now. ``None``: not known, or not yet."""

    seconds: float  #: since the run began
    round_number: int | None = None
    rounds: int | None = None
    attempt: int = 1
    phase: str = "starting"
    assigned: int = 0
    reported: int = 0
    accepted: int = 0
    goal: int = 0
    updates: int = 0  #: accepted ones of this swarm in all rounds
    bytes_up: int = 0
    bytes_down: int = 0


class Progress(Protocol):
    """Shows a run to a person."""

    def note(self, text: str) -> None:
        """Say something once."""
        ...

    def present(self, present: Present) -> None:
        """Say where the run is; called several times a second."""
        ...

    def row(self, row: RoundRow, *, rounds: int, goal: int) -> None:
        """Say how a round ended."""
        ...

    def close(self) -> None:
        """Leave the terminal as it should be."""
        ...


class Lines:
    """One plain line a round."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, text: str) -> None:
        """Write ``text`` as a line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def present(self, present: Present) -> None:
        """Write nothing: a log wants results only."""

    def row(self, row: RoundRow, *, rounds: int, goal: int) -> None:
        """Write the round as a line."""
        again = f" (attempt {row.attempt})" if row.attempt > 1 else ""
        self.note(
            f"round {row.round:>3}/{rounds}{again}  "
            f"accepted {row.accepted}/{goal}  "
            f"loss {_number(row.train_loss, 4)}  "
            f"train accuracy {_number(row.train_accuracy, 4)}  "
            f"held-out accuracy {_number(row.held_out_accuracy, 4)}  "
            f"up {_megabytes(row.bytes_up)}  down {_megabytes(row.bytes_down)}  "
            f"{row.seconds:.2f} s"
        )

    def close(self) -> None:
        """Nothing is to be left."""


class Table:
    """A live table on a terminal."""

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        self._rows: list[tuple[str, ...]] = []
        self._present = Present(seconds=0)
        self._live = rich.live.Live(
            console=console, refresh_per_second=8, get_renderable=self._render
        )
        self._live.start()

    def note(self, text: str) -> None:
        """Print ``text`` above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def present(self, present: Present) -> None:
        """Change the table's title."""
        self._present = present

    def row(self, row: RoundRow, *, rounds: int, goal: int) -> None:
        """Add the round to the table."""
        cells = (
            f"{row.round}/{rounds}",
            f"{row.accepted}/{goal}",
            _number(row.train_loss, 4),
            _number(row.train_accuracy, 4),
            _number(row.held_out_accuracy, 4),
            _megabytes(row.bytes_up),
            _megabytes(row.bytes_down),
            f"{row.seconds:.2f}",
        )
        self._rows = [*self._rows, cells][-_ROWS:]

    def close(self) -> None:
        """Leave the last state of the table on the terminal."""
        self._live.stop()

    def _render(self) -> rich.table.Table:
        table = rich.table.Table(
            title=_sentence(self._present), title_justify="left", title_style="bold"
        )
        for heading in (
            "round",
            "accepted",
            "loss",
            "train accuracy",
            "held-out accuracy",
            "up",
            "down",
            "seconds",
        ):
            table.add_column(heading, justify="right")
        for cells in self._rows:
            table.add_row(*cells)
        return table


def choose(stream: TextIO) -> Progress:
    """Return a live table where ``stream`` is a terminal, else plain lines."""
    console = rich.console.Console(file=stream)
    return Table(console) if console.is_terminal else Lines(stream)


def _sentence(present: Present) -> str:
    parts = []
    if present.round_number is not None:
        of = "" if present.rounds is None else f"/{present.rounds}"
        again = f", attempt {present.attempt}" if present.attempt > 1 else ""
        parts.append(f"round {present.round_number}{of}{again}")
    parts.append(present.phase)
    if present.goal:
        parts.append(
            f"{present.assigned} assigned, {present.reported} reported, "
            f"{present.accepted} of {present.goal} accepted"
        )
    parts.append(f"{present.updates} updates")
    parts.append(f"{_megabytes(present.bytes_up)} up")
    parts.append(f"{_megabytes(present.bytes_down)} down")
    parts.append(f"{present.seconds:.0f} s")
    return " · ".join(parts)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
