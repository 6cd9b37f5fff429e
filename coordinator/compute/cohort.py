"""A cohort's updates, read so that memory does not grow with how many they are.

A rule that needs the values of all devices for one element reads the cohort window by
window: a range of elements of every update. Updates are opened anew for each window, so
no more than one is open at a time.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np

from coordinator.compute import fold
from coordinator.protocol import fixed_point
from coordinator.protocol.manifest import Vector

Updates: TypeAlias = Sequence[tuple[float, Vector]]  #: weight, delta; opened by index
Progress: TypeAlias = Callable[[int], None]

_WINDOW_BYTES: Final = 64 << 20


class NonFiniteUpdate(ArithmeticError):
    """An update that was checked when it came in is NaN or infinite now."""

    def __init__(self, index: int) -> None:
        super().__init__(f"update {index} of the round holds NaN or infinity")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A range of elements of every update."""

    start: int
    rows: Vector  #: shape (updates, width), float32; overwritten by the next window

    @property
    def stop(self) -> int:
        """The first element after it."""
        return self.start + int(self.rows.shape[1])


def norms(updates: Updates, *, size: int, on_progress: Progress) -> list[float]:
    """Return the L2 length of every update, summed in float64.

    Raises:
        NonFiniteUpdate: An update is not finite.
        ValueError: One has a wrong shape or dtype.
    """
    lengths = []
    for index in range(len(updates)):
        delta = updates[index][1]
        fold.check_delta(delta, size)
        length = fixed_point.length(delta)
        if not math.isfinite(length):
            raise NonFiniteUpdate(index)
        lengths.append(length)
        on_progress(index + 1)
    return lengths


def windows(
    updates: Updates, chosen: Sequence[int], *, size: int, on_progress: Progress
) -> Iterator[Window]:
    """Yield every element of the chosen updates, in their order, once."""
    width = window_width(len(chosen), size)
    buffer = np.empty((len(chosen), width), np.float32)
    for start in range(0, size, width):
        stop = min(start + width, size)
        for row, index in enumerate(chosen):
            buffer[row, : stop - start] = updates[index][1][start:stop]
            on_progress(row + 1)
        yield Window(start=start, rows=buffer[:, : stop - start])


def window_width(count: int, size: int) -> int:
    """Return how many elements of ``count`` updates are held at a time."""
    return max(1, min(size, _WINDOW_BYTES // (4 * count)))
