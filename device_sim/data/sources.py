"""The one door: reads the source that ``--data`` names."""

import pathlib

import numpy as np

from device_sim.data import dealing, fed_emnist, leaf, npz, sample
from device_sim.data.dealing import Dealing, Partition
from device_sim.data.federation import DataError, Federation


def load(
    source: str,
    *,
    devices: int | None,
    seed: int,
    way: Dealing | None = None,
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
        way: How examples are dealt out. None: by label skew for ``sample``, by writer
            for all others. Another way than by writer pools what the writers hold.
        test_fraction: Share of its examples that a device keeps for its local test,
            unless devices are writers; over 0 and under 1.
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
    if way is None:
        way = Dealing(kind=default_partition(source))
    way.insist_used()
    rng = np.random.default_rng(seed)
    if way.kind is Partition.WRITER:
        return _writers(source, devices=devices, classes=classes, cache=cache, rng=rng)
    if devices is None:
        raise DataError(
            f"devices of the partition {way.kind} are no writers to count: say "
            "how many there are"
        )
    if source == "sample":
        return sample.load(
            devices=devices,
            way=way,
            test_fraction=test_fraction,
            classes=classes,
            rng=rng,
        )
    return dealing.deal_anew(
        _writers(source, devices=None, classes=classes, cache=cache, rng=rng),
        way,
        devices=devices,
        test_fraction=test_fraction,
        rng=rng,
    )


def _writers(
    source: str,
    *,
    devices: int | None,
    classes: int | None,
    cache: pathlib.Path | None,
    rng: np.random.Generator,
) -> Federation:
    """Return ``devices`` of the writers of a source; all of them for None."""
    kind, colon, rest = source.partition(":")
    match kind:
        case "sample" if not colon:
            raise DataError("sample has no writers: choose another partition")
        case "npz" if rest:
            return npz.load(
                pathlib.Path(rest), devices=devices, classes=classes, rng=rng
            )
        case "fed-emnist" if not colon or rest in fed_emnist.PARTS:
            return fed_emnist.load(
                rest or "digits",
                devices=devices,
                classes=classes,
                cache=fed_emnist.cache_folder() if cache is None else cache,
                rng=rng,
            )
        case "leaf" if rest:
            return leaf.load(
                pathlib.Path(rest), devices=devices, classes=classes, rng=rng
            )
        case _:
            raise DataError(
                f"unknown data source {source!r}: use sample, npz:PATH, fed-emnist, "
                "fed-emnist:digits, fed-emnist:all or leaf:DIR"
            )


def default_partition(source: str) -> Partition:
    """Return how a source is dealt out where nobody says how."""
    return Partition.DIRICHLET if source == "sample" else Partition.WRITER
