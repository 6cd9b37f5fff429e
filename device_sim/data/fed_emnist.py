"""Federated EMNIST as TensorFlow Federated publishes it; a device is a writer.

One SQLite database, 171 MB to download and 4.7 GB unpacked, made by LEAF's pipeline:
3,383 writers of digits (341,873 train and 40,832 test examples) or 3,400 of all
characters (671,585 and 77,483). Table ``examples`` has the columns ``split_name``,
``client_id`` and ``serialized_example_proto``; ``client_metadata`` has ``client_id``,
``split_name`` and ``num_examples``. Read here with sqlite3 and the decoder of
``examples``, so neither TensorFlow nor TensorFlow Federated is needed.

The database keeps paper at 1.0; it is turned into 0 here, as everywhere in Shoal.

Source: tff.simulation.datasets.emnist.load_data and its SqlClientData.
"""

import contextlib
import os
import pathlib
import sqlite3
from typing import Final

import numpy as np

from device_sim.data import download, examples, partition
from device_sim.data.federation import (
    CHARACTERS,
    DIGITS,
    DataError,
    Federation,
    Images,
    Labels,
    Shard,
    count_classes,
    ink_of,
)

URL: Final = "https://storage.googleapis.com/tff-datasets-public/emnist_all.sqlite.lzma"
# TensorFlow Federated publishes no digest; the xz container's own checksums tell a
# damaged download.
FILE: Final = "emnist_all.sqlite"
PARTS: Final = {"digits": ("digits_only", DIGITS), "all": ("all", CHARACTERS)}
Part = tuple[Images, Labels]


def cache_folder() -> pathlib.Path:
    """Return where downloads are kept.

    ``SHOAL_CACHE``, else ``shoal`` in ``XDG_CACHE_HOME``, else ``~/.cache/shoal``.
    """
    own = os.environ.get("SHOAL_CACHE")
    if own:
        return pathlib.Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (
        pathlib.Path(shared) if shared else pathlib.Path.home() / ".cache"
    ) / "shoal"


def load(
    part: str,
    *,
    devices: int | None,
    classes: int | None,
    cache: pathlib.Path,
    rng: np.random.Generator,
    url: str = URL,
    sha256: str | None = None,
) -> Federation:
    """Return ``devices`` of the writers; download the database first if need be.

    Args:
        part: ``digits`` or ``all``, a key of ``PARTS``.
        devices: At least 1; None: every writer.
        classes: Number of classes, 10 or 62 where None.
        cache: Folder that the database is kept in.
        rng: Where all chance comes from.
        url: Where the compressed database is.
        sha256: Its digest, None where it is not known.

    Raises:
        DataError: The database cannot be had, is damaged or of another kind, or has too
            few writers.
    """
    split, own_classes = PARTS[part]
    classes = count_classes(
        own_classes - 1, classes=classes, origin=f"fed-emnist:{part}"
    )
    path = cache / FILE
    if not path.exists():
        download.fetch_unpacked(url, path, sha256=sha256)
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return _read(
                connection,
                split=split,
                name=f"fed-emnist:{part}",
                classes=classes,
                devices=devices,
                rng=rng,
            )
    except (
        sqlite3.Error,
        UnicodeDecodeError,  # sqlite3's, of what a damaged schema says
        MemoryError,  # a length in it is beyond all bounds
        examples.MalformedExample,
    ) as error:
        raise DataError(
            f"{path} is not the database of federated EMNIST ({error}): delete it, and "
            "it is downloaded again"
        ) from error


def _read(
    connection: sqlite3.Connection,
    *,
    split: str,
    name: str,
    classes: int,
    devices: int | None,
    rng: np.random.Generator,
) -> Federation:
    trains = _counts(connection, f"{split}_train")
    tests = _counts(connection, f"{split}_test")
    able = sorted(trains.keys() & tests.keys())
    chosen = partition.choose_writers(able, devices=devices, origin=name, rng=rng)
    held_out = {
        writer: _part(connection, f"{split}_test", writer, count, classes)
        for writer, count in sorted(tests.items())
    }
    shards: list[Shard] = []
    for writer in chosen:
        train_images, train_labels = _part(
            connection, f"{split}_train", writer, trains[writer], classes
        )
        test_images, test_labels = held_out[writer]
        shards.append(
            Shard(
                name=writer,
                train_images=train_images,
                train_labels=train_labels,
                test_images=test_images,
                test_labels=test_labels,
            )
        )
    return Federation(
        name=name,
        classes=classes,
        shards=tuple(shards),
        held_out_images=np.concatenate([images for images, _ in held_out.values()]),
        held_out_labels=np.concatenate([labels for _, labels in held_out.values()]),
    )


def _counts(connection: sqlite3.Connection, split: str) -> dict[str, int]:
    """Return how many examples each writer has in a split."""
    rows = connection.execute(
        "SELECT client_id, CAST(num_examples AS INTEGER) FROM client_metadata "
        "WHERE split_name = ?",
        (split,),
    )
    return {str(writer): count for writer, count in rows if count}


def _part(
    connection: sqlite3.Connection, split: str, writer: str, count: int, classes: int
) -> Part:
    """Return one writer's examples of one split, in the order they were stored."""
    rows = connection.execute(
        "SELECT serialized_example_proto FROM examples "
        "WHERE split_name = ? AND client_id = ? ORDER BY rowid",
        (split, writer),
    )
    # SQLite columns hold any type, whatever the table says.
    decoded = [
        examples.decode(example) for (example,) in rows if isinstance(example, bytes)
    ]
    if len(decoded) != count:
        raise examples.MalformedExample(
            f"writer {writer} has {len(decoded)} whole examples in {split}, not {count}"
        )
    pixels = np.stack([pixels for pixels, _ in decoded])
    labels = np.array([label for _, label in decoded], dtype=np.uint8)
    count_classes(int(labels.max()), classes=classes, origin=f"{split} of {writer}")
    return ink_of(pixels, origin=f"{split} of {writer}"), labels
