"""Robust rules that choose weights by how updates lie to each other.

All of them see the updates through one small matrix, ``gram[i, j]``, the inner product
of updates i and j in float64: distances between updates, and from an update to any
weighted mean of them, follow from it. What comes out is a weight for each update; the
aggregate is their weighted mean.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_NEAREST: Final = 1e-6  # of the median length: a smaller distance counts as this
_TINY: Final = 1e-150  # for updates of zeros: its inverse and square are finite


def cut_of(count: int, trim: float) -> int:
    """Return how many of ``count`` values a trimmed mean leaves out at either end."""
    return math.floor(round(count * trim, 9))  # 100 * 0.29 is a little below 29


def middle_of(count: int) -> int:
    """Return how many of ``count`` values a median leaves out at either end."""
    return (count - 1) // 2


def least_for_krum(byzantine: int) -> int:
    """Return how many updates Krum needs to bear so many that lie."""
    return 2 * byzantine + 3


def krum_weights(gram: Matrix, *, byzantine: int, keep: int) -> Matrix:
    """Return weight 1 for the ``keep`` updates that lie closest to others, else 0.

    An update's score is the sum of its squared distances to the ``n - byzantine - 2``
    others that are nearest to it; the lowest scores win, and the first of equal ones.

    Args:
        gram: Shape (n, n).
        byzantine: How many updates may lie.
        keep: 1 is Krum, more is Multi-Krum.

    Raises:
        ValueError: ``n`` is below ``2 * byzantine + 3``.

    Source: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine
        Tolerant Gradient Descent", sections 4 and 5.
    """
    count = len(gram)
    least = least_for_krum(byzantine)
    if count < least:
        raise ValueError(
            f"krum with byzantine {byzantine} needs {least} updates, got {count}"
        )
    lengths = np.diag(gram)
    distances = np.maximum(lengths[:, None] + lengths[None, :] - 2 * gram, 0)  # (n, n)
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)[:, : count - byzantine - 2]
    winners = np.argsort(nearest.sum(axis=1), kind="stable")[:keep]
    weights = np.zeros(count)
    weights[winners] = 1.0
    return weights


def geometric_median_weights(gram: Matrix, *, iterations: int) -> Matrix:
    """Return the weights, sum 1, whose mean is the geometric median of the updates.

    Weiszfeld's steps from the mean: an update's next weight is the inverse of its
    distance to the present mean. Every mean on the way is one of the updates, so the
    steps need the Gram matrix alone and no update is read again.

    Args:
        gram: Shape (n, n).
        iterations: How many steps.

    Source: Pillutla et al. 2022, "Robust Aggregation for Federated Learning",
        algorithm 2 (smoothed Weiszfeld), every update counting once.
    """
    count = len(gram)
    lengths = np.diag(gram)
    nearest = max(
        _NEAREST * math.sqrt(float(np.median(lengths))), math.ulp(0.0) * 2**60
    )
    weights = np.full(count, 1 / count)
    for _ in range(iterations):
        products = gram @ weights  # (n,): of each update with the mean
        squared = weights @ products - 2 * products + lengths
        inverse = 1 / np.maximum(np.sqrt(np.maximum(squared, 0)), nearest)
        weights = inverse / inverse.sum()
    return weights
