"""The numerics of a release in plain numpy, so that numbers can be redone by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from coordinator.compute import accountant
from coordinator.compute.accountant import Accountant
from coordinator.compute.private import PrivateFolder
from coordinator.domain.aggregation import Folded
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.domain.privacy import PrivateFold, Terms
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_server import AggregationPlan


class NumpyCompute:
    """Folds and steps as ``coordinator.compute.engine.Engine`` does."""

    def __init__(self) -> None:
        self.folded: list[list[float]] = []  #: weights in the order of each fold
        self._private = PrivateFolder()
        self._accountant = Accountant()

    def fold(
        self,
        updates: Sequence[tuple[float, Vector]],
        *,
        size: int,
        plan: AggregationPlan,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        assert plan.is_plain, "only the weighted mean is worked out here"
        assert state is None or len(state) == size * 8
        total, weights = np.zeros(size), list[float]()
        for weight, delta in updates:
            total += weight * delta.astype(np.float64)
            weights.append(weight)
            on_progress(len(weights))
        self.folded.append(weights)
        return Folded(mean=total / sum(weights))

    def fold_privately(
        self,
        updates: Sequence[tuple[float, Vector]],
        settings: PrivateFold,
        *,
        size: int,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        assert state is None or len(state) == size * 8
        return self._private.fold(
            updates, settings, size=size, clip_norm=None, on_progress=on_progress
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
        return self._private.fold_sum(
            total, settings, clip_norm=clip_norm, bits=bits, on_progress=on_progress
        )

    def epsilon(
        self, terms: Terms, releases: int, *, on_wait: Callable[[], None]
    ) -> float:
        return self._accountant.epsilon(terms, releases, on_wait=on_wait)

    def accountant(self, terms: Terms) -> str:
        return accountant.name(terms)

    def step(
        self,
        weights: Vector,
        folded: Folded,
        settings: ServerOptimizer,
        state: bytes | None,
    ) -> tuple[Vector, bytes | None]:
        before = np.zeros(weights.size) if state is None else np.frombuffer(state)
        velocity = settings.momentum * before + settings.learning_rate * folded.mean
        with np.errstate(over="ignore"):  # what float32 cannot hold turns infinite
            stepped = (weights + velocity).astype(np.float32)
        if not np.isfinite(stepped).all():
            raise ArithmeticError("the step left weights that are not finite")
        return stepped, velocity.tobytes() if settings.momentum else None
