"""Devices that see the same things differently: noise that grows from device to device.

Source: Li, Diao, Chen and He 2022, "Federated Learning on Non-IID Data Silos"
(arXiv:2102.02079), section 4.2, noise-based feature distribution skew.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from device_sim.data.federation import DataError, Images, Shard

DEFAULT: Final = 0.3
_WHITE: Final = 255


def noisy(
    shards: Sequence[Shard], *, max_noise: float, rng: np.random.Generator
) -> tuple[Shard, ...]:
    """Return the shards with Gaussian noise on their pixels, test parts too.

    The noise's standard deviation grows evenly from 0 on the first device to
    ``max_noise`` on the last, as a share of the range from paper to ink.

    Raises:
        DataError: ``max_noise`` is not over 0 and at most 1.
    """
    if not 0 < max_noise <= 1:
        raise DataError(f"max_noise must be over 0 and at most 1, got {max_noise}")
    levels = np.linspace(0, max_noise, len(shards))
    return tuple(
        dataclasses.replace(
            shard,
            train_images=_noisy(shard.train_images, level, rng),
            test_images=_noisy(shard.test_images, level, rng),
        )
        for shard, level in zip(shards, levels.tolist(), strict=True)
    )


def _noisy(images: Images, level: float, rng: np.random.Generator) -> Images:
    noise = rng.normal(0, level * _WHITE, images.shape)
    changed: Images = np.rint(np.clip(images + noise, 0, _WHITE)).astype(np.uint8)
    return changed
