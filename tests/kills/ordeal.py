"""A coordinator under load, killed again and again at random moments."""

import collections
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx
import numpy as np

from coordinator.protocol import paths
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from tests.kills import checks
from tests.kills.cluster import Cluster, Moment, Victims
from tests.kills.load import Load, wait_for_a_complete_round, wait_for_progress
from tests.support.processes import Coordinator, wait_until, write_wide_model

DEVICES: Final = 12
SIZE: Final = 50_000
#: Of twenty kills. The API comes back fast, workers load TensorFlow first.
_DECK: Final = (
    *(Victims.API,) * 8,
    *(Victims.OWN,) * 3,
    *(Victims.OTHER,) * 3,
    *(Victims.WORKERS,) * 3,
    *(Victims.ALL,) * 3,
)
_WITHIN_S: Final = 1.0  # of work: several rounds
#: Of the kills of both workers: share that strikes soon after a round has its updates,
#: because folding and publishing take a small part of the time.
_AIMED: Final = 0.75
_AFTER_S: Final = 0.1  # a fold and its release, about
_HASTE: Final = 0.15  # share of kills that do not wait for the one before to be mended


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill, and what came of it."""

    victims: Victims
    moment: Moment
    uploading: int  #: updates on their way when it struck
    mended_s: float | None  #: until a later round was open; none: not waited for


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run in which nothing was lost or doubled."""

    kills: list[Kill]
    rounds: int
    receipts: int
    lost_answers: int  #: updates that counted before their device heard of it
    leftovers: int


def go_through(
    folder: pathlib.Path,
    *,
    database_url: str,
    kills: int,
    seed: int,
    tell: Callable[[int, Kill], None],
) -> Outcome:
    """Run rounds, kill, and check every version, receipt, row and file.

    Args:
        folder: Where the coordinator keeps its files.
        database_url: Of an empty database.
        kills: How many times to kill.
        seed: Draws victims and moments.
        tell: Called with each kill's number and what came of it.

    Raises:
        AssertionError: Something is wrong; everything is left as it was found.
    """
    manifest = write_wide_model(folder / "models", SIZE)
    coordinator = Coordinator(
        folder, database_url=database_url, models_dir=folder / "models"
    )
    cluster = Cluster(coordinator, database_url)
    cluster.start()
    try:
        wait_until(coordinator.is_alive, "the API")
        _create_task(coordinator)
        load = Load(coordinator.url, manifest, devices=DEVICES)
        load.start()
        wait_for_progress(load, 1)
        suffered = list(_kill(cluster, load, kills, seed, tell))
        committed = load.finish()
        wait_until(lambda: _committed(coordinator) == committed, "the last round")
        assert coordinator.run("tasks", "stop", checks.TASK).returncode == 0
    finally:
        cluster.stop()
    store = Store(database_url, durable=False)
    try:
        blobs = BlobStore(coordinator.data_dir / "blobs", durable=False)
        checks.expect_exactly_once(store, blobs, load, manifest, committed=committed)
        leftovers = checks.expect_nothing_lost_or_left(
            coordinator, store, manifest, committed=committed
        )
    finally:
        store.close()
    return Outcome(
        kills=suffered,
        rounds=committed,
        receipts=len(load.proofs),
        lost_answers=sum(proof.was_lost for proof in load.proofs),
        leftovers=leftovers,
    )


def _kill(
    cluster: Cluster,
    load: Load,
    count: int,
    seed: int,
    tell: Callable[[int, Kill], None],
) -> Iterator[Kill]:
    rng = np.random.default_rng(seed)
    deck = [victims for _ in range(0, count, len(_DECK)) for victims in _shuffled(rng)]
    for number, victims in enumerate(deck[:count], start=1):
        hits_both = victims in {Victims.WORKERS, Victims.ALL}
        is_aimed = hits_both and rng.random() < _AIMED
        if is_aimed:
            wait_for_a_complete_round(load)
        # The random moment.
        time.sleep(rng.uniform(0.0, _AFTER_S if is_aimed else _WITHIN_S))
        uploading, before = load.uploading, load.newest
        moment = cluster.kill(victims)
        struck = time.monotonic()
        cluster.start()
        is_hasty = rng.random() < _HASTE and number < count
        if not is_hasty:
            wait_for_progress(load, before)
        kill = Kill(
            victims=victims,
            moment=moment,
            uploading=uploading,
            mended_s=None if is_hasty else time.monotonic() - struck,
        )
        tell(number, kill)
        yield kill


def _shuffled(rng: np.random.Generator) -> list[Victims]:
    return [_DECK[index] for index in rng.permutation(len(_DECK))]


def summary(outcome: Outcome) -> Iterator[str]:
    """Say what a run came to, in lines."""
    yield (
        f"{len(outcome.kills)} kills, {outcome.rounds} rounds, {outcome.receipts} "
        "receipts: each in one sum, and once"
    )
    yield f"{outcome.lost_answers} updates counted before their device heard of it"
    yield f"{outcome.leftovers} half-received bodies deleted by the doctor"
    for victims in Victims:
        kills = [kill for kill in outcome.kills if kill.victims is victims]
        if not kills:
            continue
        yield f"{len(kills)} kills of {victims}, {_where(kills)}"
        busy = sum(kill.uploading > 0 for kill in kills)
        yield f"  updates were on their way in {busy} of them"
        times = sorted(kill.mended_s for kill in kills if kill.mended_s is not None)
        if times:
            median = times[len(times) // 2]
            yield f"  mended after {median:.1f} s (median), {times[-1]:.1f} s (most)"


def _where(kills: list[Kill]) -> str:
    counts = collections.Counter(kill.moment for kill in kills)
    return ", ".join(f"{count} {moment}" for moment, count in counts.most_common())


def _create_task(coordinator: Coordinator) -> None:
    plan = {
        "model": "wide",
        "rounds": 1_000_000,
        "round": {
            "goal": DEVICES,
            "minimum": DEVICES,
            "lease_s": 3600,
            "deadline_s": 7200,
        },
        "server": {"momentum": checks.MOMENTUM},
    }
    httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": checks.TASK, "plan": plan},
    ).raise_for_status()


def _committed(coordinator: Coordinator) -> int:
    count: int = coordinator.get(paths.task(checks.TASK))["rounds_committed"]
    return count
