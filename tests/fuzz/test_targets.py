"""A short run of every fuzzer, the same inputs each time."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

COUNT = 150
MOST_S = 3.0


def run(target: Target, data: bytes) -> None:
    """Run one input, and insist on bounds of time and memory."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    began = time.thread_time()
    target.run(data)
    assert time.thread_time() - began < MOST_S
    assert tracemalloc.get_traced_memory()[1] - before < target.peak_bytes


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_only_documented_refusals_leave_a_decoder(target: Target):
    tracemalloc.start()
    try:
        seeds = list(target.seeds())
        for seed in seeds:
            run(target, seed)
        for number, seed in zip(range(COUNT), itertools.cycle(seeds), strict=False):
            rng = np.random.default_rng([number, len(target.name)])
            data = seed
            for _ in range(1 + int(rng.integers(4))):
                data = target.mutate(data, rng)
                try:
                    run(target, data)
                except BaseException as error:
                    error.add_note(f"{target.name}, number {number}: {data[:200]!r}")
                    raise
    finally:
        tracemalloc.stop()
