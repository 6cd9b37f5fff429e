"""``python -m coordinator``: run the coordinator, or look after it."""

import pathlib
import re
from typing import Annotated

import pydantic
import typer

from coordinator import app as composition
from coordinator import console, device_commands, token_commands
from coordinator.clock import SystemClock
from coordinator.config import Settings
from coordinator.domain import privacy_statement
from coordinator.domain.aggregation import Score
from coordinator.domain.evaluation import Distribution, Metrics
from coordinator.domain.models import PRODUCTION
from coordinator.protocol import operations, plans
from coordinator.protocol.manifest import Name
from coordinator.store import schema
from coordinator.usecases import (
    diagnosis,
    models,
    privacy,
    registry,
    tasks,
)
from coordinator.usecases.registry import Entry
from coordinator.usecases.tasks import RoundView, VersionView

cli = typer.Typer(
    help="The Shoal coordinator. Settings come from SHOAL_* variables, or from the "
    "TOML file that SHOAL_CONFIG names; `settings` lists them.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    add_completion=False,
)
tasks_cli = typer.Typer(help="Start, list, show and stop tasks.")
models_cli = typer.Typer(help="Register models; list, tag and promote versions.")
cli.add_typer(tasks_cli, name="tasks")
cli.add_typer(models_cli, name="models")
cli.add_typer(device_commands.devices, name="devices")
cli.add_typer(token_commands.enrolment_tokens, name="enrolment-tokens")
cli.add_typer(token_commands.operators, name="operators")
cli.command("audit")(token_commands.list_audit)


@cli.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Serve, unless a command says otherwise."""
    if context.invoked_subcommand is None:
        serve()


@cli.command()
def serve(
    *,
    worker: Annotated[
        bool, typer.Option(help="Run a worker process beside the API.")
    ] = True,
) -> None:
    """Run the API and a worker. An empty database gets its schema first."""
    with console.settings() as settings:
        composition.serve(settings, with_worker=worker)


@cli.command("worker")
def work() -> None:
    """Run a worker alone, beside an API that runs with --no-worker."""
    with console.settings() as settings:
        composition.work(settings)


@cli.command("key-authority")
def run_authority(
    *,
    data: Annotated[
        pathlib.Path,
        typer.Option(help="Its folder, created if need be; no coordinator's."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8100,
    roster: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Public keys of the devices that count, base64 of one a line. "
            "Without it every key counts, once."
        ),
    ] = None,
) -> None:
    """Run a key authority: it decrypts one sum of each encrypted round.

    It has no settings, and shares nothing with a coordinator: run it elsewhere, as
    somebody else. It writes `coordinator.token`, for the coordinator's
    SHOAL_AUTHORITY_TOKEN, and `authority.pub`, which devices are to pin.
    """
    # TenSEAL is loaded here and in the child alone.
    from coordinator.authority import service as authority  # noqa: PLC0415 - see above

    try:
        authority.serve(data, host=host, port=port, roster=roster)
    except (OSError, ValueError) as error:
        console.complain(str(error))
        raise typer.Exit(composition.EXIT_UNUSABLE) from error


@cli.command()
def migrate() -> None:
    """Upgrade the database to the schema of this version."""
    with console.settings() as settings:
        store = composition.open_store(settings)
        typer.echo(f"the database has schema {schema.upgrade(store)}")


@cli.command()
def doctor(
    *,
    repair: Annotated[
        bool, typer.Option(help="Delete files that nothing needs.")
    ] = False,
) -> None:
    """Compare files and database. Exit code 1 if anything is wrong.

    A coordinator may run meanwhile. Files younger than an hour are left alone.
    """
    with console.settings() as settings:
        store, blobs = composition.open_existing(settings)
        findings = diagnosis.examine(
            store, blobs, now=SystemClock().now(), repair=repair
        )
        for finding in findings:
            mended = " (mended)" if finding.is_mended else ""
            typer.echo(f"{finding.trouble}: {finding.what}{mended}")
        wrong = sum(not finding.is_mended for finding in findings)
        mendable = sum(finding.trouble in diagnosis.MENDED for finding in findings)
        typer.echo(f"{len(findings)} findings, {len(findings) - wrong} mended")
        if mendable and not repair:
            typer.echo(f"--repair mends {mendable} of them")
        if wrong:
            raise typer.Exit(1)


@cli.command()
def backup(
    folder: Annotated[
        pathlib.Path, typer.Argument(help="Folder to make; it must not exist.")
    ],
) -> None:
    """Copy database, files and token while a coordinator runs. SQLite alone.

    Start from the copy to restore it. Exit code 1 if a file was lost before.
    """
    with console.settings() as settings:
        copied = composition.back_up(settings, folder)
        typer.echo(f"{folder} holds {copied.files} files, {copied.size_bytes} bytes")
        for lost in copied.lost:
            typer.echo(f"lost: {lost}")
        if copied.lost:
            raise typer.Exit(1)


@cli.command("settings")
def list_settings() -> None:
    """List every setting with its meaning, default and present value."""
    with console.settings() as settings:
        for name, field in Settings.model_fields.items():
            value = getattr(settings, name)
            if name == "database_url" and value is not None:
                value = re.sub(r":[^:/@]*@", ":***@", value)  # no password on a screen
            typer.echo(f"SHOAL_{name.upper()} = {value}  (default {field.default})")
            typer.echo(f"    {field.description}")


@tasks_cli.command("create")
def create_task(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    plan: Annotated[pathlib.Path, typer.Option(help="Plan, a TOML file.", exists=True)],
) -> None:
    """Start a task."""
    with console.settings() as settings:
        store, blobs = composition.prepare(settings)
        request = operations.TaskRequest(
            id=task, plan=plans.parse(plan.read_text(encoding="utf-8"))
        )
        view = tasks.create(
            store,
            blobs,
            task_id=request.id,
            plan=request.plan,
            has_authority=settings.authority_url is not None,
            now=SystemClock().now(),
        )
        typer.echo(f"task {task} runs from version {view.task.version}")


@tasks_cli.command("list")
def list_tasks() -> None:
    """List tasks, newest first."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        for view in tasks.list_tasks(store, now=SystemClock().now()):
            task = view.task
            typer.echo(
                f"{task.id}: {task.status}, model {task.plan.model}, "
                f"{task.rounds_committed}/{task.plan.rounds} rounds, "
                f"version {task.version}" + (f" ({task.reason})" if task.reason else "")
            )


