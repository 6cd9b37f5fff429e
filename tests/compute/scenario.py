"""A fold and steps of every optimizer, on whichever backend ``KERAS_BACKEND`` names.

``python -m tests.compute.scenario FILE`` writes what came out, for another backend's
process to compare.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.compute import robust
from coordinator.compute.backend import ComputeDevice, select_device
from coordinator.compute.fold import WeightedDelta, fold_mean
from coordinator.compute.server_step import (
    State,
    decode_state,
    encode_state,
    take_step,
)
from coordinator.domain.norms import Tracked
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_server import AggregationPlan

SIZE = 1003
SETTINGS = ServerOptimizer(learning_rate=0.3, momentum=0.9, nesterov=True)
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "median": {},
    "trimmed_mean": {"trim": 0.2},
    "krum": {"byzantine": 4},
    "multi_krum": {"byzantine": 4},
    "geometric_median": {},
}
OPTIMIZERS = {
    "fedavg": ServerOptimizer(),
    "fedavgm": ServerOptimizer(learning_rate=0.3, momentum=0.9),
    "fedadam": ServerOptimizer(name="adam", learning_rate=0.3),
    "fedyogi": ServerOptimizer(name="yogi", learning_rate=0.3),
    "fedadagrad": ServerOptimizer(name="adagrad", learning_rate=0.3),
}


def five_updates() -> tuple[Vector, list[npt.NDArray[np.float64]]]:
    """First weights and the aggregates of five rounds, from 1e-4 to 1 in size."""
    generator = np.random.default_rng(11)
    sizes = np.logspace(-4, 0, 13)
    weights = generator.standard_normal(sizes.size, dtype=np.float32)
    return weights, [generator.standard_normal(sizes.size) * sizes for _ in range(5)]


def five_rounds(
    settings: ServerOptimizer,
    *,
    device: ComputeDevice,
    keep: Callable[[State], State] = lambda state: state,
    start: Vector | None = None,
    deltas: Sequence[npt.NDArray[np.float64]] | None = None,
) -> list[tuple[Vector, State]]:
    """Weights and state after every round; ``keep`` is done to it in between."""
    weights, aggregates = five_updates()
    weights = weights if start is None else start
    state: State | None = None
    published = []
    for aggregate in aggregates if deltas is None else deltas:
        weights, after = take_step(
            weights, aggregate, settings=settings, state=state, device=device
        )
        state = keep(after)
        published.append((weights, state))
    return published


def run_scenario() -> dict[str, npt.NDArray[Any]]:
    """Return every array that a round of this backend produces, by name."""
    generator = np.random.default_rng(7)
    updates = [
        WeightedDelta(
            weight=float(generator.integers(1, 1 << 28)),
            delta=generator.standard_normal(SIZE, dtype=np.float32),
        )
        for _ in range(37)
    ]
    weights = generator.standard_normal(SIZE, dtype=np.float32)
    device = select_device("cpu")
    aggregate = fold_mean(updates, size=SIZE, device=device)
    state = None
    for _ in range(2):
        weights, state = take_step(
            weights, aggregate.mean, settings=SETTINGS, state=state, device=device
        )
        state = decode_state(encode_state(state))
    return {"mean": aggregate.mean, "weights": weights, **(state or {})}


def run_rules() -> dict[str, npt.NDArray[Any]]:
    """Return what every rule makes of one cohort, zeroed and clipped, by name."""
    generator = np.random.default_rng(13)
    updates = [
        (
            float(generator.integers(1, 600)),
            generator.standard_normal(SIZE, dtype=np.float32) * np.float32(length),
        )
        for length in (*range(1, 18), 1e4)
    ]
    device = select_device("cpu")
    bounds = {"zero_quantile": 0.98, "clip_quantile": 0.7}
    return {
        f"rule {rule}": robust.aggregate(
            updates,
            size=SIZE,
            plan=AggregationPlan.model_validate({**settings, **bounds, "rule": rule}),
            tracked=Tracked(),
            device=device,
            on_progress=lambda _: None,
        ).mean
        for rule, settings in RULES.items()
    }


def run_optimizers() -> dict[str, npt.NDArray[Any]]:
    """Return weights and state of every optimizer after five rounds, by name."""
    device = select_device("cpu")
    arrays = {}
    for name, settings in OPTIMIZERS.items():
        weights, state = five_rounds(settings, device=device)[-1]
        arrays |= {f"{name}: {key}": array for key, array in state.items()}
        arrays[f"{name}: weights"] = weights
    return arrays


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_bytes(
        encode_state(run_scenario() | run_optimizers() | run_rules())
    )
