"""What each rule of aggregation costs: ``python -m benchmarks.robust``.

50 updates of the CNN's 693,962 weights, in files that are mapped as the coordinator
maps them. The floor is the plain weighted mean of the same files, measured in turn with
every rule. Memory is the most that the process held during a rule beyond what it held
before; pages of mapped files count, though the system may take those back.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final, overload

import numpy as np
import typer

from coordinator.compute import backend, robust
from coordinator.domain.norms import Tracked
from coordinator.protocol.allocator import keep_freed_memory
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_server import AggregationPlan

SIZE: Final = 693_962
_PLAIN: Final = AggregationPlan()
_BOUNDS: Final = {"zero_quantile": 0.98, "clip_quantile": 0.8}


def main(
    *,
    devices: Annotated[int, typer.Option(min=11, help="Updates in the cohort.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each rule.")] = 5,
) -> None:
    """Measure every rule against the plain mean and print a line for each."""
    keep_freed_memory()
    device = backend.select_device("auto")
    print(f"{device.description}, {devices} x {SIZE}")
    print(
        f"{'rule':26}{'seconds':>8}{'  of the mean':>13}{'  beyond MiB':>12}  first s"
    )
    with tempfile.TemporaryDirectory() as folder:
        updates = _Mapped(_written(pathlib.Path(folder), devices))

        def run(plan: AggregationPlan) -> Callable[[], object]:
            return lambda: robust.aggregate(
                updates,
                size=SIZE,
                plan=plan,
                tracked=Tracked(),
                device=device,
                on_progress=lambda _: None,
            )

        run(_PLAIN)()
        for name, plan in _plans(devices // 5).items():
            first_s = _seconds(run(plan))
            before_mib = _reset_peak_mib()
            runs, floors = [], []
            for _ in range(repeats):
                runs.append(_seconds(run(plan)))
                floors.append(_seconds(run(_PLAIN)))
            beyond_mib = _memory_mib("VmHWM") - before_mib
            seconds, floor = statistics.median(runs), statistics.median(floors)
            print(
                f"{name:26}{seconds:8.3f}{seconds / floor:13.1f}"
                f"{beyond_mib:12.0f}{first_s:9.3f}"
            )


def _plans(byzantine: int) -> dict[str, AggregationPlan]:
    return {
        "mean": _PLAIN,
        "mean, max_norm": AggregationPlan(max_norm=100.0),
        "mean, zeroed and clipped": AggregationPlan.model_validate(_BOUNDS),
        "median": AggregationPlan(rule="median"),
        "trimmed_mean": AggregationPlan(rule="trimmed_mean", trim=0.2),
        "krum": AggregationPlan(rule="krum", byzantine=byzantine),
        "multi_krum": AggregationPlan(rule="multi_krum", byzantine=byzantine),
        "geometric_median": AggregationPlan(rule="geometric_median"),
        "median, zeroed and clipped": AggregationPlan.model_validate(
            {"rule": "median", **_BOUNDS}
        ),
    }


class _Mapped(Sequence[tuple[float, Vector]]):
    """Weights and deltas of files, each mapped when it is asked for."""

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> tuple[float, Vector]: ...

    @overload
    def __getitem__(self, index: slice) -> "_Mapped": ...

    def __getitem__(self, index: int | slice) -> "tuple[float, Vector] | _Mapped":
        if isinstance(index, slice):
            return _Mapped(self._paths[index])
        return 100.0 + index, np.memmap(self._paths[index], np.float32, mode="r")


def _written(folder: pathlib.Path, devices: int) -> list[pathlib.Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index in range(devices):
        path = folder / str(index)
        generator.standard_normal(SIZE, dtype=np.float32).tofile(path)
        paths.append(path)
    return paths


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _reset_peak_mib() -> float:
    """Forget the peak, which Linux keeps. Returns what is held now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory_mib("VmRSS")


def _memory_mib(field: str) -> float:
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    typer.run(main)
