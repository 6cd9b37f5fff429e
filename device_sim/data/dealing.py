"""How a pool of examples is dealt out over devices that are no writers.

Decided here: which ways there are, which settings each of them reads, and that a device
keeps some of its examples for its local test. What each way does to the examples is
``partition``; what feature skew does to the pixels is ``feature_skew``.
"""

import dataclasses
import enum
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from device_sim.data import feature_skew, partition
from device_sim.data.federation import DataError, Federation, Images, Labels, Shard

FEW: Final = 8  # examples that every device has at least, where there are enough
LEAST: Final = 2  # one to train on and one to test with


class Partition(enum.StrEnum):
    """Ways to deal examples out."""

    WRITER = "writer"  # as the data has it: a device is a writer
    DIRICHLET = "dirichlet"  # label skew
    SHARDS = "shards"  # label skew, a few labels each
    QUANTITY = "quantity"  # unequal sizes, labels alike
    FEATURE = "feature"  # equal sizes, labels alike, noisier and noisier images
    IID = "iid"  # all alike


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    """A way to deal examples out, with its settings. None: the default."""

    kind: Partition
    alpha: float | None = None  #: of dirichlet and quantity; 1
    shards_per_device: int | None = None  #: of shards; 2
    max_noise: float | None = None  #: of feature; 0.3, see ``feature_skew``

    def insist_used(self) -> Self:
        """Return the dealing itself if it reads every setting that is given.

        Raises:
            DataError: It does not.
        """
        readers = {
            "alpha": (Partition.DIRICHLET, Partition.QUANTITY),
            "shards_per_device": (Partition.SHARDS,),
            "max_noise": (Partition.FEATURE,),
        }
        for setting, ways in readers.items():
            value = getattr(self, setting)
            if value is not None and self.kind not in ways:
                raise DataError(
                    f"{setting} is {value}, but only the partition "
                    f"{' or '.join(ways)} reads it, not {self.kind}"
                )
        return self

    def parts(
        self, labels: Labels, *, devices: int, rng: np.random.Generator
    ) -> list[partition.Indices]:
        """Return each device's examples; every one goes to exactly one device.

        Raises:
            DataError: There are too few examples, or a setting is out of range.
        """
        minimum = max(LEAST, min(FEW, len(labels) // devices))
        alpha = 1.0 if self.alpha is None else self.alpha
        match self.kind:
            case Partition.DIRICHLET:
                return partition.by_label_skew(
                    labels, devices=devices, alpha=alpha, minimum=minimum, rng=rng
                )
            case Partition.SHARDS:
                shards = self.shards_per_device
                return partition.by_shards(
                    labels,
                    devices=devices,
                    shards=2 if shards is None else shards,
                    minimum=LEAST,
                    rng=rng,
                )
            case Partition.QUANTITY:
                return partition.by_quantity_skew(
                    len(labels), devices=devices, alpha=alpha, minimum=minimum, rng=rng
                )
            case Partition.FEATURE | Partition.IID:
                return partition.by_label_skew(
                    labels,
                    devices=devices,
                    alpha=float("inf"),
                    minimum=minimum,
                    rng=rng,
                )
            case Partition.WRITER:
                raise DataError("there are no writers in this data: choose another way")


def deal(
    images: Images,
    labels: Labels,
    dealing: Dealing,
    *,
    devices: int,
    test_fraction: float,
    rng: np.random.Generator,
) -> tuple[Shard, ...]:
    """Return the shards of ``devices``.

    Args:
        images: shape (n, 28, 28).
        labels: shape (n,).
        dealing: How.
        devices: At least 1.
        test_fraction: Share of a device's examples kept for its local test, over 0 and
            under 1; at least one example is kept for each side.
        rng: Where all chance comes from.

    Raises:
        DataError: There are too few examples, or a setting is out of range.
    """
    shards = []
    for number, mine in enumerate(dealing.parts(labels, devices=devices, rng=rng)):
        count = min(max(round(len(mine) * test_fraction), 1), len(mine) - 1)
        train, test = partition.split_off(labels[mine], count=count, rng=rng)
        shards.append(
            Shard(
                name=f"device-{number}",
                train_images=images[mine[train]],
                train_labels=labels[mine[train]],
                test_images=images[mine[test]],
                test_labels=labels[mine[test]],
            )
        )
    if dealing.kind is Partition.FEATURE:
        most = feature_skew.DEFAULT if dealing.max_noise is None else dealing.max_noise
        return feature_skew.noisy(shards, max_noise=most, rng=rng)
    return tuple(shards)


def deal_anew(
    federation: Federation,
    dealing: Dealing,
    *,
    devices: int,
    test_fraction: float,
    rng: np.random.Generator,
) -> Federation:
    """Return what the writers hold, pooled and dealt out anew; see ``deal``.

    The held-out set stays as it is, and no example of it is dealt out.
    """
    parts: list[tuple[Images, npt.NDArray[np.uint8]]] = []
    for shard in federation.shards:
        parts.append((shard.train_images, shard.train_labels))
        if not federation.holds_out_test_parts:
            parts.append((shard.test_images, shard.test_labels))
    shards = deal(
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        dealing,
        devices=devices,
        test_fraction=test_fraction,
        rng=rng,
    )
    return dataclasses.replace(federation, shards=shards)
