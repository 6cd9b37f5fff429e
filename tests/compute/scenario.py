"""A fold and two server steps, run on whichever backend ``KERAS_BACKEND`` names.

``python -m tests.compute.scenario FILE`` writes what came out, for another backend's
process to compare.
"""

import pathlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.compute.backend import select_device
from coordinator.compute.fold import WeightedDelta, fold_mean
from coordinator.compute.server_step import decode_state, encode_state, take_step
from coordinator.domain.optimizers import ServerOptimizer

SIZE = 1003
SETTINGS = ServerOptimizer(learning_rate=0.3, momentum=0.9, nesterov=True)


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


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_bytes(encode_state(run_scenario()))
