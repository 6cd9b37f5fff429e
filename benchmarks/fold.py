"""How fast a cohort is folded: ``python -m benchmarks.fold``.

50 updates of the CNN's 693,962 weights. The floor is one numpy pass that reads the same
deltas and adds them up in float32: what memory and one core allow without weights,
float64 or a device.
"""

import statistics
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from coordinator.compute.backend import select_device
from coordinator.compute.fold import WeightedDelta, fold_mean, warm_up

UPDATES: Final = 50
SIZE: Final = 693_962
REPEATS: Final = 15


def main() -> None:
    """Measure and print; the ratio last."""
    generator = np.random.default_rng(0)
    updates = [
        WeightedDelta(
            weight=float(generator.integers(1, 600)),
            delta=generator.standard_normal(SIZE, dtype=np.float32),
        )
        for _ in range(UPDATES)
    ]
    device = select_device("auto")
    started = time.perf_counter()
    warm_up(SIZE, device=device)
    print(f"device           {device.description}")
    print(f"compile          {time.perf_counter() - started:.3f} s, once")

    def add_only() -> None:
        total = np.zeros(SIZE, np.float32)
        for update in updates:
            total += update.delta

    floor_s = median_s(add_only)
    fold_s = median_s(lambda: fold_mean(updates, size=SIZE, device=device))
    print(f"floor            {floor_s:.4f} s")
    print(f"fold             {fold_s:.4f} s for {UPDATES} x {SIZE}")
    print(f"ratio to floor   {fold_s / floor_s:.2f}")


def median_s(run: Callable[[], object]) -> float:
    """Return the median seconds of ``REPEATS`` runs, after one that is not counted."""
    run()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
