"""Who gets what: pure functions that split examples over devices.

Indices in, indices out; all chance comes from the generator that is passed. Each
function returns every example exactly once.
"""

import itertools
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from device_sim.data.federation import DataError

Indices = npt.NDArray[np.int64]
Name = TypeVar("Name")
EVEN_ALPHA: Final = 1e6


def by_size(
    indices: Indices, sizes: Sequence[int], rng: np.random.Generator
) -> list[Indices]:
    """Return ``indices`` shuffled and cut into parts of the given sizes.

    Raises:
        ValueError: The sizes do not add up to the number of indices.
    """
    if sum(sizes) != len(indices):
        raise ValueError(
            f"sizes must add up to {len(indices)} examples, got {sum(sizes)}"
        )
    shuffled = rng.permutation(indices)
    return np.split(shuffled, list(itertools.accumulate(sizes))[:-1])


def by_label_skew(
    labels: npt.NDArray[np.integer],
    *,
    devices: int,
    alpha: float,
    minimum: int,
    rng: np.random.Generator,
) -> list[Indices]:
    """Split examples so that each device sees its own mixture of labels.

    For every label the shares of the devices are one draw of Dirichlet(alpha, ...,
    alpha): a small ``alpha`` gives devices with few labels and very unequal sizes, a
    large one makes them alike. Infinity is the limit: sizes that differ by at most one,
    labels drawn evenly; anything over a million counts as infinity, because the draw
    overflows far out. Devices left with fewer than ``minimum`` examples are topped up
    from the largest.

    Args:
        labels: shape (n,).
        devices: How many parts.
        alpha: Concentration, over 0, may be infinity.
        minimum: Examples that every device has at least.
        rng: Where all chance comes from.

    Returns:
        One index array a device.

    Raises:
        DataError: There are fewer than ``devices * minimum`` examples, or ``alpha`` is
            not over 0.

    Source: Hsu, Qi and Brown 2019 (arXiv:1909.06335), section 3, drawn by label.
    """
    if not alpha > 0:  # also NaN
        raise DataError(f"alpha must be over 0, got {alpha}: 1 is a moderate skew")
    if devices * minimum > len(labels):
        raise DataError(
            f"{len(labels)} examples are too few for {devices} devices with at least "
            f"{minimum} each: take {len(labels) // minimum} devices or fewer"
        )
    if alpha > EVEN_ALPHA:
        everything = np.arange(len(labels), dtype=np.int64)
        share, left = divmod(len(labels), devices)
        sizes = [share + (device < left) for device in range(devices)]
        return by_size(everything, sizes, rng)
    parts: list[list[Indices]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shares = rng.dirichlet(np.full(devices, alpha))
        bounds = np.rint(np.cumsum(shares) * len(members)).astype(np.int64)
        bounds[-1] = len(members)  # the sum of shares is 1 but for rounding
        sizes = np.diff(bounds, prepend=0).tolist()
        for part, piece in zip(parts, by_size(members, sizes, rng), strict=True):
            part.append(piece)
    return _topped_up([np.concatenate(part) for part in parts], minimum, rng)


def by_shards(
    labels: npt.NDArray[np.integer],
    *,
    devices: int,
    shards: int,
    minimum: int,
    rng: np.random.Generator,
) -> list[Indices]:
    """Sort examples by label, cut them into equal shards, and deal these out.

    Args:
        labels: shape (n,).
        devices: How many parts.
        shards: Shards that each device gets: hardly more labels than that.
        minimum: Examples that every device must have.
        rng: Where all chance comes from.

    Returns:
        One index array a device; sizes differ by at most ``shards``.

    Raises:
        DataError: There are too few examples, or ``shards`` is under 1.

    Source: McMahan et al. 2017 (arXiv:1602.05629), section 3, "Pathological Non-IID".
    """
    if shards < 1:
        raise DataError(f"shards per device must be 1 or more, got {shards}")
    size = len(labels) // (devices * shards)
    if size < 1 or size * shards < minimum:
        raise DataError(
            f"{len(labels)} examples are too few for {devices} devices with {shards} "
            f"shards each: take fewer of either"
        )
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(by_label, devices * shards)
    dealt = rng.permutation(len(pieces)).reshape(devices, shards)
    return [np.concatenate([pieces[piece] for piece in mine]) for mine in dealt]


def by_quantity_skew(
    examples: int,
    *,
    devices: int,
    alpha: float,
    minimum: int,
    rng: np.random.Generator,
) -> list[Indices]:
    """Split examples into unequal parts with labels alike.

    The shares are one draw of Dirichlet(alpha, ..., alpha); devices left with fewer
    than ``minimum`` examples are topped up from the largest.

    Args:
        examples: How many there are.
        devices: How many parts.
        alpha: Concentration, over 0; large: equal sizes, anything over a million
            counts as infinity.
        minimum: Examples that every device has at least.
        rng: Where all chance comes from.

    Raises:
        DataError: There are fewer than ``devices * minimum`` examples, or ``alpha`` is
            not over 0.

    Source: Li et al. 2022 (arXiv:2102.02079), section 4.3, quantity skew.
    """
    # One label for all: their skew is one of sizes.
    return by_label_skew(
        np.zeros(examples, np.uint8),
        devices=devices,
        alpha=alpha,
        minimum=minimum,
        rng=rng,
    )


def split_off(
    labels: npt.NDArray[np.integer], *, count: int, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Return (rest, split off): ``count`` examples with the labels in proportion.

    Shares are rounded by largest remainder, so that the count is exact.

    Raises:
        ValueError: ``count`` is not between 0 and the number of examples.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"count must be 0 to {len(labels)}, got {count}")
    present, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(len(labels), 1)
    takes = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(takes - exact, kind="stable")
    takes[by_remainder[: count - int(takes.sum())]] += 1
    kept: list[Indices] = []
    taken: list[Indices] = []
    for label, size, take in zip(present, sizes, takes, strict=True):
        members = np.flatnonzero(labels == label)
        out, rest = by_size(members, [int(take), int(size - take)], rng)
        taken.append(out)
        kept.append(rest)
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(taken))


def choose_writers(
    writers: Sequence[Name],
    *,
    devices: int | None,
    origin: str,
    rng: np.random.Generator,
) -> list[Name]:
    """Return ``devices`` of the writers in a seeded order; all of them for None.

    With the same generator state a larger number of devices only adds writers.

    Raises:
        DataError: There are fewer writers than devices.
    """
    if devices is not None and devices > len(writers):
        raise DataError(
            f"{origin} has {len(writers)} writers with train and test examples, "
            f"too few for {devices} devices: ask for {len(writers)} or fewer"
        )
    return [writers[i] for i in rng.permutation(len(writers))[:devices]]


def _topped_up(
    parts: list[Indices], minimum: int, rng: np.random.Generator
) -> list[Indices]:
    """Move examples from the largest parts until every part has the minimum."""
    parts = list(parts)
    for device, part in enumerate(parts):
        missing = minimum - len(part)
        while missing > 0:
            largest = max(range(len(parts)), key=lambda other: len(parts[other]))
            # Over 0: the parts hold at least minimum on average, and this one does not.
            spare = len(parts[largest]) - minimum
            sizes = [
                len(parts[largest]) - min(missing, spare),
                min(missing, spare),
            ]
            parts[largest], moved = by_size(parts[largest], sizes, rng)
            parts[device] = np.concatenate([parts[device], moved])
            missing -= len(moved)
    return parts
