"""Around every command: read settings, and say plainly what failed."""

import contextlib
from collections.abc import Iterator

import pydantic
import typer

from coordinator import app as composition
from coordinator.config import InvalidSettings, Settings, read_settings
from coordinator.domain.errors import DomainError
from coordinator.protocol import plans
from coordinator.store import schema
from coordinator.store.files import StorageUnavailable
from coordinator.usecases.models import InvalidModel


@contextlib.contextmanager
def settings() -> Iterator[Settings]:
    """Read settings and log; turn what a person can mend into one clear line."""
    try:
        read = read_settings()
        composition.configure_logging(read)
        yield read
    except (
        InvalidSettings,
        InvalidModel,
        plans.InvalidPlan,
        schema.SchemaMismatch,
        composition.CannotStart,
        DomainError,
        StorageUnavailable,
        OSError,
        UnicodeDecodeError,
    ) as error:
        complain(str(error))
        raise typer.Exit(composition.EXIT_UNUSABLE) from error
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [": ".join([*map(str, f["loc"][:1]), f["msg"]]) for f in faults]
        complain("; ".join(lines))
        raise typer.Exit(composition.EXIT_UNUSABLE) from error
    except composition.DATABASE_ERRORS as error:
        complain(f"the database cannot be used: {error}")
        raise typer.Exit(composition.EXIT_UNUSABLE) from error


def complain(message: str) -> None:
    """Say in one line what is wrong."""
    typer.echo("error: " + " ".join(message.split()), err=True)
