"""Whatever happens, every update with a receipt is in its sum exactly once."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.plan_rounds import AsynchronousPlan
from tests.simulation.faults import FaultyBlobs, FaultyStore, Fuse
from tests.simulation.world import Operation, World
from tests.support.clock import ManualClock
from tests.support.federation import Federation, plan

# what a device must do before anything else can happen comes up oftener
NAMES = (
    *(["check_in"] * 10 + ["report"] * 10 + ["ask"] * 2 + ["send"] * 3),
    *(["deliver"] * 5 + ["lose_answer"] * 2 + ["open"] * 2),
    *("copy", "drop", "corrupt", "steal", "give_up", "wait"),
    *("advance", "claim", "claim", "fold", "fold", "commit", "clean", "notice"),
)
MOMENTS = (*([0] * 12), 1, 2, 3, 4, 5)

operations = st.builds(
    Operation,
    name=st.sampled_from(NAMES),
    which=st.integers(0, 40),
    dies=st.sampled_from(MOMENTS),
)
histories = st.lists(operations, min_size=60, max_size=140)


@contextlib.contextmanager
def a_world(template: pathlib.Path, *, is_asynchronous: bool) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shutil.copyfile(template, folder / "coordinator.db")
        fuse = Fuse()
        store = FaultyStore(f"sqlite:///{folder / 'coordinator.db'}", fuse)
        federation = Federation(
            store=store,
            blobs=FaultyBlobs(folder / "blobs", fuse),
            clock=ManualClock(),
            folder=folder,
        )
        asynchronous = AsynchronousPlan(concurrency=4, max_staleness=1)
        federation.start(
            settings=plan(
                rounds=3,
                goal=3 if not is_asynchronous else 2,
                over_select=0.0 if is_asynchronous else 0.4,
                minimum=2,
                lease_s=20,
                deadline_s=60,
                max_attempts=100,
                asynchronous=asynchronous if is_asynchronous else None,
            )
        )
        try:
            yield World(federation, fuse)
        finally:
            store.close()


def run(
    template: pathlib.Path, history: list[Operation], *, is_asynchronous: bool
) -> None:
    with a_world(template, is_asynchronous=is_asynchronous) as world:
        for operation in history:
            world.do(operation)
        world.settle()


@settings(max_examples=100)
@given(history=histories, is_asynchronous=st.booleans())
def test_whatever_happens_every_receipt_is_in_its_sum_once(
    sqlite_template: pathlib.Path, history: list[Operation], *, is_asynchronous: bool
) -> None:
    run(sqlite_template, history, is_asynchronous=is_asynchronous)
