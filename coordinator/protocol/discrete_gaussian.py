"""Whole-numbered noise: the discrete Gaussian, from a keystream.

Noise in floating point gives itself away in its lowest bits; whole numbers have none.

The acceptance probabilities are computed in double precision and compared with 53
uniform bits, so a sample is within about 1e-15 of the exact distribution: over 10**9 of
them that adds less than 1e-6 to delta.

Source: Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential
    Privacy", algorithms 2 and 3; Mironov 2012, "On Significance of the Least
    Significant Bits for Differential Privacy".
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.protocol.keystream import Keystream, Words

_MOST_STDDEV: Final = 2.0**46  # products with candidates stay exact enough in float64
_BATCH: Final = 1 << 15  # candidates; their arrays fit a core's cache


def sample(stream: Keystream, *, stddev: float, size: int) -> npt.NDArray[np.int64]:
    """Draw from N_Z(0, stddev**2). Returns shape (size,), int64.

    Args:
        stream: Secret; used up as far as is needed.
        stddev: The distribution's parameter sigma, above 0 and at most 2**46.
        size: How many numbers.

    Raises:
        ValueError: ``stddev`` is out of range.
    """
    if not 0 < stddev <= _MOST_STDDEV:
        raise ValueError(f"stddev must lie in (0, 2**46], got {stddev}")
    drawn = np.empty(size, np.int64)
    filled = 0
    while filled < size:
        fresh = _candidates(stream, stddev)[: size - filled]
        drawn[filled : filled + fresh.size] = fresh
        filled += fresh.size
    return drawn


def _candidates(stream: Keystream, stddev: float) -> npt.NDArray[np.int64]:
    """Reject discrete Laplace candidates down to discrete Gaussian numbers."""
    scale = math.floor(stddev) + 1
    laplace = _laplace(stream, scale)
    distance = np.abs(laplace) - stddev * stddev / scale
    accept = np.exp(-(distance * distance) / (2 * stddev * stddev))
    is_kept = stream.uniforms(laplace.size) < accept
    kept: npt.NDArray[np.int64] = laplace[is_kept]
    return kept


def _laplace(stream: Keystream, scale: int) -> npt.NDArray[np.int64]:
    """Draw from the discrete Laplace distribution, P(x) ~ exp(-|x| / scale)."""
    low = _below(stream, scale).astype(np.int64)
    low = low[stream.uniforms(low.size) < np.exp(-low / scale)]
    # Geometric: at least k with chance exp(-k).
    high = np.floor(-np.log1p(-stream.uniforms(low.size))).astype(np.int64)
    size = low + scale * high
    is_negative = (stream.words(size.size) & np.uint64(1)).astype(bool)
    kept = ~(is_negative & (size == 0))  # or 0 would count twice
    signed: npt.NDArray[np.int64] = np.where(is_negative, -size, size)[kept]
    return signed


def _below(stream: Keystream, bound: int) -> Words:
    """Draw exactly uniform whole numbers in [0, bound), most of a batch."""
    mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
    words = stream.words(_BATCH) & mask
    return words[words < np.uint64(bound)]
