"""What learns how well: ``python -m benchmarks.learning [SUITE ...]``.

A suite of ``learning.toml`` is a list of plans that differ in what the suite is about,
on handwriting by writer. Each runs as anybody would run it, ``python -m device_sim``
with its own coordinator, through the HTTP API. Written into the folder: a run folder
each, a table, and a picture of accuracy against rounds. A run whose report is there
already, of the same plan and options, is not run again.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from coordinator.protocol import plans

_ROOT: Final = pathlib.Path(__file__).parents[1]
_MATRIX: Final = pathlib.Path(__file__).with_suffix(".toml")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of a suite."""

    name: str
    plan: str  #: TOML, with the row's own settings in it
    data: str  #: as the swarm takes it
    options: tuple[str, ...]  #: of the swarm
    model: tuple[str, ...]  #: how to build a model that does not ship; or empty
    target: float | None  #: accuracy whose round is told

    @property
    def key(self) -> str:
        """Tell whether a report is of this very run."""
        return hashlib.sha256(repr(dataclasses.astuple(self)).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run reported."""

    run: Run
    accuracies: tuple[float, ...]  #: held out, by round
    simulated_s: tuple[float, ...]  #: of the swarm's own clock; empty without one
    bytes_up_a_device: float  #: in a round, mean
    seconds: float
    epsilon: float | None  #: at the end; none: nothing is promised
    stopped: bool  #: the task did not get through its rounds

    @property
    def reached(self) -> int | None:
        """First round at the target, from 1; none if there was none."""
        if self.run.target is None:
            return None
        places = (i for i, a in enumerate(self.accuracies, 1) if a >= self.run.target)
        return next(places, None)

    def row(self) -> str:
        """Return the outcome as a row of the table."""
        reached, target = self.reached, self.run.target
        if target is None:
            first = ""
        elif reached is None:
            first = f"{target:.1%}: never"
        else:
            first = f"{target:.1%}: {reached}"
            if self.simulated_s:
                first += f" ({sum(self.simulated_s[:reached]):,.0f} simulated s)"
        rounds = str(len(self.accuracies))
        cells = (
            self.run.name,
            f"{rounds}, then stopped" if self.stopped else rounds,
            f"{self.accuracies[-1]:.2%}",
            f"{max(self.accuracies):.2%}",
            first,
            "" if self.epsilon is None else f"{self.epsilon:.2f}",
            f"{self.bytes_up_a_device / 1e6:.2f}",
            f"{self.seconds:.0f}",
        )
        return f"| {' | '.join(cells)} |"


def main(
    suites: Annotated[
        list[str] | None, typer.Argument(help="Suites to run. Default: all.")
    ] = None,
    *,
    data_dir: Annotated[
        pathlib.Path, typer.Option(help="Folder with the .npz files by writer.")
    ] = _ROOT.parent / "shared" / "emnist",
    out: Annotated[
        pathlib.Path, typer.Option(help="Where runs, tables and pictures go.")
    ] = pathlib.Path("runs/learning"),
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds, in place of each plan's.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only the rows whose name holds this.")
    ] = None,
) -> None:
    """Run suites and write what came out."""
    matrix: dict[str, Any] = tomllib.loads(_MATRIX.read_text())
    unknown = sorted(set(suites or ()) - set(matrix))
    if unknown:
        raise typer.BadParameter(
            f"no suite {', '.join(unknown)}: there are {', '.join(matrix)}"
        )
    for suite in suites or matrix:
        runs = [_read(row, data_dir) for row in matrix[suite]["runs"]]
        runs = [run for run in runs if only is None or only in run.name]
        outcomes = [_run(run, out / suite / run.name, rounds) for run in runs]
        if not outcomes:
            continue
        outcomes = _compared(outcomes)
        table = "\n".join((_HEADING, *(outcome.row() for outcome in outcomes)))
        title = matrix[suite]["title"]
        (out / suite / "table.md").write_text(f"{title}\n\n{table}\n")
        _draw(title, outcomes, out / suite / "curves.png")
        print(f"\n{title}\n\n{table}\n\nwrote {out / suite}")


def _compared(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Give rows that have no target the first row's last accuracy as theirs."""
    last = outcomes[0].accuracies[-1]
    return [
        outcome
        if outcome.run.target is not None
        else dataclasses.replace(
            outcome, run=dataclasses.replace(outcome.run, target=last)
        )
        for outcome in outcomes
    ]


_HEADING: Final = (
    "| run | rounds | accuracy at the end | best | first round at | epsilon | MB up a "
    "device and round | seconds |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def _read(row: Mapping[str, Any], data_dir: pathlib.Path) -> Run:
    settings = tomllib.loads((_ROOT / row["plan"]).read_text())
    for name in row.get("without", ()):
        del settings[name]
    for name, value in row.get("set", {}).items():
        if isinstance(value, Mapping):
            settings[name] = {**settings.get(name, {}), **value}
        else:
            settings[name] = value
    plan = _to_toml(settings)
    plans.parse(plan)  # a wrong row is said before hours have passed
    return Run(
        name=row["name"],
        plan=plan,
        data=row["data"].replace("DATA", str(data_dir)),
        options=tuple(row.get("options", ())),
        model=tuple(row.get("model", ())),
        target=row.get("target"),
    )


def _to_toml(settings: Mapping[str, Any]) -> str:
    """Write a plan: values, then tables of values, which TOML writes as JSON does."""
    values = {k: v for k, v in settings.items() if not isinstance(v, Mapping)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    for name in sorted(settings.keys() - values.keys()):
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(v)}" for key, v in settings[name].items()]
    return "\n".join(lines) + "\n"


def _run(run: Run, folder: pathlib.Path, rounds: int | None) -> Outcome:
    key = f"{run.key}-{rounds}"
    marker, report = folder / "key.txt", folder / "report.json"
    if not (report.exists() and marker.exists() and marker.read_text() == key):
        if folder.exists():
            raise typer.BadParameter(
                f"{folder} holds another run, or one that did not end: delete it"
            )
        folder.mkdir(parents=True)
        marker.write_text(key)
        _start(run, folder, rounds)
    content = json.loads(report.read_text())
    rows = content["rounds"]
    simulated = [row.get("simulated_s") for row in rows]
    return Outcome(
        run=run,
        accuracies=tuple(row["held_out_accuracy"] for row in rows),
        simulated_s=() if None in simulated else tuple(simulated),
        bytes_up_a_device=content["bytes_up_a_device"] or 0.0,
        seconds=content["seconds"],
        epsilon=rows[-1].get("epsilon"),
        stopped=content["stopped"] is not None,
    )


def _start(run: Run, folder: pathlib.Path, rounds: int | None) -> None:
    plan = folder / "plan.toml"
    plan.write_text(run.plan)
    environment = dict(os.environ)
    if run.model:
        models = folder / "models"
        name = plans.parse(run.plan).model
        _call(
            *("tflite_models", "build", *run.model),
            *("--name", name, "--out", str(models / name)),
        )
        environment["SHOAL_MODELS_DIR"] = str(models.resolve())
    limit = () if rounds is None else ("--rounds", str(rounds))
    try:
        _call(
            *("device_sim", "--plan", str(plan), "--data", run.data),
            *("--out", str(folder), *limit, *run.options),
            environment=environment,
        )
    except subprocess.CalledProcessError:
        if not (folder / "report.json").exists():  # a task that stopped has one
            raise


def _call(*command: str, environment: Mapping[str, str] | None = None) -> None:
    print(f"\n$ python -m {' '.join(command)}", flush=True)
    subprocess.run(  # noqa: S603 - the project's own commands
        [sys.executable, "-m", *command], check=True, env=environment, cwd=_ROOT
    )


def _draw(title: str, outcomes: Sequence[Outcome], path: pathlib.Path) -> None:
    import matplotlib.figure  # noqa: PLC0415 - only where there is something to draw

    figure = matplotlib.figure.Figure(figsize=(8, 5), dpi=130, layout="constrained")
    axes = figure.subplots()
    for outcome in outcomes:
        percent = [100 * accuracy for accuracy in outcome.accuracies]
        axes.plot(range(1, len(percent) + 1), percent, label=outcome.run.name)
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on held-out examples (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    typer.run(main)
