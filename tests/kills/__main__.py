"""Hundreds of ``kill -9`` at random moments: ``python -m tests.kills``."""

import contextlib
import enum
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Annotated

import typer

from tests.kills.ordeal import Kill, go_through, summary
from tests.support.databases import running_postgres


class Database(enum.StrEnum):
    """Which database the coordinator uses."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


def main(
    database: Annotated[Database, typer.Option(help="Where the rounds are kept.")],
    kills: Annotated[int, typer.Option(min=1, help="How many times to kill.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Draws victims and moments.")] = 0,
) -> None:
    """Kill a coordinator under load; the first thing that is wrong ends it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="shoal-kills-"))
    print(f"the coordinator's files are in {folder}", flush=True)
    with _empty(database, folder) as url:
        outcome = go_through(
            folder, database_url=url, kills=kills, seed=seed, tell=_print
        )
    print("\n".join(summary(outcome)))
    shutil.rmtree(folder)


@contextlib.contextmanager
def _empty(database: Database, folder: pathlib.Path) -> Iterator[str]:
    if database is Database.SQLITE:
        yield f"sqlite:///{folder / 'coordinator.db'}"
        return
    with running_postgres() as postgres:
        yield postgres.url_of(postgres.create())


def _print(number: int, kill: Kill) -> None:
    mended = "" if kill.mended_s is None else f", mended in {kill.mended_s:.1f} s"
    print(f"{number:4} {kill.victims}: {kill.moment}{mended}", flush=True)


if __name__ == "__main__":
    typer.run(main)
