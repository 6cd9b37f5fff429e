"""Many more histories than a test run has: ``python -m tests.simulation``."""

import pathlib
import tempfile
from typing import Annotated

import hypothesis
import typer
from hypothesis import strategies as st

from coordinator.store import schema
from coordinator.store.engine import Store
from tests.simulation.test_exactly_once import histories, run
from tests.simulation.world import Operation


def main(
    lists: Annotated[int, typer.Option(min=1, help="How many histories.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Draws them.")] = 0,
) -> None:
    """Run random histories; the first that goes wrong is made short and shown."""
    with tempfile.TemporaryDirectory() as folder:
        template = pathlib.Path(folder) / "template.db"
        store = Store(f"sqlite:///{template}", durable=False)
        schema.upgrade(store)
        store.close()
        count = 0

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=lists,
            derandomize=False,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(history=histories, is_asynchronous=st.booleans())
        def every_history(history: list[Operation], *, is_asynchronous: bool) -> None:
            nonlocal count
            run(template, history, is_asynchronous=is_asynchronous)
            count += 1
            if count % 500 == 0:
                print(f"{count} histories, none wrong", flush=True)

        every_history()
    print(f"{count} histories, none wrong")


if __name__ == "__main__":
    typer.run(main)
