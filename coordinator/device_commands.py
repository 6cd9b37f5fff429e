"""Commands on devices: list and revoke them, and what is kept of one."""

import json
from typing import Annotated

import typer

from coordinator import app as composition
from coordinator import console
from coordinator.clock import SystemClock
from coordinator.protocol.data_rights import rows_as_json
from coordinator.usecases import data_rights, tokens
from coordinator.usecases import devices as usecase

devices = typer.Typer(help="List, revoke, export and erase devices.")
_Device = Annotated[str, typer.Argument(help="Id of the device.")]


@devices.command("list")
def list_devices(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
) -> None:
    """List devices, newest first."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        for device, accepted in usecase.list_devices(store, limit=limit):
            parts = [f"enrolled {device.enrolled_at:%Y-%m-%d %H:%M:%S}"]
            parts.append(f"{accepted} results counted")
            if device.attestation is not None:
                parts.append(f"key attested: {device.attestation}")
            if device.revoked_at is not None:
                parts.append(f"revoked {device.revoked_at:%Y-%m-%d %H:%M:%S}")
            if device.erased_at is not None:
                parts.append(f"erased {device.erased_at:%Y-%m-%d %H:%M:%S}")
            typer.echo(f"{device.id} {device.name or '-'}: {', '.join(parts)}")


@devices.command("revoke")
def revoke_device(device: _Device) -> None:
    """Shut a device out for good, and free the place that it holds."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        usecase.revoke(store, device, by=tokens.COMMAND_LINE, now=SystemClock().now())
        typer.echo(f"device {device} is revoked")


@devices.command("export")
def export_device(device: _Device) -> None:
    """Print all that the database keeps of a device, as JSON."""
    with console.settings() as settings:
        store, _ = composition.prepare(settings)
        tables = data_rights.export(store, device, with_secret=False)
        typer.echo(json.dumps(rows_as_json(tables), indent=2))


@devices.command("erase")
def erase_device(device: _Device) -> None:
    """Shut a device out, and erase all that is kept of it but that it took part."""
    with console.settings() as settings:
        store, blobs = composition.prepare(settings)
        erased = data_rights.erase(
            store, blobs, device, by=tokens.COMMAND_LINE, now=SystemClock().now()
        )
        left = erased.contributions
        typer.echo(
            f"device {device} is erased; {left.in_versions} versions were made with "
            f"its updates, {left.under_way} rounds are being summed up with one"
        )