@tasks_cli.command("show")
def show_task(task: Annotated[str, typer.Argument(help="Name of the task.")]) -> None:
    """Show a task's plan, rounds and metrics."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        now = SystemClock().now()
        view = tasks.look(store, task_id=task, now=now)
        typer.echo(f"{task}: {view.task.status}")
        if view.task.reason:
            typer.echo(f"reason: {view.task.reason}")
        typer.echo(view.task.plan.model_dump_json(indent=2))
        for round_ in tasks.list_rounds(store, task_id=task, now=now):
            typer.echo(_round_line(round_))
        for version in tasks.list_metrics(store, task_id=task):
            typer.echo(_version_line(version))


@tasks_cli.command("stop")
def stop_task(task: Annotated[str, typer.Argument(help="Name of the task.")]) -> None:
    """Stop a task and abandon its open round."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        tasks.stop(store, task_id=task, now=SystemClock().now())
        typer.echo(f"task {task} is stopped")


@tasks_cli.command("privacy")
def show_privacy(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
) -> None:
    """Show what a task can give away of a device, and under which assumptions."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        view = privacy.look(store, task_id=task)
        for line in privacy_statement.of(view.task.plan, view.ledger).lines():
            typer.echo(line)


@models_cli.command("register")
def register_model(
    folder: Annotated[
        pathlib.Path,
        typer.Argument(help="Folder that `python -m tflite_models build` wrote."),
    ],
) -> None:
    """Register a model."""
    with console.settings() as settings:
        store, blobs = composition.prepare(settings)
        model = models.register(store, blobs, folder, now=SystemClock().now())
        typer.echo(f"model {model.id}: {model.manifest.size} parameters")


@models_cli.command("list")
def list_models() -> None:
    """List models and how many versions each has."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        for view in models.list_models(store):
            parts = [
                f"{view.model.id}: {view.model.manifest.size} parameters",
                f"{view.versions} versions",
            ]
            if view.newest_version is not None:
                parts.append(f"newest {view.newest_version}")
            parts += [f"{tag} = {number}" for tag, number in view.tags.items()]
            typer.echo(", ".join(parts))


