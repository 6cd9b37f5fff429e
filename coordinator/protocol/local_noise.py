"""Noise that a device adds to its update by itself, so that nobody sees it without.

Source: Kasiviswanathan et al. 2011, "What Can We Learn Privately?" (the local model);
    Canonne, Kamath and Steinke 2020 for the noise.
"""

import math
from typing import Final

import numpy as np
from pydantic import Field

from coordinator.protocol import discrete_gaussian, fixed_point
from coordinator.protocol.keystream import Keystream
from coordinator.protocol.manifest import Record, Vector

BITS: Final = 20  #: ``clip_norm`` is 2**20 of what the noise is made of
_DEVIATIONS: Final = 8


class LocalNoise(Record):
    """What a device does to its update before anybody sees it."""

    clip_norm: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Longest the update may be (L2) before the noise; scale a longer "
        "one down to it.",
    )
    noise_multiplier: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Standard deviation of the noise in each element, as a multiple "
        "of `clip_norm`. Report one example, and no loss and accuracy (0).",
    )

    def add(self, delta: Vector, *, key: bytes) -> Vector:
        """Clip an update and add the noise. Run by the device.

        Args:
            delta: shape (size,), float32, finite.
            key: 32 secret bytes for this update alone, from the system.

        Returns:
            shape (size,), float32.

        Raises:
            ValueError: The delta is not finite, or not a float32 vector.
        """
        stream = Keystream(key)
        whole = fixed_point.encode(
            delta, clip_norm=self.clip_norm, bits=BITS, stream=stream
        )
        stddev = self.noise_multiplier * fixed_point.longest(BITS, delta.size)
        whole += discrete_gaussian.sample(stream, stddev=stddev, size=delta.size)
        noisy: Vector = (whole * (self.clip_norm / (1 << BITS))).astype(np.float32)
        return noisy

    def longest(self, size: int) -> float:
        """Return what no update with this noise is longer than, but by a miracle.

        Source: the norm of a Gaussian vector is within its deviation of the root of
            its size, and passes it by eight of them with a chance of 1e-14.
        """
        noise = self.noise_multiplier * (math.sqrt(size) + _DEVIATIONS)
        return self.clip_norm * (1 + noise)
