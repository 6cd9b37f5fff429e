"""The command line of the swarm: ``python -m device_sim``."""

import asyncio
import logging
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from coordinator.protocol import plans
from coordinator.protocol.plans import Plan
from device_sim import client, operator, progress, run, trainer
from device_sim.attacks import Attack, InvalidAttack
from device_sim.data import (
    DataError,
    Dealing,
    Partition,
    default_partition,
    overview,
)
from device_sim.processes import CoordinatorFailed
from device_sim.trace import InvalidTrace, Trace, read_trace

_DEFAULT_PLAN: Final = pathlib.Path(__file__).parents[1] / "plans" / "default.toml"
_INTERRUPTED: Final = 130
_EXPECTED: Final = (
    client.CorruptDownload,
    client.Refused,
    client.Unreachable,
    client.UnexpectedAnswer,
    CoordinatorFailed,
    DataError,
    InvalidAttack,
    plans.InvalidPlan,
    operator.OtherPlan,
    run.TaskStopped,
    trainer.GraphFailed,
)  # said in one line, without a traceback

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


@app.command()
def swarm(
    *,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, help="Devices that come in a round. Default: the plan's goal."
        ),
    ] = None,
    population: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Devices there are, if more than come in a round: all are enrolled, "
            "and the seed draws anew for each round who comes. all: every writer of "
            "the data. Default: as many as come.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rounds, in place of the plan's. On a coordinator elsewhere without "
            "an operator token: updates that each device contributes before it "
            "leaves.",
        ),
    ] = None,
    plan: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="The task's plan, a TOML file. Default: plans/default.toml.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="What the devices hold: sample (5,000 digits, offline), npz:PATH, "
            "fed-emnist, fed-emnist:digits, fed-emnist:all or leaf:DIR.",
        ),
    ] = "sample",
    partition: Annotated[
        Partition | None,
        typer.Option(
            help="How the data is dealt out: by writer; dirichlet, a mixture of labels "
            "each; shards, a few labels each; quantity, unequal sizes; feature, ever "
            "noisier images; iid, all alike. Other than by writer, what the writers "
            "hold is pooled first. Default: dirichlet for sample, else writer.",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="For dirichlet and quantity: the concentration of the Dirichlet "
            "distribution that labels or sizes are drawn from. Large: devices are "
            "alike; 0.1: a few labels each, or a few devices that hold nearly all. "
            "Default: 1.",
            show_default=False,
        ),
    ] = None,
    shards_per_device: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For shards: examples are sorted by label and cut into equal shards; "
            "so many go to each device. Default: 2.",
            show_default=False,
        ),
    ] = None,
    max_noise: Annotated[
        float | None,
        typer.Option(
            help="For feature: standard deviation of the noise on the last device's "
            "pixels, of which 1 is ink; it grows evenly from 0 on the first. "
            "Default: 0.3.",
            show_default=False,
        ),
    ] = None,
    show_partition: Annotated[
        bool,
        typer.Option(
            "--show-partition",
            help="Print who holds what, draw it in the run folder, and end.",
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Decides initial weights, the split of the data, the order of "
            "examples, who comes and who vanishes; the same seed gives the same final "
            "weights. Default: the plan's.",
            show_default=False,
        ),
    ] = None,
    dropout: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.95,
            help="Share of the devices that vanish in each round, drawn anew: they "
            "take an assignment and never report. The goal is lowered to those that "
            "stay.",
        ),
    ] = 0.0,
    flaky: Annotated[
        float,
        typer.Option(
            metavar="P",
            min=0.0,
            max=0.95,
            help="Simulate a bad network: the body of a device's request breaks off "
            "after a random part with this probability. Updates go on where they "
            "broke off.",
        ),
    ] = 0.0,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:SHARE[:STRENGTH]",
            help="Make a seeded share of the devices attackers; may be repeated. "
            "sign_flip sends the opposite of its update times the strength (1), noise "
            "sends noise of the update's size times the strength (10), label_flip "
            "trains on wrong labels, backdoor trains that a square in a corner means "
            "0, and sends its update times the strength (5).",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Run on a simulated clock: a TOML or CSV file: how fast, how well "
            "connected and how reliable devices are. Updates are delivered in the "
            "order in which such devices would, and the report says what each round "
            "would have taken.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Run folder, for the report, the curves and an embedded "
            "coordinator's database; one that holds a database is gone on from. "
            "Default: runs/<UTC time>.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Name of the task to start. Default: the plan file's name.",
            show_default=False,
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Join a coordinator that runs elsewhere. Default: start one, on a "
            "free port of this machine, with SQLite in the run folder.",
            show_default=False,
        ),
    ] = None,
    operator_token: Annotated[
        str | None,
        typer.Option(
            envvar="SHOAL_OPERATOR_TOKEN",
            help="With --coordinator: start the task there, follow it and write a "
            "report. Without it the devices work on whatever tasks run there.",
            show_default=False,
        ),
    ] = None,
    enrolment_token: Annotated[
        str | None,
        typer.Option(
            envvar="SHOAL_ENROLMENT_TOKEN",
            help="With --coordinator: what lets devices enrol, where that needs a "
            "token. Whether they sign their requests, the coordinator tells them.",
            show_default=False,
        ),
    ] = None,
    authority_key: Annotated[
        pathlib.Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="With --coordinator, for plans with `he`: the `authority.pub` of the "
            "key authority that the devices trust.",
            show_default=False,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Database of the embedded coordinator, such as "
            "postgresql+psycopg://user@host/name, in place of SQLite.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            help="Fetch each download once for the whole swarm, as an HTTP cache on "
            "site would. --no-cache: each device downloads for itself, as phones do.",
        ),
    ] = True,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices that train at the same time. Default: the machine's cores.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a swarm of simulated devices against a coordinator, over HTTP.

    Without options: starts a coordinator, enrols the plan's number of devices and
    trains through its rounds; then prints the accuracy on held-out examples and writes
    report.json, curves.png and weights.safetensors into the run folder. Ctrl-C ends
    everything and leaves a database to go on from.

    Exit status: 0 finished, 1 failed or the task stopped, 2 wrong options, 130
    interrupted.
    """
    source = plan or _DEFAULT_PLAN
    chosen = _read_plan(source, rounds=rounds, seed=seed)
    if database_url is not None and coordinator is not None:
        raise typer.BadParameter(
            "--database-url is for an embedded coordinator, not with --coordinator"
        )
    joins_only = coordinator is not None and operator_token is None
    devices = n or chosen.round.goal
    if population is not None and joins_only:
        raise typer.BadParameter(
            "--population needs --operator-token, to see which round is open"
        )
    if trace is not None and chosen.secagg is not None:
        raise typer.BadParameter(
            "--trace takes no plan with secagg: its devices work one after the other, "
            "and a cohort's take steps together"
        )
    if trace is not None and chosen.he is not None:
        raise typer.BadParameter(
            "--trace takes no plan with he: its clock does not wait for keys"
        )
    if trace is not None and (joins_only or dropout):
        raise typer.BadParameter(
            "--trace has a dropout of its own, in place of --dropout"
            if dropout
            else "--trace needs --operator-token, to see which round is open"
        )
    settings = run.Settings(
        devices=devices,
        population=_read_population(population, devices=devices),
        plan=chosen,
        plan_name=source.stem,
        task=task or source.stem,
        data=data,
        way=Dealing(
            kind=partition or default_partition(data),
            alpha=alpha,
            shards_per_device=shards_per_device,
            max_noise=max_noise,
        ),
        dropout=dropout,
        flaky=flaky,
        attacks=_read_attacks(attack or []),
        trace=None if trace is None else _read_trace(trace),
        coordinator=coordinator,
        operator_token=operator_token,
        enrolment_token=enrolment_token,
        authority_key=authority_key,
        database_url=database_url,
        contributions=rounds if joins_only else None,
        out=out or _new_run_folder(pathlib.Path("runs")),
        shares_downloads=cache,
        threads=threads,
    )
    if show_partition:
        _show_partition(settings)
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with asyncio.Runner(loop_factory=run.new_event_loop) as runner:
        status = runner.run(_run(settings))
    raise typer.Exit(status)


def _show_partition(settings: run.Settings) -> None:
    """Print and draw who holds what."""
    try:
        federation = run.load(settings)
    except DataError as error:
        print(f"failed: {error}")
        raise typer.Exit(1) from error
    print(overview.table(federation))
    settings.out.mkdir(parents=True, exist_ok=True)
    picture = settings.out / overview.FILE
    picture.write_bytes(overview.draw(federation))
    print(f"wrote {picture}")


async def _run(settings: run.Settings) -> int:
    """Run, and say how it ended. Returns the exit status."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - a coroutine runs in a task
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, main.cancel)
    shown = progress.choose(sys.stdout)
    running = run.Run(settings, shown)
    try:
        status = await _end_of(running, shown)
    except asyncio.CancelledError:
        status = _INTERRUPTED
        shown.note("interrupted")
    finally:
        shown.close()
    if running.embedded is not None:
        shown.note(f"to go on with its database: {running.embedded.resume_command()}")
    return status


