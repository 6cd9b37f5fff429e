"""What a version is kept with, and what a release says of its updates."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from coordinator.compute import server_step
from coordinator.compute.backend import ComputeDevice
from coordinator.compute.engine import Engine
from coordinator.domain.aggregation import Folded
from coordinator.domain.events import Happening
from coordinator.domain.norms import Tracked
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.domain.rounds import Phase
from coordinator.protocol.plan_server import AggregationPlan
from coordinator.protocol.plans import Plan
from coordinator.store import schema
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.usecases import models, rounds, tasks
from tests.support.clock import ManualClock
from tests.support.federation import Federation, plan

pytestmark = pytest.mark.tf

ADAM = ServerOptimizer(name="adam", learning_rate=0.1)


@pytest.fixture
def federation(tmp_path: pathlib.Path, device: ComputeDevice) -> Federation:
    store = Store(f"sqlite:///{tmp_path / 'coordinator.db'}", durable=False)
    schema.ensure(store)
    return Federation(
        store=store,
        blobs=BlobStore(tmp_path / "blobs", durable=False),
        clock=ManualClock(),
        folder=tmp_path,
        compute=Engine(device),  # type: ignore[arg-type]  # the real one
    )


def settings(rounds: int = 5, goal: int = 5, **aggregation: object) -> Plan:
    return plan(rounds=rounds, goal=goal, minimum=goal).model_copy(
        update={"aggregation": AggregationPlan.model_validate(aggregation)}
    )


def run_round(federation: Federation, lengths: list[float]) -> dict[str, Any]:
    """One round of updates of these lengths. Returns what its commit says."""
    for length in lengths:
        federation.take_part([length] + [0.0] * 9)
    federation.release(federation.must_claim())
    commits = [
        event
        for event in tasks.list_events(federation.store, after=0, limit=10_000)
        if event.happening is Happening.ROUND_COMMITTED
    ]
    return dict(commits[-1].data)


def state_of(federation: Federation, number: int) -> server_step.State:
    _, version = models.find_version(federation.store, "tiny", number)
    assert version.optimizer_sha256 is not None
    return server_step.decode_state(federation.blobs.get(version.optimizer_sha256))


def test_a_state_without_bounds_is_the_optimizers_alone(device: ComputeDevice) -> None:
    engine, weights = Engine(device), np.ones(4, np.float32)
    aggregate = np.arange(4) / 10
    stepped, state = engine.step(weights, Folded(mean=aggregate), ADAM, None)
    expected, own = server_step.take_step(
        weights, aggregate, settings=ADAM, state=None, device=device
    )
    np.testing.assert_array_equal(stepped, expected)
    assert state == server_step.encode_state(own)


def test_norms_are_kept_beside_the_optimizers_state(device: ComputeDevice) -> None:
    engine, weights = Engine(device), np.ones(2, np.float32)
    updates = [(1.0, np.array([length, 0], np.float32)) for length in (1, 2, 3)]
    rule = AggregationPlan(clip_quantile=0.5, zero_quantile=0.98)
    state = None
    tracked: list[Tracked] = []
    for _ in range(2):
        folded = engine.fold(
            updates, size=2, plan=rule, state=state, on_progress=lambda _: None
        )
        tracked.append(folded.tracked)
        weights, state = engine.step(weights, folded, ADAM, state)
        assert state is not None
        kept = server_step.decode_state(state)
        assert kept["aggregation/clip_norm"].tolist() == folded.tracked.clip_norm
        assert kept["aggregation/zero_norm"].tolist() == folded.tracked.zero_norm
        assert kept["adam/iteration"].tolist() == len(tracked)
    assert tracked[0] != tracked[1]  # the second went on from the first


def test_a_round_says_what_it_zeroed_and_clipped(federation: Federation) -> None:
    federation.start(
        settings=settings(goal=5, clip_quantile=0.5, clip_rate=1.0, zero_quantile=0.98)
    )
    said = run_round(federation, [1.0, 2.0, 3.0, 4.0, 1000.0])
    assert said == {
        "version": 1,
        "aggregation": {
            "rule": "mean",
            "zeroed": 1,
            "clipped": 2,
            "median_norm": 3.0,
            "largest_norm": 1000.0,
            "zero_above": 12.0,
            "clip_to": 2.5,
        },
    }
    again = run_round(federation, [1.0, 2.0, 3.0, 4.0, 5.0])
    # Half of the four kept lay at or below 2.5, as they should: it stays.
    assert again["aggregation"]["clip_to"] == 2.5
    assert state_of(federation, 1)["aggregation/clip_norm"].tolist() == 2.5
    # Of five only two: it grows for the third round.
    grown = 2.5 * np.exp(0.1)
    assert state_of(federation, 2)["aggregation/clip_norm"] == pytest.approx(grown)


def test_a_plain_mean_says_what_it_always_said(federation: Federation) -> None:
    federation.start(settings=settings(goal=2))
    assert run_round(federation, [1.0, 2.0]) == {"version": 1}
    assert set(state_of(federation, 1)) == {"sgd/iteration"}


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "median"},
        {"rule": "multi_krum", "byzantine": 1},
        {"rule": "geometric_median", "clip_quantile": 0.8, "zero_quantile": 0.98},
    ],
)
def test_who_came_first_changes_no_bit_of_a_robust_version(
    federation: Federation, rule: dict[str, Any]
) -> None:
    rng = np.random.default_rng(5)
    deltas = [rng.standard_normal(10, dtype=np.float32) for _ in range(5)]
    for task, order in (("forth", (0, 1, 2, 3, 4)), ("back", (3, 1, 4, 2, 0))):
        federation.start(task, settings(rounds=1, **rule))
        for index in order:
            federation.take_part(deltas[index], examples=index + 1)
        federation.release(federation.must_claim())
    versions = [federation.task(task).version for task in ("forth", "back")]
    assert versions == [1, 3]
    np.testing.assert_array_equal(federation.weights(1), federation.weights(3))
    assert not np.array_equal(federation.weights(0), federation.weights(1))


def test_another_worker_goes_on_with_the_same_bounds(
    federation: Federation, device: ComputeDevice
) -> None:
    lengths = [[1.0, 2.0, 3.0, 4.0, 9.0], [2.0, 2.5, 3.0, 3.5, 70.0]]
    rule = {"clip_quantile": 0.6, "zero_quantile": 0.9}
    federation.start("one", settings(rounds=2, **rule))
    for each in lengths:
        run_round(federation, each)
    federation.start("restarted", settings(rounds=2, **rule))
    for each in lengths:
        fresh = dataclasses.replace(federation, compute=Engine(device))  # type: ignore[arg-type]
        run_round(fresh, each)
    np.testing.assert_array_equal(federation.weights(2), federation.weights(5))
    assert state_of(federation, 2) == state_of(federation, 5)


def test_too_few_updates_for_a_rule_abandon_the_round(federation: Federation) -> None:
    federation.start(
        settings=settings(goal=5, rule="krum", byzantine=1, zero_quantile=0.98)
    )
    for length in (1.0, 1.0, 1.0, 1.0, 1000.0):
        federation.take_part([length] + [0.0] * 9)
    claim = federation.must_claim()
    with pytest.raises(ArithmeticError, match="left 4 of 5 updates") as caught:
        federation.release(claim)
    rounds.give_up(
        federation.store, claim, str(caught.value), now=federation.clock.now()
    )
    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]
    assert federation.task().version == 0
