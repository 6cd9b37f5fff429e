"""The one door: reads the source that ``--data`` names."""

import pathlib

import numpy as np

from device_sim.data import fed_emnist, leaf, npz, sample
from device_sim.data.federation import DataError, Federation

DEFAULT_ALPHA = 1.0


def load(
    source: str,
    *,
    devices: int | None,
    seed: int,
    alpha: float | None = None,
    test_fraction: float = 0.1,
    classes: int | None = None,
    cache: pathlib.Path | None = None,
) -> Federation:
    """Return the shards of ``devices`` and the held-out set.

    The same arguments give the same federation. Where devices are real writers, they
    are a seeded choice among all of them, and the held-out set is the test part of
    every writer of the source, so that its figure does not hang on who takes part.

    Args:
        source: ``sample``, ``npz:PATH``, ``fed-emnist``, ``fed-emnist:digits``,
            ``fed-emnist:all`` or ``leaf:DIR``.
        devices: At least 1. None: every writer of the source.
        seed: At least 0.
        alpha: Concentration of the label skew, for ``sample`` alone; 1 where not given,
            infinity for equal devices. Writers are as skewed as they are.
        test_fraction: Share of its examples that a device keeps for its local test,
            for ``sample`` alone; over 0 and under 1.
        classes: Number of classes. None: what the source has, 10 or 62.
        cache: Where downloads are kept. None: ``fed_emnist.cache_folder()``.

    Raises:
        DataError: The source is unknown, missing, damaged or too small.
    """
    if devices is not None and devices < 1:
        raise DataError(f"a federation needs 1 device or more, got {devices}")
    if seed < 0:
        raise DataError(f"seed must be 0 or more, got {seed}")
    if not 0 < test_fraction < 1:
        raise DataError(
            f"test fraction must be over 0 and under 1, got {test_fraction}"
        )
    rng = np.random.default_rng(seed)
    kind, colon, rest = source.partition(":")
    if alpha is not None and source != "sample":
        raise DataError(
            f"alpha is {alpha}, but only the source sample is split by it: the devices "
            f"of {source} are its writers"
        )
    match kind:
        case "sample" if not colon:
            if devices is None:
                raise DataError(
                    "sample has no writers to count: --population all is for "
                    "sources of writers"
                )
            federation = sample.load(
                devices=devices,
                alpha=DEFAULT_ALPHA if alpha is None else alpha,
                test_fraction=test_fraction,
                classes=classes,
                rng=rng,
            )
        case "npz" if rest:
            federation = npz.load(
                pathlib.Path(rest), devices=devices, classes=classes, rng=rng
            )
        case "fed-emnist" if not colon or rest in fed_emnist.PARTS:
            federation = fed_emnist.load(
                rest or "digits",
                devices=devices,
                classes=classes,
                cache=fed_emnist.cache_folder() if cache is None else cache,
                rng=rng,
            )
        case "leaf" if rest:
            federation = leaf.load(
                pathlib.Path(rest), devices=devices, classes=classes, rng=rng
            )
        case _:
            raise DataError(
                f"unknown data source {source!r}: use sample, npz:PATH, fed-emnist, "
                "fed-emnist:digits, fed-emnist:all or leaf:DIR"
            )
    return federation
