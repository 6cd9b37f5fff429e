"""The weighted mean of a cohort's deltas, streaming: FedAvg's aggregate.

Sums are float64 and run element by element in the order given, ``sum = sum + w * d``.
That makes the result the same to the last bit from run to run, on TensorFlow and on
JAX, whatever the number of threads or the batch size:

* elements are independent, so threads cannot change an order;
* a float32 has 24 significant bits, so its product with a whole weight below 2**29 fits
  into the 53 bits of a float64 exactly. A compiler may then fuse the multiplication
  into the addition or not: both round once, to the same number.

Other weights are taken too, but then the last bit is the compiler's.

NOTE: CPUs treat subnormal float32 values (below 1.2e-38) as zero here; GPUs may not.

Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", algorithm 1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import keras
import numpy as np
import numpy.typing as npt

from coordinator.compute.backend import ComputeDevice, Tensor, compiled
from coordinator.protocol.manifest import Vector

# Measured: a larger batch costs more in fresh memory than its fewer steps save.
_BATCH_BYTES: Final = 12 << 20
_LEAST_ROWS: Final = 4  # fewer, and reading and writing the sum outweighs the deltas
_MOST_ROWS: Final = 16  # the compiled step is unrolled: a row is a line of code


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightedDelta:
    """One update as the mean needs it."""

    weight: float  #: above 0: the number of examples
    delta: Vector  #: shape (size,), float32; read once, never kept
    scale: float = 1.0  #: of the delta, which is clipped if this is below 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """The weighted mean of a cohort."""

    mean: npt.NDArray[np.float64]  #: shape (size,)
    weight: float  #: sum of the weights
    count: int  #: number of updates


def fold_mean(
    updates: Iterable[WeightedDelta],
    *,
    size: int,
    device: ComputeDevice,
    on_progress: Callable[[int], None] | None = None,
) -> Aggregate:
    """Return ``sum(w_i * scale_i * delta_i) / sum(w_i)``. Run by the worker.

    Takes one update at a time and keeps one batch of them (12 MiB, or 4 deltas if those
    are more), so memory does not grow with the cohort.

    Args:
        updates: In the order in which they are to be summed.
        size: Number of elements of each delta.
        device: Where to compute.
        on_progress: Called after each batch with the number of updates summed so far.

    Raises:
        ValueError: There is no update, or one has a wrong shape, dtype or weight.
    """
    step = _compiled_step()
    count = 0
    with device.scope():
        weighted_sum = keras.ops.zeros(size, dtype="float64")  # (size,)
        weight_sum = keras.ops.zeros((), dtype="float64")  # ()
        weight = 0.0
        for batch in _batches(updates, size=size, rows=batch_rows(size)):
            weighted_sum, weight_sum = step(
                weighted_sum,
                weight_sum,
                keras.ops.convert_to_tensor(batch.deltas),
                keras.ops.convert_to_tensor(batch.weights),
                keras.ops.convert_to_tensor(batch.factors),
            )
            # Reading a number waits for the step: only then may the buffer change.
            weight = float(keras.ops.convert_to_numpy(weight_sum))
            count += batch.count
            if on_progress is not None:
                on_progress(count)
        if count == 0:
            raise ValueError("a mean needs at least one update, got none")
        total: npt.NDArray[np.float64] = keras.ops.convert_to_numpy(weighted_sum)
    return Aggregate(mean=total / weight, weight=weight, count=count)


def warm_up(size: int, *, device: ComputeDevice) -> None:
    """Compile the fold for deltas of ``size`` elements, before a round needs it."""
    nothing = WeightedDelta(weight=1.0, delta=np.zeros(size, np.float32))
    fold_mean([nothing], size=size, device=device)


def batch_rows(size: int) -> int:
    """Return how many deltas of ``size`` elements are summed in one step.

    Raises:
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    row_bytes = size * np.dtype(np.float32).itemsize
    return min(max(_BATCH_BYTES // row_bytes, _LEAST_ROWS), _MOST_ROWS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    deltas: Vector  #: shape (rows, size); the same buffer in every batch
    weights: npt.NDArray[np.float64]  #: shape (rows,)
    factors: npt.NDArray[np.float64]  #: shape (rows,): weights times scales
    count: int  #: rows in use; the others are zero and add exactly 0.0


def _batches(
    updates: Iterable[WeightedDelta], *, size: int, rows: int
) -> Iterator[_Batch]:
    deltas = np.zeros((rows, size), np.float32)
    weights, factors = np.zeros(rows), np.zeros(rows)
    count = 0
    for update in updates:
        _check(update, size)
        deltas[count] = update.delta
        weights[count] = update.weight
        factors[count] = update.weight * update.scale
        count += 1
        if count == rows:
            yield _Batch(deltas=deltas, weights=weights, factors=factors, count=count)
            count = 0
    if count > 0:  # padded, because another shape would be compiled anew
        deltas[count:] = 0
        weights[count:] = factors[count:] = 0
        yield _Batch(deltas=deltas, weights=weights, factors=factors, count=count)


def check_delta(delta: Vector, size: int) -> None:
    """Check that a delta is what every fold takes.

    Raises:
        ValueError: It has a wrong shape or dtype.
    """
    if delta.shape != (size,):
        raise ValueError(f"delta must have shape ({size},), got {delta.shape}")
    if delta.dtype != np.float32:
        raise ValueError(f"delta must be float32, got {delta.dtype}")


def _check(update: WeightedDelta, size: int) -> None:
    check_delta(update.delta, size)
    if not (math.isfinite(update.weight) and update.weight > 0):
        raise ValueError(f"weight must be finite and above 0, got {update.weight}")


@functools.cache
def _compiled_step() -> Callable[..., Tensor]:
    return compiled(_add_batch)


def _add_batch(
    weighted_sum: Tensor,
    weight_sum: Tensor,
    deltas: Tensor,
    weights: Tensor,
    factors: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add each row times its factor to the sums, one row after the other."""
    for row in range(deltas.shape[0]):
        delta = keras.ops.cast(deltas[row], "float64")  # (rows, size) -> (size,)
        weighted_sum = weighted_sum + factors[row] * delta
        weight_sum = weight_sum + weights[row]
    return weighted_sum, weight_sum
