"""Commands on who may call: enrolment tokens, operators, and the audit log."""

import datetime as dt
from typing import Annotated

import typer

from coordinator import app as composition
from coordinator import console
from coordinator.clock import SystemClock
from coordinator.domain.devices import Role
from coordinator.protocol import admission
from coordinator.usecases import tokens

enrolment_tokens = typer.Typer(help="Make, list and revoke enrolment tokens.")
operators = typer.Typer(help="Admit, list and revoke operators.")
_Name = Annotated[str, typer.Argument(help="What it is for, for people's eyes.")]


@enrolment_tokens.command("create")
def make_enrolment_token(
    name: _Name,
    *,
    uses: Annotated[
        int, typer.Option(min=1, help="Devices that may enrol with it.")
    ] = 1,
    valid_h: Annotated[
        float, typer.Option(min=0.01, help="Hours until it expires.")
    ] = 24.0,
) -> None:
    """Make a token for one device or for a fleet, and print it this once."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        request = admission.EnrolmentTokenRequest(
            name=name, max_uses=uses, valid_s=3600 * valid_h
        )
        token, text = tokens.make_enrolment_token(
            store,
            name=request.name,
            max_uses=request.max_uses,
            valid_for=dt.timedelta(seconds=request.valid_s),
            by=tokens.COMMAND_LINE,
            now=SystemClock().now(),
        )
        typer.echo(f"{token.id} {text}")


@enrolment_tokens.command("list")
def list_enrolment_tokens() -> None:
    """List enrolment tokens, newest first, without their text."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        now = SystemClock().now()
        for token in tokens.list_enrolment_tokens(store):
            typer.echo(
                f"{token.id} {token.name}: {token.uses}/{token.max_uses} devices, "
                + (token.fault(now) or f"until {token.expires_at:%Y-%m-%d %H:%M:%S}")
            )


@enrolment_tokens.command("revoke")
def revoke_enrolment_token(
    token: Annotated[str, typer.Argument(help="Id of the token.")],
) -> None:
    """Let a token admit nobody any more. Devices that it admitted stay."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        tokens.revoke_enrolment_token(
            store, token, by=tokens.COMMAND_LINE, now=SystemClock().now()
        )
        typer.echo(f"enrolment token {token} is revoked")


@operators.command("create")
def make_operator(
    name: _Name,
    *,
    role: Annotated[
        Role,
        typer.Option(
            help="read: look at everything; run: tasks and tags too; admin: tokens, "
            "operators and devices too."
        ),
    ],
) -> None:
    """Admit an operator, and print the token this once."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        request = admission.OperatorRequest(name=name, role=role.value)
        operator, text = tokens.make_operator(
            store,
            name=request.name,
            role=role,
            by=tokens.COMMAND_LINE,
            now=SystemClock().now(),
        )
        typer.echo(f"{operator.id} {text}")


@operators.command("list")
def list_operators() -> None:
    """List operators, oldest first, without their tokens."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        for operator in tokens.list_operators(store):
            revoked = "" if operator.revoked_at is None else ", revoked"
            typer.echo(f"{operator.id} {operator.name}: {operator.role}{revoked}")


@operators.command("revoke")
def revoke_operator(
    operator: Annotated[str, typer.Argument(help="Id of the operator.")],
) -> None:
    """Let an operator's token be worth nothing from now on."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        tokens.revoke_operator(
            store, operator, by=tokens.COMMAND_LINE, now=SystemClock().now()
        )
        typer.echo(f"operator {operator} is revoked")


def list_audit(
    after: Annotated[
        int, typer.Option(min=0, help="Only entries with a greater number.")
    ] = 0,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
) -> None:
    """Read the audit log: security decisions, oldest first."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        for entry in tokens.list_audit(store, after=after, limit=limit):
            parts = [f"{entry.id} {entry.at:%Y-%m-%d %H:%M:%S} {entry.decision}"]
            parts += [f"reason {entry.reason}"] if entry.reason else []
            parts += [f"subject {entry.subject}"] if entry.subject else []
            parts += [f"by {entry.by}"] if entry.by else []
            parts += [f"{entry.times} times"] if entry.times > 1 else []
            typer.echo(", ".join(parts))