@models_cli.command("versions")
def list_versions(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    before: Annotated[
        int | None, typer.Option(help="Only versions with a lower number.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
) -> None:
    """List a model's versions with origin, scores and tags, newest first."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        for entry in registry.list_versions(
            store, model=model, before=before, limit=limit
        ):
            typer.echo(_entry_line(entry))


@models_cli.command("promote")
def promote_version(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(help="Number of the version.")],
) -> None:
    """Let the tag `production`, which apps are meant to run, point to a version."""
    tag_version(model, PRODUCTION, version)


@models_cli.command("tag")
def tag_version(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    tag: Annotated[str, typer.Argument(help="Name for the version.")],
    version: Annotated[int, typer.Argument(help="Number of the version.")],
) -> None:
    """Let a tag point to a version; where it pointed before, it points no more."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        name = pydantic.TypeAdapter(Name).validate_python(tag)
        registry.set_tag(
            store, model=model, name=name, number=version, now=SystemClock().now()
        )
        typer.echo(f"{tag} is version {version} of model {model}")


@models_cli.command("untag")
def untag_version(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    tag: Annotated[str, typer.Argument(help="The tag.")],
) -> None:
    """Remove a tag; its version stays."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        registry.remove_tag(store, model=model, name=tag, now=SystemClock().now())
        typer.echo(f"model {model} has no tag {tag} any more")


@models_cli.command("rollback")
def roll_back(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(help="Number of the version.")],
) -> None:
    """Let the running task that published a version go on from it."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        _, found = models.find_version(store, model, version)
        tasks.roll_back(
            store, task_id=found.task, number=version, now=SystemClock().now()
        )
        typer.echo(f"task {found.task} goes on from version {version}")


def _round_line(view: RoundView) -> str:
    round_, counts = view.round, view.counts
    stale = ""
    if view.staleness_mean is not None:
        stale = f", staleness {view.staleness_mean:.2f}, at most {view.staleness_max}"
    return (
        f"round {round_.number}.{round_.attempt} ({round_.kind}): {round_.phase}, "
        f"{counts.accepted} accepted, {counts.failed} failed, {counts.lapsed} lapsed"
        + stale
        + (f", {round_.reason}" if round_.reason else "")
    )


def _entry_line(entry: Entry) -> str:
    version, origin = entry.version, entry.origin
    notes = [*entry.tags, *(["current"] if origin.is_current else [])]
    made = (
        f"first of task {version.task}"
        if origin.round_number is None
        else f"round {origin.round_number} of task {version.task}, "
        f"from {origin.base_version}"
    )
    return (
        _version_line(entry)
        + f" ({made})"
        + (f" [{', '.join(notes)}]" if notes else "")
    )


def _version_line(view: VersionView | Entry) -> str:
    parts = [f"version {view.version.number}:"]
    if view.train is not None:
        parts.append(_score_text("train", view.train))
    if view.federated is not None:
        parts += _federated_texts(view.federated)
    if view.held_out is not None:
        parts.append(_score_text("held out", view.held_out))
    return " ".join(parts)


def _federated_texts(metrics: Metrics) -> list[str]:
    parts = [_score_text("federated", metrics.score)]
    if metrics.distribution is not None:
        parts.append(f"({_distribution_text(metrics.distribution)})")
    if (tuned := metrics.personalized) is not None:
        parts.append(_score_text("personalized", tuned.score))
        found = [f"{tuned.devices} of {metrics.devices} devices"]
        if tuned.distribution is not None:
            found.append(_distribution_text(tuned.distribution))
        if tuned.change is not None:
            found.append(f"change: {_distribution_text(tuned.change)}")
        parts.append(f"({'; '.join(found)})")
    return parts


def _score_text(name: str, score: Score) -> str:
    return f"{name} loss {score.loss:.4f} accuracy {score.accuracy:.4f}"


def _distribution_text(found: Distribution) -> str:
    return (
        f"worst tenth of devices {found.worst_tenth:.4f}, 10 % below {found.p10:.4f}, "
        f"25 % {found.p25:.4f}, median {found.p50:.4f}, 75 % {found.p75:.4f}, "
        f"90 % {found.p90:.4f}"
    )


if __name__ == "__main__":
    cli()