async def _end_of(running: run.Run, shown: progress.Progress) -> int:
    try:
        await running.run()
    except* _EXPECTED as group:
        for text in dict.fromkeys(map(str, _leaves(group))):
            shown.note(f"failed: {text}")
    else:
        return 0
    return 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _read_plan(path: pathlib.Path, *, rounds: int | None, seed: int | None) -> Plan:
    try:
        plan = plans.parse(path.read_text())
    except OSError as error:
        raise typer.BadParameter(f"--plan {path} cannot be read: {error}") from error
    except plans.InvalidPlan as error:
        raise typer.BadParameter(f"--plan {path}: {error}") from error
    changes = {"rounds": rounds, "seed": seed}
    return plan.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )


def _read_attacks(texts: list[str]) -> tuple[Attack, ...]:
    try:
        return tuple(map(Attack.parse, texts))
    except InvalidAttack as error:
        raise typer.BadParameter(f"--attack {error}") from error


def _read_trace(path: pathlib.Path) -> Trace:
    try:
        return read_trace(path)
    except OSError as error:
        raise typer.BadParameter(f"--trace {path} cannot be read: {error}") from error
    except InvalidTrace as error:
        raise typer.BadParameter(f"--trace {path}: {error}") from error


def _read_population(text: str | None, *, devices: int) -> int | None:
    """Return how many devices there are; None is all that the data has."""
    if text is None:
        return devices
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < devices:
        raise typer.BadParameter(
            f"--population must be all or at least the {devices} devices that come in "
            f"a round, got {text}"
        )
    return int(text)


def _new_run_folder(runs: pathlib.Path) -> pathlib.Path:
    """Return a folder named after the time, which no other run has."""
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder, count = runs / name, 1
    while folder.exists():
        count += 1
        folder = runs / f"{name}-{count}"
    return folder


if __name__ == "__main__":
    app()
