"""Updates as whole numbers, so that their sum is exact and its noise can be.

An update of at most ``clip_norm`` in length becomes whole numbers of at most
``2**bits`` in length, one bit of luck an element: a value between two whole numbers
goes up with the chance that leaves it right on average. Rounding makes it longer by
less than the root of its size, which ``longest`` counts in.

Source: Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for
    Federated Learning with Secure Aggregation", section 4.1 (without the rotation).
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.protocol.keystream import Keystream
from coordinator.protocol.manifest import Vector

_PIECE: Final = 1 << 16  # elements; in float64 they fit a core's cache


def length(delta: Vector) -> float:
    """Return the L2 length of a vector, the same bits whatever the threads."""
    return math.sqrt(
        math.fsum(
            float(np.square(delta[start : start + _PIECE], dtype=np.float64).sum())
            for start in range(0, delta.size, _PIECE)
        )
    )


def longest(bits: int, size: int) -> int:
    """Return what no encoded update of ``size`` elements exceeds in L2 length."""
    return (1 << bits) + math.isqrt(size) + 1


def encode(
    delta: Vector, *, clip_norm: float, bits: int, stream: Keystream
) -> npt.NDArray[np.int64]:
    """Clip, scale and round an update. Returns shape (size,), int64.

    Args:
        delta: shape (size,), float32, finite.
        clip_norm: Longest that it may be; becomes ``2**bits``.
        bits: At most 24, so that squared lengths are exact.
        stream: Of this update alone; it decides how values are rounded.

    Raises:
        ValueError: The delta is not finite, or not a float32 vector.
        AssertionError: What came out is longer than ``longest`` says.
    """
    if delta.ndim != 1 or delta.dtype != np.float32:
        raise ValueError(f"delta must be a float32 vector, got {delta.dtype}")
    norm = length(delta)
    if not math.isfinite(norm):
        raise ValueError("delta holds NaN or infinity")
    scale = (1 << bits) / max(clip_norm, norm)
    encoded = np.floor(delta * np.float64(scale) + stream.uniforms(delta.size)).astype(
        np.int64
    )
    # What noise is measured by is checked, in exact numbers, not believed.
    if int(encoded @ encoded) > longest(bits, delta.size) ** 2:
        raise AssertionError("an encoded update is longer than its bound")
    return encoded
