"""Inner products of every two updates, which tell all distances between them."""

from collections.abc import Sequence
from typing import Final

import keras
import numpy as np
import numpy.typing as npt

from coordinator.compute import cohort
from coordinator.compute.backend import ComputeDevice

_TILE_COLUMNS: Final = 8192


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
    with device.scope():
        total = keras.ops.zeros((len(chosen), len(chosen)), dtype="float64")
        for window in cohort.windows(
            updates, chosen, size=size, on_progress=on_progress
        ):
            for start in range(0, window.rows.shape[1], _TILE_COLUMNS):
                rows = window.rows[:, start : start + _TILE_COLUMNS]
                tile = keras.ops.convert_to_tensor(rows.astype(np.float64))
                total = total + keras.ops.matmul(tile, keras.ops.transpose(tile))
            # Waits, so that the buffer is free for the next window.
            keras.ops.convert_to_numpy(total)
            on_progress(len(chosen))
        return np.array(keras.ops.convert_to_numpy(total))
