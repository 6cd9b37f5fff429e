"""A long run of schemathesis: ``python -m tests.hostile --seconds 600``."""

import pathlib
import tempfile
from typing import Annotated

import typer

from tests.hostile import conformance


def main(
    seconds: Annotated[int, typer.Option(min=1, help="For each caller.")] = 600,
) -> None:
    """Call the API as everybody it knows and as nobody; exits with 1 on a find."""
    failed = False
    for caller in conformance.CALLERS:
        with tempfile.TemporaryDirectory() as folder:
            coordinator = conformance.start(pathlib.Path(folder))
            try:
                done = conformance.run(coordinator, caller, f"--max-time={seconds}")
                raised = "Traceback" in coordinator.log
            finally:
                coordinator.stop()
        print(done.stdout, done.stderr, sep="\n")
        print(f"{caller}: exit {done.returncode}, exceptions in the log: {raised}")
        failed = failed or raised or done.returncode != 0
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
