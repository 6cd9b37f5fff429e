"""The records that every source of data ends up as.

Images stay uint8, a quarter of the memory; a device gets its float32 view when it asks
for it and drops it when it has trained.
"""

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]  # (n, 28, 28), 0 = paper, 255 = ink
Labels = npt.NDArray[np.uint8]  # (n,)
SIDE: Final = 28
DIGITS: Final = 10
CHARACTERS: Final = 62
LEAST_CLASSES: Final = 2


class DataError(Exception):
    """The data asked for cannot be had: the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    """What one device holds. It never leaves the device."""

    name: str  # of the writer, or of the invented device
    train_images: Images = dataclasses.field(repr=False)
    train_labels: Labels = dataclasses.field(repr=False)
    test_images: Images = dataclasses.field(repr=False)
    test_labels: Labels = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        """Hold the record to what it promises."""
        _check(self.train_images, self.train_labels, what=f"train part of {self.name}")
        _check(self.test_images, self.test_labels, what=f"test part of {self.name}")

    @property
    def train_x(self) -> npt.NDArray[np.float32]:
        """New array, shape (n, 28, 28, 1), in [0, 1], 0 = paper."""
        return to_float(self.train_images)

    @property
    def train_y(self) -> npt.NDArray[np.int32]:
        """New array, shape (n,)."""
        return self.train_labels.astype(np.int32)

    @property
    def test_x(self) -> npt.NDArray[np.float32]:
        """New array, shape (n, 28, 28, 1), in [0, 1], 0 = paper."""
        return to_float(self.test_images)

    @property
    def test_y(self) -> npt.NDArray[np.int32]:
        """New array, shape (n,)."""
        return self.test_labels.astype(np.int32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Federation:
    """All devices' shards, and the held-out examples that none of them trains on."""

    name: str  # the source, as on the command line
    classes: int
    shards: tuple[Shard, ...] = dataclasses.field(repr=False)
    held_out_images: Images = dataclasses.field(repr=False)
    held_out_labels: Labels = dataclasses.field(repr=False)
    #: whether shards' test parts are in it; else other writers, or split off before
    holds_out_test_parts: bool = dataclasses.field(default=True, repr=False)

    def __post_init__(self) -> None:
        """Hold the record to what it promises."""
        _check(self.held_out_images, self.held_out_labels, what="held-out part")

    @property
    def held_out_x(self) -> npt.NDArray[np.float32]:
        """New array, shape (n, 28, 28, 1), in [0, 1], 0 = paper."""
        return to_float(self.held_out_images)

    @property
    def held_out_y(self) -> npt.NDArray[np.int32]:
        """New array, shape (n,)."""
        return self.held_out_labels.astype(np.int32)

    @property
    def train_examples(self) -> int:
        """Number of examples that the devices train on, all together."""
        return sum(len(shard.train_labels) for shard in self.shards)


def to_float(images: Images) -> npt.NDArray[np.float32]:
    """Return uint8 images (n, 28, 28) as float32 (n, 28, 28, 1) in [0, 1]."""
    scaled: npt.NDArray[np.float32] = np.divide(images, 255, dtype=np.float32)
    return scaled[..., np.newaxis]


def ink_of(paper: npt.NDArray[np.floating], *, origin: str) -> Images:
    """Return black-on-white floats as white-on-black bytes.

    LEAF divides a grey byte by 255 and keeps paper at 1.0, and TensorFlow Federated
    took its images from there, so nothing is lost in the rounding.

    Args:
        paper: shape (n, 784), in [0, 1], 1 = paper.
        origin: Where they come from, for the message.

    Raises:
        DataError: A value is not in [0, 1].
    """
    # The negated test also catches NaN, which compares false with everything.
    if paper.size and not (paper.min() >= 0 and paper.max() <= 1):
        raise DataError(
            f"pixels of {origin} must lie in [0, 1], got "
            f"{paper.min():g} to {paper.max():g}: is this FEMNIST?"
        )
    ink: Images = np.rint((1 - paper) * 255).astype(np.uint8)
    return ink.reshape(-1, SIDE, SIDE)


def count_classes(highest: int, *, classes: int | None, origin: str) -> int:
    """Return how many classes a source has.

    Args:
        highest: The largest label in it.
        classes: What the caller says. None: the smaller of EMNIST's two label sets that
            holds every label, 10 digits or 62 characters.
        origin: Where the labels come from, for the message.

    Raises:
        DataError: A label lies outside, or ``classes`` is not 2 to 62.
    """
    if classes is None:
        classes = DIGITS if highest < DIGITS else CHARACTERS
    if not LEAST_CLASSES <= classes <= CHARACTERS:
        raise DataError(
            f"classes must be {LEAST_CLASSES} to {CHARACTERS}, got {classes}"
        )
    if highest >= classes:
        raise DataError(
            f"labels of {origin} must be under {classes}, got {highest}: "
            "choose a model and a source of the same classes"
        )
    return classes


def _check(images: Images, labels: Labels, *, what: str) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"images of the {what} must be uint8 of shape (n, 28, 28), "
            f"got {images.dtype} of shape {images.shape}"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels of the {what} must be uint8 of shape ({len(images)},), "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if not len(images):
        raise ValueError(f"the {what} must not be empty")
