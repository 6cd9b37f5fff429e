"""Images by writer in one NumPy file; a device is a writer.

The file holds the arrays ``images`` (uint8, (n, 28, 28), 0 = paper), ``labels`` (n,),
``writer`` (n,) and ``split`` (n,): 0 = train, 1 = test, drawn within each writer. An
array ``writer_ids`` of text names the writers, where it is there. An array
``official_test`` (n,) marks with 1 the writers that are held out, where it is there:
they are no devices, and the held-out set is all that they wrote. Without it every
writer may be a device, and the held-out set is the test part of each.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from device_sim.data import partition
from device_sim.data.federation import (
    SIDE,
    DataError,
    Federation,
    Shard,
    count_classes,
)

COLUMNS: Final = ("labels", "writer", "split")
_OPTIONAL: Final = frozenset({"writer_ids", "official_test"})


def load(
    path: pathlib.Path,
    *,
    devices: int | None,
    classes: int | None,
    rng: np.random.Generator,
) -> Federation:
    """Return ``devices`` of the writers in the file.

    Raises:
        DataError: The file is missing, damaged or of another kind, or has too few
            writers.
    """
    arrays = _read(path)
    images, writer, split = arrays["images"], arrays["writer"], arrays["split"]
    classes = count_classes(
        int(arrays["labels"].max()), classes=classes, origin=str(path)
    )
    labels = arrays["labels"].astype(np.uint8)  # under 62
    is_held_out = _held_out(arrays, path)
    able = np.intersect1d(writer[split == 0], writer[split == 1])
    if "official_test" in arrays:
        able = np.setdiff1d(able, writer[is_held_out])
    chosen = partition.choose_writers(
        able.tolist(), devices=devices, origin=str(path), rng=rng
    )
    # One stable sort finds every writer's rows; a search a writer would be quadratic.
    order = np.argsort(writer, kind="stable")
    ordered = writer[order]
    shards: list[Shard] = []
    for number in chosen:
        start, end = np.searchsorted(ordered, [number, number + 1])
        rows = order[start:end]
        train, test = rows[split[rows] == 0], rows[split[rows] == 1]
        shards.append(
            Shard(
                name=_name(arrays, number),
                train_images=images[train],
                train_labels=labels[train],
                test_images=images[test],
                test_labels=labels[test],
            )
        )
    return Federation(
        name=f"npz:{path}",
        classes=classes,
        shards=tuple(shards),
        held_out_images=images[is_held_out],
        held_out_labels=labels[is_held_out],
        holds_out_test_parts="official_test" not in arrays,
    )


def _read(path: pathlib.Path) -> Mapping[str, npt.NDArray[Any]]:
    """Return the arrays, checked for type, shape and range."""
    wanted = {"images", *COLUMNS}
    try:
        # Opened here, for numpy forgets to close what proves to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {
                name: file[name] for name in (wanted | _OPTIONAL) & set(file.files)
            }
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    # numpy reads a header as Python: nobody knows what a damaged one raises.
    except Exception as error:
        raise DataError(
            f"{path} is not a readable npz file ({error}): it may be cut short or of "
            "another kind"
        ) from error
    if missing := wanted - arrays.keys():
        raise DataError(
            f"{path} has no array {', '.join(sorted(missing))}: it needs "
            f"{', '.join(sorted(wanted))}"
        )
    _check(arrays, path)
    _check_names(arrays, path)
    return arrays


def _check(arrays: Mapping[str, npt.NDArray[Any]], path: pathlib.Path) -> None:
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands out other members as bytes
            raise DataError(f"{path} is not a readable npz file: {name} is no array")
    images = arrays["images"]
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or not len(images):
        raise DataError(
            f"images of {path} must be uint8 of shape (n, 28, 28), "
            f"got {images.dtype} of shape {images.shape}"
        )
    for name in (*COLUMNS, *({"official_test"} & arrays.keys())):
        column = arrays[name]
        if column.dtype.kind not in "iu" or column.shape != images.shape[:1]:
            raise DataError(
                f"{name} of {path} must be integers of shape ({len(images)},), "
                f"got {column.dtype} of shape {column.shape}"
            )
        if column.min() < 0:
            raise DataError(f"{name} of {path} must be 0 or more, got {column.min()}")
    for name in ("split", *({"official_test"} & arrays.keys())):
        if arrays[name].max() > 1:
            raise DataError(
                f"{name} of {path} must be 0 (train) or 1 (test), "
                f"got {arrays[name].max()}"
            )


def _check_names(arrays: Mapping[str, npt.NDArray[Any]], path: pathlib.Path) -> None:
    if "writer_ids" not in arrays:
        return
    try:
        arrays["writer_ids"].tolist()
    except (SystemError, ValueError) as error:  # numpy asks Python for the text
        raise DataError(
            f"writer_ids of {path} must be text, got no characters ({error})"
        ) from error


def _held_out(
    arrays: Mapping[str, npt.NDArray[Any]], path: pathlib.Path
) -> npt.NDArray[np.bool_]:
    """Return which examples no device trains on, shape (n,)."""
    is_test: npt.NDArray[np.bool_] = arrays["split"] == 1
    official = arrays.get("official_test")
    if official is None:
        return is_test
    writer = arrays["writer"]
    held_out: npt.NDArray[np.bool_] = official == 1
    both = np.intersect1d(writer[held_out], writer[~held_out])
    if len(both) or not held_out.any():
        raise DataError(
            f"official_test of {path} must mark some writers and each of them whole, "
            f"got {held_out.sum()} examples marked and {len(both)} writers in part"
        )
    return held_out


def _name(arrays: Mapping[str, npt.NDArray[Any]], number: int) -> str:
    names = arrays.get("writer_ids")
    if names is None or names.ndim != 1 or number >= len(names):
        return f"writer-{number}"
    return str(names[number])
