"""The numerics of a release, as the worker hands them to the use case."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.compute import fold, robust, server_step
from coordinator.compute.accountant import Accountant, name
from coordinator.compute.backend import ComputeDevice
from coordinator.compute.private import PrivateFolder
from coordinator.compute.server_step import State
from coordinator.domain.aggregation import Folded
from coordinator.domain.norms import Tracked
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.domain.privacy import PrivateFold, Terms
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_server import AggregationPlan

#: Names in the state that are the aggregation's; all others are the optimizer's.
_CLIP_NORM: Final = "aggregation/clip_norm"
_ZERO_NORM: Final = "aggregation/zero_norm"


class Engine:
    """Folds and steps on one device."""

    def __init__(self, device: ComputeDevice) -> None:
        """Compute on ``device``."""
        self._device = device
        self._private = PrivateFolder()
        self._accountant = Accountant()

    def warm_up(self, size: int) -> None:
        """Compile for updates of ``size`` elements before a round needs it."""
        fold.warm_up(size, device=self._device)
        nothing = np.zeros(size, np.float32)
        self.step(nothing, Folded(mean=np.zeros(size)), ServerOptimizer(), None)

    def fold(
        self,
        updates: Sequence[tuple[float, Vector]],
        *,
        size: int,
        plan: AggregationPlan,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        """Return the aggregate of the deltas by the plan's rule.

        Raises:
            ArithmeticError: There is no aggregate that is finite and keeps the rule.
        """
        return robust.aggregate(
            updates,
            size=size,
            plan=plan,
            tracked=_tracked(_decoded(state)),
            device=self._device,
            on_progress=on_progress,
        )

    def fold_privately(
        self,
        updates: Sequence[tuple[float, Vector]],
        settings: PrivateFold,
        *,
        size: int,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        """Return the noisy aggregate of the deltas."""
        return self._private.fold(
            updates,
            settings,
            size=size,
            clip_norm=_tracked(_decoded(state)).clip_norm,
            on_progress=on_progress,
        )

    def fold_sum_privately(
        self,
        total: npt.NDArray[np.int64],
        settings: PrivateFold,
        *,
        clip_norm: float,
        bits: int,
        on_progress: Callable[[int], None],
    ) -> Folded:
        """Return the noisy aggregate of deltas that are added up already."""
        return self._private.fold_sum(
            total, settings, clip_norm=clip_norm, bits=bits, on_progress=on_progress
        )

    def epsilon(
        self, terms: Terms, releases: int, *, on_wait: Callable[[], None]
    ) -> float:
        """Return what so many releases cost."""
        return self._accountant.epsilon(terms, releases, on_wait=on_wait)

    def accountant(self, terms: Terms) -> str:
        """Return which accountant works that out."""
        return name(terms)

    def step(
        self,
        weights: Vector,
        folded: Folded,
        settings: ServerOptimizer,
        state: bytes | None,
    ) -> tuple[Vector, bytes | None]:
        """Return new weights, and the state of optimizer and aggregation.

        Raises:
            NonFiniteResult: A new weight is NaN or infinite.
        """
        stepped, new_state = server_step.take_step(
            weights,
            folded.mean,
            settings=settings,
            state=_optimizers_own(_decoded(state)),
            device=self._device,
        )
        return stepped, server_step.encode_state(new_state | _named(folded.tracked))


def _decoded(state: bytes | None) -> State | None:
    return None if state is None else server_step.decode_state(state)


def _optimizers_own(state: State | None) -> State | None:
    if state is None:
        return None
    others = {_CLIP_NORM, _ZERO_NORM}
    return {name: array for name, array in state.items() if name not in others}


def _tracked(state: State | None) -> Tracked:
    def read(name: str) -> float | None:
        return None if state is None or name not in state else float(state[name])

    return Tracked(clip_norm=read(_CLIP_NORM), zero_norm=read(_ZERO_NORM))


def _named(tracked: Tracked) -> dict[str, npt.NDArray[np.float64]]:
    norms = {_CLIP_NORM: tracked.clip_norm, _ZERO_NORM: tracked.zero_norm}
    return {
        name: np.array(norm, np.float64)
        for name, norm in norms.items()
        if norm is not None
    }
