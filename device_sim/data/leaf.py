"""LEAF's FEMNIST as LEAF's own scripts write it; a device is a writer.

``DIR/train/*.json`` and ``DIR/test/*.json``, each an object with ``users`` and
``user_data``: for every user ``x``, a list of rows of 784 floats, and ``y``, a list of
labels. LEAF keeps paper at 1.0; it is turned into 0 here, as everywhere in Shoal.
Preprocess with ``./preprocess.sh -s niid -t sample``, so that a writer has both parts.

Source: Caldas et al. 2018 (arXiv:1812.01097).
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from device_sim.data import partition
from device_sim.data.federation import (
    CHARACTERS,
    SIDE,
    DataError,
    Federation,
    Images,
    Labels,
    Shard,
    count_classes,
    ink_of,
)

PIXELS: Final = SIDE * SIDE
Part = tuple[Images, Labels]


def load(
    folder: pathlib.Path,
    *,
    devices: int | None,
    classes: int | None,
    rng: np.random.Generator,
) -> Federation:
    """Return ``devices`` of the writers in the folder.

    One JSON file is in memory at a time, and of the training part only the chosen
    writers are kept.

    Raises:
        DataError: A file is missing or damaged, or there are too few writers.
    """
    tests = dict(_parts(folder / "test", only=None))
    chosen = partition.choose_writers(
        sorted(tests), devices=devices, origin=str(folder), rng=rng
    )
    trains = dict(_parts(folder / "train", only=frozenset(chosen)))
    strangers = [writer for writer in chosen if writer not in trains]
    if strangers:
        raise DataError(
            f"writer {strangers[0]} of {folder} has test but no train examples: "
            "preprocess LEAF with -t sample, which splits within each writer"
        )
    used = [*tests.values(), *trains.values()]
    highest = max(int(labels.max()) for _, labels in used)
    return Federation(
        name=f"leaf:{folder}",
        classes=count_classes(highest, classes=classes, origin=str(folder)),
        shards=tuple(
            Shard(
                name=writer,
                train_images=trains[writer][0],
                train_labels=trains[writer][1],
                test_images=tests[writer][0],
                test_labels=tests[writer][1],
            )
            for writer in chosen
        ),
        held_out_images=np.concatenate([tests[writer][0] for writer in sorted(tests)]),
        held_out_labels=np.concatenate([tests[writer][1] for writer in sorted(tests)]),
    )


def _parts(
    folder: pathlib.Path, *, only: frozenset[str] | None
) -> Iterator[tuple[str, Part]]:
    """Yield every writer's examples in all files of a folder."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(
            f"there is no JSON file in {folder}: name the folder that holds LEAF's "
            "train and test"
        )
    seen: set[str] = set()
    for path in paths:
        for writer, content in _read(path).items():
            if writer in seen:
                raise DataError(
                    f"writer {writer} is in {path} and in a file before it: remove "
                    "what an earlier preprocessing left"
                )
            seen.add(writer)
            if only is None or writer in only:
                yield writer, _decode(content, origin=f"writer {writer} in {path}")


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Return the ``user_data`` of one file."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}): it may be cut short"
        ) from error
    data = content.get("user_data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        raise DataError(f"{path} has no object user_data: it is not a file of LEAF")
    users = content.get("users")
    if not isinstance(users, list) or sorted(data) != sorted(map(str, users)):
        raise DataError(
            f"users and user_data of {path} name other writers: preprocess LEAF again"
        )
    return data


def _decode(content: Any, *, origin: str) -> Part:  # noqa: ANN401  - JSON is anything
    """Return one writer's examples, checked."""
    try:
        pixels = np.array(content["x"], dtype=np.float32)
        labels = np.array(content["y"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"x and y of {origin} are not lists of numbers") from error
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):  # noqa: PLR2004  - rows and columns
        raise DataError(
            f"x of {origin} must be rows of {PIXELS} pixels, got shape {pixels.shape}: "
            "only FEMNIST is read"
        )
    if labels.dtype.kind != "i" or labels.shape != pixels.shape[:1]:
        raise DataError(
            f"y of {origin} must be {len(pixels)} integers, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= CHARACTERS:
        raise DataError(
            f"labels of {origin} must be 0 to {CHARACTERS - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    return ink_of(pixels, origin=origin), labels.astype(np.uint8)
