"""The numerics of a release, as the worker hands them to the use case."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from coordinator.compute import fold, server_step
from coordinator.compute.backend import ComputeDevice
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.protocol.manifest import Vector


class Engine:
    """Folds and steps on one device."""

    def __init__(self, device: ComputeDevice) -> None:
        """Compute on ``device``."""
        self._device = device

    def warm_up(self, size: int) -> None:
        """Compile for updates of ``size`` elements before a round needs it."""
        fold.warm_up(size, device=self._device)
        nothing = np.zeros(size, np.float32)
        self.step(nothing, np.zeros(size), ServerOptimizer(), None)

    def fold(
        self,
        updates: Iterator[tuple[float, Vector]],
        *,
        size: int,
        on_progress: Callable[[int], None],
    ) -> npt.NDArray[np.float64]:
        """Return the weighted mean of the deltas, shape (size,), float64."""
        weighted = (
            fold.WeightedDelta(weight=weight, delta=delta) for weight, delta in updates
        )
        return fold.fold_mean(
            weighted, size=size, device=self._device, on_progress=on_progress
        ).mean

    def step(
        self,
        weights: Vector,
        aggregate: npt.NDArray[np.float64],
        settings: ServerOptimizer,
        state: bytes | None,
    ) -> tuple[Vector, bytes | None]:
        """Return new weights and the optimizer's new state.

        Raises:
            NonFiniteResult: A new weight is NaN or infinite.
        """
        stepped, new_state = server_step.take_step(
            weights,
            aggregate,
            settings=settings,
            state=None if state is None else server_step.decode_state(state),
            device=self._device,
        )
        return stepped, server_step.encode_state(new_state)
