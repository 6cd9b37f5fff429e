import pathlib
from typing import Any

import numpy as np
import pytest

from device_sim.data import (
    DataError,
    Dealing,
    Federation,
    Partition,
    Shard,
    load,
)

DIRICHLET_AT_0 = Dealing(kind=Partition.DIRICHLET, alpha=0.0)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "mnist",
        "sample:",
        "sample:all",
        "npz",
        "npz:",
        "leaf:",
        "fed-emnist:",
        "fed-emnist:letters",
    ],
)
def test_an_unknown_source_is_refused_with_the_known_ones(source: str):
    with pytest.raises(DataError, match=r"unknown data source .* use sample, npz:PATH"):
        load(source, devices=2, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "1 device or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"test_fraction": 0.0}, "test fraction .* got 0.0"),
        ({"test_fraction": 1.0}, "test fraction .* got 1.0"),
        ({"way": DIRICHLET_AT_0}, "alpha must be over 0, got 0"),
        ({"classes": 9}, "must be under 9, got 9"),
        ({"classes": 100}, "classes must be 2 to 62, got 100"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        load("sample", **({"devices": 2, "seed": 0} | options))


def test_more_classes_than_labels_are_taken():
    assert load("sample", devices=2, seed=0, classes=62).classes == 62


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (
            Dealing(kind=Partition.WRITER, alpha=1.0),
            "alpha is 1.0, but only .* dirichlet or quantity reads it, not writer",
        ),
        (
            Dealing(kind=Partition.IID, shards_per_device=2),
            "shards_per_device is 2, but only the partition shards",
        ),
        (Dealing(kind=Partition.SHARDS, max_noise=0.1), "max_noise is 0.1, but"),
    ],
)
def test_a_setting_that_the_partition_does_not_read_is_refused(
    way: Dealing, message: str
):
    with pytest.raises(DataError, match=message):
        load("sample", devices=2, seed=0, way=way)


def test_a_path_may_hold_a_colon(tmp_path: pathlib.Path):
    with pytest.raises(DataError, match=r"no file .*a:b"):
        load(f"npz:{tmp_path}/a:b", devices=2, seed=0)


IMAGES, LABELS = np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, "images of the train part of me must be"),
        (IMAGES.reshape(3, 784), LABELS, r"got uint8 of shape \(3, 784\)"),
        (IMAGES, LABELS[:2], r"labels of the train part of me .* shape \(3,\)"),
        (IMAGES, LABELS.astype(np.int32), "got int32"),
        (IMAGES[:0], LABELS[:0], "train part of me must not be empty"),
    ],
)
def test_a_shard_of_another_shape_is_a_bug(
    images: np.ndarray, labels: np.ndarray, message: str
):
    with pytest.raises(ValueError, match=message):
        Shard(
            name="me",
            train_images=images,
            train_labels=labels,
            test_images=IMAGES,
            test_labels=LABELS,
        )


def test_an_empty_held_out_part_is_a_bug():
    with pytest.raises(ValueError, match="held-out part must not be empty"):
        Federation(
            name="none",
            classes=10,
            shards=(),
            held_out_images=IMAGES[:0],
            held_out_labels=LABELS[:0],
        )


def test_a_record_prints_without_its_pixels():
    federation = load("sample", devices=3, seed=0)
    assert repr(federation) == "Federation(name='sample', classes=10)"
    assert federation.train_examples == sum(len(s.train_y) for s in federation.shards)
    assert 3500 < federation.train_examples < 3700


def test_a_source_without_writers_cannot_say_how_many_they_are():
    with pytest.raises(DataError, match="no writers to count"):
        load("sample", devices=None, seed=0)
    with pytest.raises(DataError, match="sample has no writers"):
        load("sample", devices=2, seed=0, way=Dealing(kind=Partition.WRITER))
