"""Inner products of every two updates, which tell all distances between them."""

from collections.abc import Sequence
from typing import Final

import keras
import numpy as np
import numpy.typing as npt

from coordinator.compute import cohort
from coordinator.compute.backend import ComputeDevice

_TILE_COLUMNS: Final = 8192
_TILE_PRODUCTS: Final = 1 << 33  # about a second on a CPU, so that progress is told


def gram_matrix(
    updates: cohort.Updates,
    chosen: Sequence[int],
    *,
    size: int,
    device: ComputeDevice,
    on_progress: cohort.Progress,
) -> npt.NDArray[np.float64]:
    """Return the matrix of inner products, shape (chosen, chosen).

    In float64: squared distances are differences of its elements, and in float32 those
    between updates much alike would be lost in rounding. Its last bits are the
    backend's.
    """
    columns = max(1, min(_TILE_COLUMNS, _TILE_PRODUCTS // len(chosen) ** 2))
    with device.scope():
        total = keras.ops.zeros((len(chosen), len(chosen)), dtype="float64")
        for window in cohort.windows(
            updates, chosen, size=size, on_progress=on_progress
        ):
            for start in range(0, window.rows.shape[1], columns):
                rows = window.rows[:, start : start + columns]
                tile = keras.ops.convert_to_tensor(rows.astype(np.float64))
                total = total + keras.ops.matmul(tile, keras.ops.transpose(tile))
                float(total[0, 0])  # waits: progress is what has been done
                on_progress(len(chosen))
        return np.array(keras.ops.convert_to_numpy(total))
