"""How fast, how well connected and how reliable simulated devices are.

A trace is a TOML file of groups, or a CSV file of phones that were measured, one a row.
Decided here: what a group may say, and which device
gets which numbers, as a function of (seed, device).
"""

import csv
import dataclasses
import io
import math
import pathlib
import tomllib
from typing import Annotated, Final, Self

import numpy as np
import pydantic
from pydantic import Field

from coordinator.protocol.manifest import Record
from device_sim import behaviour

_DAY_S: Final = 86_400.0
_TIME: Final = r"([01]\d|2[0-3]):[0-5]\d"
_WINDOW: Final = rf"^{_TIME}-{_TIME}$"


class InvalidTrace(ValueError):
    """The text is no trace; the message names each field that is wrong."""


class Lognormal(Record):
    """A number that is drawn for each device: ``median * exp(sigma * normal)``."""

    median: float = Field(gt=0, allow_inf_nan=False)
    sigma: float = Field(ge=0, le=5, allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Drawn = Positive | Lognormal


class Group(Record):
    """Devices of one kind."""

    name: str = Field("", max_length=80)
    share: float = Field(1.0, gt=0, le=1)  #: of all devices
    slowness: Drawn = 1.0  #: factor on the time that training takes
    down_bytes_per_s: Drawn = 5e6
    up_bytes_per_s: Drawn = 1e6
    dropout: float = Field(0.0, ge=0, lt=1)  #: probability, an assignment
    #: windows such as "22:00-07:00" in which devices check in; none: always
    available: tuple[Annotated[str, Field(pattern=_WINDOW)], ...] = ()


class Trace(Record):
    """All devices."""

    seconds_per_example: Positive = 0.01  #: of training, where slowness is 1
    starts_at: str = Field("00:00", pattern=rf"^{_TIME}$")  #: time of day
    groups: tuple[Group, ...] = Field((Group(),), min_length=1)

    @pydantic.model_validator(mode="after")
    def _shares_are_a_whole(self) -> Self:
        total = math.fsum(group.share for group in self.groups)
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"the shares of all groups must add up to 1, got {total}")
        return self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One device's numbers."""

    seconds_per_example: float
    down_bytes_per_s: float
    up_bytes_per_s: float
    dropout: float
    windows: tuple[tuple[float, float], ...]  #: seconds from the simulation's midnight
    starts_at_s: float  #: time of day at which the simulated clock is 0

    def next_available(self, now: float) -> float:
        """Return the earliest time from ``now`` on at which the device checks in."""
        if not self.windows:
            return now
        time_of_day = (now + self.starts_at_s) % _DAY_S
        return now + min(
            0.0 if _within(time_of_day, window) else (window[0] - time_of_day) % _DAY_S
            for window in self.windows
        )


def read_trace(path: pathlib.Path) -> Trace:
    """Read a trace from a file: CSV where it is named so, else TOML.

    Raises:
        InvalidTrace: The content is no trace.
        OSError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidTrace(f"not UTF-8: {error}") from error
    return parse_csv(text) if path.suffix.lower() == ".csv" else parse_trace(text)


def parse_csv(text: str) -> Trace:
    """Read a trace from CSV: a group of equal share for each row.

    The heading names fields of ``Group``. An empty cell has the field's default;
    ``available`` holds windows with spaces between them.

    Raises:
        InvalidTrace: The text is no CSV, has no rows or a wrong value; says the line.
    """
    lines = csv.DictReader(io.StringIO(text), strict=True)
    groups = []
    try:
        rows = [(lines.line_num, row) for row in lines]
        columns = set(lines.fieldnames or ())
    except csv.Error as error:
        raise InvalidTrace(f"not CSV: {error}") from error
    if unknown := sorted(columns - (Group.model_fields.keys() - {"share"})):
        raise InvalidTrace(f"a column {unknown[0]!r} means nothing here")
    if not rows:
        raise InvalidTrace("there are no rows below the heading")
    for number, row in rows:
        if None in row or None in row.values():
            raise InvalidTrace(f"line {number}: as many cells as columns are needed")
        given: dict[str, object] = {name: cell for name, cell in row.items() if cell}
        if "available" in given:
            given["available"] = row["available"].split()
        try:
            groups.append(Group.model_validate({**given, "share": 1 / len(rows)}))
        except pydantic.ValidationError as error:
            raise InvalidTrace(f"line {number}: {_faults(error)}") from error
    return Trace(groups=tuple(groups))


def parse_trace(text: str) -> Trace:
    """Read a trace from TOML.

    Raises:
        InvalidTrace: The text is not TOML or not a trace.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML, or numbers and depth beyond
        raise InvalidTrace(f"not TOML: {error}") from error
    try:
        return Trace.model_validate(content)
    except pydantic.ValidationError as error:
        raise InvalidTrace(_faults(error)) from error


def _faults(error: pydantic.ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'trace'}: {fault['msg']}"
        for fault in error.errors(include_url=False)
    )


def profiles(trace: Trace, *, devices: int, seed: int) -> tuple[Profile, ...]:
    """Return each device's numbers: a seeded choice of its group, and seeded draws."""
    bounds = np.rint(np.cumsum([g.share for g in trace.groups]) * devices)
    place = behaviour.trace_generator(seed=seed).permutation(devices)
    found = []
    for device in range(devices):
        which = int(np.searchsorted(bounds, place[device], side="right"))
        group = trace.groups[min(which, len(trace.groups) - 1)]
        normals = behaviour.trace_generator(seed=seed, device=device).normal(size=3)
        slowness, down, up = (
            _draw(value, normal)
            for value, normal in zip(
                (group.slowness, group.down_bytes_per_s, group.up_bytes_per_s),
                normals.tolist(),
                strict=True,
            )
        )
        found.append(
            Profile(
                seconds_per_example=trace.seconds_per_example * slowness,
                down_bytes_per_s=down,
                up_bytes_per_s=up,
                dropout=group.dropout,
                windows=tuple(_window(text) for text in group.available),
                starts_at_s=_seconds(trace.starts_at),
            )
        )
    return tuple(found)


def _draw(value: float | Lognormal, normal: float) -> float:
    if isinstance(value, Lognormal):
        return value.median * math.exp(value.sigma * normal)
    return value


def _window(text: str) -> tuple[float, float]:
    start, _, end = text.partition("-")
    return _seconds(start), _seconds(end)


def _seconds(time_of_day: str) -> float:
    hours, _, minutes = time_of_day.partition(":")
    return 3600.0 * int(hours) + 60.0 * int(minutes)


def _within(time_of_day: float, window: tuple[float, float]) -> bool:
    start, end = window
    if start < end:
        return start <= time_of_day < end
    return time_of_day >= start or time_of_day < end  # over midnight; equal: all day
