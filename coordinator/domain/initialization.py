"""First weights: given, or drawn from a seed by the manifest's initializers.

The distributions are those of Keras's initializers of the same name; the stream is
numpy's PCG64, so that a coordinator needs no TensorFlow and draws the same everywhere.

Source: Glorot and Bengio 2010; He et al. 2015; LeCun et al. 1998.
"""

import math
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from coordinator.protocol.first_weights import Values
from coordinator.protocol.manifest import Initializer, Manifest, Vector

_TRUNCATED_STDDEV: Final = 0.87962566103423978  # of a normal cut at two deviations
_Law = Literal["uniform", "normal"]
#: name -> gain, fan, law: the variance is gain / fan
_SCALED: Final[Mapping[str, tuple[float, Literal["in", "avg"], _Law]]] = {
    "glorot_uniform": (1.0, "avg", "uniform"),
    "glorot_normal": (1.0, "avg", "normal"),
    "he_uniform": (2.0, "in", "uniform"),
    "he_normal": (2.0, "in", "normal"),
    "lecun_uniform": (1.0, "in", "uniform"),
    "lecun_normal": (1.0, "in", "normal"),
}


def draw_weights(manifest: Manifest, seed: int, given: Values | None = None) -> Vector:
    """Return first weights, shape (manifest.size,), float32.

    Tensor ``i`` is taken from ``given``, or draws from its own stream (seed, i): what
    is given changes no other tensor.
    """
    weights = np.empty(manifest.size, np.float32)
    for index, tensor in enumerate(manifest.tensors):
        place = slice(tensor.offset, tensor.offset + tensor.size)
        if given is not None and tensor.name in given:
            weights[place] = given[tensor.name].reshape(-1)
            continue
        generator = np.random.default_rng([seed, index])
        weights[place] = _draw(tensor.initializer, tensor.size, generator)
    return weights


def _draw(
    initializer: Initializer, size: int, generator: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if initializer.kind == "zeros":
        return np.zeros(size)
    if initializer.kind == "ones":
        return np.ones(size)
    gain, fan, law = _SCALED[initializer.kind]
    fans = (initializer.fan_in, initializer.fan_out)
    variance = gain / (sum(fans) / 2 if fan == "avg" else fans[0])
    if law == "uniform":
        limit = math.sqrt(3 * variance)
        return generator.uniform(-limit, limit, size)
    stddev = math.sqrt(variance) / _TRUNCATED_STDDEV
    values = generator.standard_normal(size)
    while (far := np.abs(values) > 2).any():  # noqa: PLR2004 - Keras cuts at two deviations
        values[far] = generator.standard_normal(int(far.sum()))
    return values * stddev
