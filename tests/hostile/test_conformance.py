"""A short run of schemathesis, always with the same seed."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.hostile import conformance
from tests.support.processes import Coordinator


@pytest.fixture
def coordinator(tmp_path: pathlib.Path) -> Iterator[Coordinator]:
    running = conformance.start(tmp_path)
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.parametrize("caller", conformance.CALLERS)
def test_the_api_does_what_its_description_says(coordinator: Coordinator, caller: str):
    done = conformance.run(
        coordinator,
        caller,
        "--seed=1",
        "--max-examples=3",
        "--phases=examples,coverage",
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Traceback" not in coordinator.log
    assert coordinator.is_alive()
