"""What a run leaves behind: ``report.json`` for programs, ``curves.png`` for people.

Both are written whole or not at all. Matplotlib is imported only when the picture is
drawn, so that a swarm without it still gets its JSON.
"""

import dataclasses
import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from coordinator.protocol.operations import PrivacyReport

if TYPE_CHECKING:
    import matplotlib.axes

REPORT_FILE: Final = "report.json"
CURVES_FILE: Final = "curves.png"

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
MOST_MARKED: Final = 40  # with more rounds, markers would hide the line
BYTE_UNITS: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

Point = float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One round of the run. None: not measured in this round."""

    round: int
    attempt: int
    seconds: float
    accepted: int  # updates
    train_loss: float | None
    train_accuracy: float | None
    held_out_accuracy: float | None
    bytes_up: int  # from all devices to the coordinator
    bytes_down: int
    federated_loss: float | None = None  # on the devices' own test parts
    federated_accuracy: float | None = None
    federated_devices: int | None = None
    # Accuracy over devices, and all of that after fine-tuning: as the coordinator's API
    # states them.
    federated_distribution: Mapping[str, float] | None = None
    personalized: Mapping[str, Any] | None = None
    simulated_s: float | None = None  # what it would have taken on the trace's devices
    epsilon: float | None = None  # of this round's release and all before it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A whole run."""

    plan: str
    data: str  # the source, as on the command line
    seed: int
    devices: int  # that come in each round
    seconds: float
    held_out_accuracy: float | None  # of the last version
    rounds: tuple[RoundRow, ...]
    population: int | None = None  # devices there are; None: as many as come
    simulated_s: float | None = None  # of all rounds together
    attackers: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by attack
    backdoor_success: float | None = None  # of the last version, where one was tried
    delta: float | None = None  # of every epsilon; None: nothing is promised
    stopped: str | None = None  # why the task did not get through its rounds
    bytes_up_a_device: float | None = None  # for an update, mean; None: there was none
    bytes_down_a_device: int | None = None  # of weights, for an assignment
    note: tuple[str, ...] = ()  # what a reader should know, one sentence each

    def to_json(self) -> bytes:
        """Return the report as indented JSON.

        A number that is not finite, as the loss of a diverged run, becomes null: JSON
        has no other word for it.
        """
        content = _finite(dataclasses.asdict(self))
        return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"


def with_epsilon(
    rows: Sequence[RoundRow], privacy: PrivacyReport
) -> tuple[RoundRow, ...]:
    """Write into the rows what the releases up to each round give away."""
    spent = {release.round: release.epsilon for release in privacy.releases}
    return tuple(dataclasses.replace(row, epsilon=spent.get(row.round)) for row in rows)


def write(report: RunReport, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write both files into ``folder``, which is made, and return their paths.

    Raises:
        OSError: The folder cannot be written.
        ImportError: Matplotlib is not installed; the JSON has been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report_path, curves_path = folder / REPORT_FILE, folder / CURVES_FILE
    _replace(report_path, report.to_json())
    _replace(curves_path, draw(report))
    return report_path, curves_path


def draw(report: RunReport) -> bytes:
    """Return a PNG with accuracy, loss and bytes over the rounds.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    # Here, not above: 0.3 s that only this function needs. A Figure made
    # by hand, for pyplot keeps every figure in a module.
    import matplotlib.figure  # noqa: PLC0415
    import matplotlib.ticker  # noqa: PLC0415

    rows = report.rounds
    figure = matplotlib.figure.Figure(figsize=(8, 9), dpi=130, layout="constrained")
    figure.suptitle(_headline(report), fontsize=13, fontweight="bold")
    accuracy, loss, traffic = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2, 2]}
    )
    x = [row.round for row in rows]

    for label, colour, values in (
        ("held out", BLUE, [row.held_out_accuracy for row in rows]),
        (
            "federated (devices' test parts)",
            GREEN,
            [r.federated_accuracy for r in rows],
        ),
        ("train (devices, while training)", ORANGE, [r.train_accuracy for r in rows]),
    ):
        percent = [None if value is None else 100 * value for value in values]
        _plot(accuracy, x, percent, label=label, colour=colour)
    accuracy.set_ylabel("accuracy (%)")
    accuracy.set_ylim(0, 102)  # a curve at 100 % is not cut by the frame

    for label, colour, values in (
        ("federated", GREEN, [row.federated_loss for row in rows]),
        ("train", ORANGE, [row.train_loss for row in rows]),
    ):
        _plot(loss, x, values, label=label, colour=colour)
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_ylim(bottom=0)

    up, down = [row.bytes_up for row in rows], [row.bytes_down for row in rows]
    size, unit = _byte_unit(max(up + down, default=0))
    _plot(traffic, x, [n / size for n in down], label="down to devices", colour=BLUE)
    _plot(traffic, x, [n / size for n in up], label="up from devices", colour=ORANGE)
    traffic.set_ylabel(f"traffic ({unit} a round)")
    traffic.set_ylim(0, max([*up, *down, 1]) / size * 1.1)
    traffic.set_xlabel("round")
    traffic.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1)
    )
    # Corners where these curves seldom are.
    corners = ("lower right", "upper right", "lower right")
    for axes, corner in zip((accuracy, loss, traffic), corners, strict=True):
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, loc=corner, fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _headline(report: RunReport) -> str:
    """Say in two lines what was run and what came of it."""
    last = report.held_out_accuracy
    result = "not measured" if last is None else f"{100 * last:.1f} % held out"
    # A path is for the JSON; in a title its last part is enough.
    kind, colon, rest = report.data.partition(":")
    data = f"{kind}{colon}{pathlib.PurePath(rest).name}"
    ran = len(report.rounds)
    return (
        f"{report.plan}: {result} after {ran} round{'' if ran == 1 else 's'}\n"
        f"{_devices(report)} on {data}, seed {report.seed}, "
        f"{report.seconds:.0f} s"
    )


def _devices(report: RunReport) -> str:
    if report.population is None:
        return f"{report.devices} devices"
    return f"{report.devices} of {report.population} devices a round"


def _plot(
    axes: "matplotlib.axes.Axes",
    x: Sequence[int],
    values: Sequence[Point],
    *,
    label: str,
    colour: str,
) -> None:
    """Draw one curve through the points that were measured."""
    points = [
        (at, value)
        for at, value in zip(x, values, strict=True)
        if value is not None and math.isfinite(value)
    ]
    if not points:
        return  # no legend entry for what was not measured
    axes.plot(
        [at for at, _ in points],
        [value for _, value in points],
        label=label,
        color=colour,
        linewidth=1.8,
        marker="o" if len(points) <= MOST_MARKED else "",
        markersize=4,
    )


def _byte_unit(largest: int) -> tuple[float, str]:
    """Return the unit in which ``largest`` is a number of 1 or more."""
    for size, unit in BYTE_UNITS:
        if largest >= size:
            return size, unit
    return 1, "bytes"


def _finite(value: Any) -> Any:  # noqa: ANN401  - JSON is anything
    """Return a JSON value with null for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never a part."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        part = pathlib.Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.chmod(0o644)  # temporary files are for their owner alone
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
