"""A cohort's noisy mean: clipped, added up in whole numbers, noised, divided.

numpy alone, and the same bits each time: noise and rounding come from the round's keys,
and sums of whole numbers have no order.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from coordinator.domain.aggregation import Folded
from coordinator.domain.norms import Tracked
from coordinator.domain.privacy import BITS, PrivateFold
from coordinator.protocol import discrete_gaussian, fixed_point
from coordinator.protocol.keystream import Keystream
from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.manifest import Vector

Whole = npt.NDArray[np.int64]
Real = npt.NDArray[np.float64]
Progress = Callable[[int], None]


class PrivateFolder:
    """Folds rounds, and remembers noise that later ones take back."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._memory = _Memory()

    def fold(
        self,
        updates: Sequence[tuple[float, Vector]],
        settings: PrivateFold,
        *,
        size: int,
        clip_norm: float | None,
        on_progress: Progress,
    ) -> Folded:
        """Return the noisy aggregate of a cohort. Weights are not looked at.

        Args:
            updates: In fold order, any number of them.
            settings: The round's.
            size: Number of elements of each delta.
            clip_norm: What adaptive clipping has come to; none: the plan's.
            on_progress: Called often, with a number of updates.

        Raises:
            ValueError: A delta has a wrong shape or dtype, or is not finite.
        """
        norm = promised = clip_norm or settings.clip_norm
        if settings.noise_from == "devices":  # who is longer than noise is no device
            norm = LocalNoise(
                clip_norm=promised, noise_multiplier=settings.noise_multiplier
            ).longest(size)
        total, surplus = np.zeros(size, np.int64), 0
        for index in range(len(updates)):
            delta = updates[index][1]
            if delta.shape != (size,):
                raise ValueError(f"delta must have shape ({size},), got {delta.shape}")
            total += fixed_point.encode(
                delta,
                clip_norm=norm,
                bits=BITS,
                stream=Keystream(settings.keys.key("rounding", index)),
            )
            surplus += 1 if fixed_point.length(delta) <= norm else -1
            on_progress(index + 1)
        folded = self.fold_sum(
            total, settings, clip_norm=norm, bits=BITS, on_progress=on_progress
        )
        tracked = Tracked(clip_norm=_next_norm(settings, norm, surplus))
        return dataclasses.replace(folded, tracked=tracked, clipped_to=promised)

    def fold_sum(
        self,
        total: Whole,
        settings: PrivateFold,
        *,
        clip_norm: float,
        bits: int,
        on_progress: Progress,
    ) -> Folded:
        """Return the noisy aggregate of updates that are added up already.

        Args:
            total: shape (size,), their sum; each was of at most ``2**bits`` in length
                before it was rounded.
            settings: The round's.
            clip_norm: What ``2**bits`` stands for.
            bits: Of the sum.
            on_progress: Called often, with some number.
        """
        noise = (
            np.zeros(total.size, np.int64)
            if settings.noise_from != "worker"
            else self._noise(settings, bits, total.size, on_progress)
        )
        unit = clip_norm / (1 << bits)
        return Folded(
            mean=(total + noise) * np.float64(unit / settings.denominator),
            clipped_to=clip_norm,
        )

    def _noise(
        self, settings: PrivateFold, bits: int, size: int, on_progress: Progress
    ) -> Whole:
        # Measured by the longest that rounding can make an update.
        stddev = settings.noise_multiplier * fixed_point.longest(bits, size)
        key = settings.keys.key("noise")
        if settings.bands == 1:
            return _sample(key, stddev, size)
        taps = square_root_taps(settings.bands)
        memory = self._memory
        if memory.keys != settings.past[: len(memory.keys)] or memory.stddev != stddev:
            memory = _Memory(stddev=stddev)
        for done, past in enumerate(settings.past[len(memory.keys) :]):
            memory = memory.after(past, taps, size)
            on_progress(done)
        self._memory = memory
        # Rounded, so that what is released stays a whole number.
        return np.rint(memory.correlated(key, taps, size)).astype(np.int64)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """The noise of the last releases, as it was added to them."""

    stddev: float = 0.0
    keys: tuple[bytes, ...] = ()  #: of all releases so far
    recent: tuple[Real, ...] = ()  #: newest first, one less than bands at most

    def correlated(self, key: bytes, taps: Real, size: int) -> Real:
        """Return the next release's noise: fresh, less a part of the last ones'."""
        noise = _sample(key, self.stddev, size).astype(np.float64)
        for tap, earlier in zip(taps[1:], self.recent, strict=False):
            noise -= tap * earlier
        noise /= taps[0]
        return noise

    def after(self, key: bytes, taps: Real, size: int) -> "_Memory":
        """Return the memory once a release with this key is made."""
        newest = self.correlated(key, taps, size)
        return _Memory(
            stddev=self.stddev,
            keys=(*self.keys, key),
            recent=(newest, *self.recent)[: taps.size - 1],
        )


def square_root_taps(bands: int) -> Real:
    """Return the banded square root's column, of length 1: shape (bands,).

    Source: Kalinin and Lampert 2024, "Banded Square Root Matrix Factorization for
        Differentially Private Model Training", section 3.
    """
    taps = np.ones(bands)
    for lag in range(1, bands):
        taps[lag] = taps[lag - 1] * (2 * lag - 1) / (2 * lag)
    taps /= np.linalg.norm(taps)
    return taps


def _sample(key: bytes, stddev: float, size: int) -> Whole:
    return discrete_gaussian.sample(Keystream(key), stddev=stddev, size=size)


def _next_norm(settings: PrivateFold, norm: float, surplus: int) -> float | None:
    adaptive = settings.adaptive
    if adaptive is None:
        return None
    noise = _sample(settings.keys.key("count"), adaptive.stddev, 1)
    return adaptive.next_norm(norm, surplus + int(noise[0]), settings.denominator)
