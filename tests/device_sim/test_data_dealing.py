"""Who holds what, whichever way it is dealt out."""

import dataclasses
import math
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from device_sim.data import (
    DataError,
    Dealing,
    Federation,
    Partition,
    load,
    overview,
)
from device_sim.data import dealing as dealing_module

WAYS = [
    Dealing(kind=Partition.DIRICHLET, alpha=0.3),
    Dealing(kind=Partition.SHARDS),
    Dealing(kind=Partition.SHARDS, shards_per_device=3),
    Dealing(kind=Partition.QUANTITY, alpha=0.2),
    Dealing(kind=Partition.FEATURE),
    Dealing(kind=Partition.IID),
]
LABELS = st.lists(st.integers(0, 9), min_size=20, max_size=300).map(
    lambda labels: np.array(labels, np.uint8)
)


@hypothesis.given(LABELS, st.integers(1, 30), st.sampled_from(WAYS), st.integers(0, 99))
def test_every_example_goes_to_one_device_the_same_one_for_a_seed_or_it_is_refused(
    labels: np.ndarray, devices: int, way: Dealing, seed: int
):
    def parts() -> list[np.ndarray]:
        return way.parts(labels, devices=devices, rng=np.random.default_rng(seed))

    try:
        dealt = parts()
    except DataError as error:
        assert "too few for" in str(error)  # noqa: PT017 - both ends are right
        shards = way.shards_per_device or 2
        assert len(labels) < devices * max(2, shards)
        return
    assert len(dealt) == devices
    assert sorted(np.concatenate(dealt)) == list(range(len(labels)))
    assert min(map(len, dealt)) >= 2
    assert all(map(np.array_equal, dealt, parts()))


def counts(way: Dealing, *, devices: int = 20) -> np.ndarray:
    return overview.count(load("sample", devices=devices, seed=5, way=way))


def test_two_shards_are_two_labels_or_three_and_equal_sizes():
    held = counts(Dealing(kind=Partition.SHARDS))
    assert set((held > 0).sum(axis=1)) <= {1, 2, 3, 4}
    assert (held > 0).sum(axis=1).mean() < 2.5
    assert np.ptp(held.sum(axis=1)) <= 2
    more = counts(Dealing(kind=Partition.SHARDS, shards_per_device=5))
    assert (more > 0).sum(axis=1).mean() > 4


def test_quantity_skew_makes_sizes_unequal_and_leaves_labels_alike():
    held = counts(Dealing(kind=Partition.QUANTITY, alpha=0.3))
    sizes = held.sum(axis=1)
    assert sizes.max() > 10 * sizes.min()
    largest = held[sizes > 200] / sizes[sizes > 200, None]
    assert len(largest) > 2
    assert np.abs(largest - 0.1).max() < 0.07
    even = counts(Dealing(kind=Partition.QUANTITY, alpha=math.inf)).sum(axis=1)
    assert np.ptp(even) <= 1


def test_iid_devices_are_alike():
    held = counts(Dealing(kind=Partition.IID))
    assert np.ptp(held.sum(axis=1)) <= 1
    assert (held > 0).all()


def test_feature_skew_is_iid_data_with_noise_that_grows_on_both_parts():
    iid = load("sample", devices=5, seed=1, way=Dealing(kind=Partition.IID))
    noisy = load(
        "sample",
        devices=5,
        seed=1,
        way=Dealing(kind=Partition.FEATURE, max_noise=0.4),
    )
    for part in ("train", "test"):
        rms = []
        for one, other in zip(iid.shards, noisy.shards, strict=True):
            plain, changed = (getattr(s, f"{part}_images") for s in (one, other))
            assert np.array_equal(
                getattr(one, f"{part}_labels"), getattr(other, f"{part}_labels")
            )
            # Where pixels are far from both ends nothing is clipped.
            middle = (plain > 90) & (plain < 165)
            change = changed[middle].astype(float) - plain[middle]
            rms.append(np.sqrt((change**2).mean()) / 255)
        assert rms[0] == 0
        assert np.diff(rms).min() > 0
        assert rms[1] == pytest.approx(0.1, rel=0.2)
    assert np.array_equal(iid.held_out_images, noisy.held_out_images)


@pytest.mark.parametrize("noise", [0.0, -1.0, 1.5, math.nan])
def test_a_noise_out_of_range_is_refused(noise: float):
    way = Dealing(kind=Partition.FEATURE, max_noise=noise)
    with pytest.raises(DataError, match="max_noise must be over 0"):
        load("sample", devices=2, seed=0, way=way)


def test_no_shards_are_refused():
    way = Dealing(kind=Partition.SHARDS, shards_per_device=0)
    with pytest.raises(DataError, match="1 or more, got 0"):
        load("sample", devices=2, seed=0, way=way)


def file_of(folder: pathlib.Path, *, official: bool) -> str:
    n = 120
    content = {
        "images": np.arange(n, dtype=np.uint8)[:, None, None]
        + np.zeros((1, 28, 28), np.uint8),
        "labels": np.arange(n, dtype=np.uint8) % 10,
        "writer": np.arange(n) % 6,
        "split": (np.arange(n) >= 96).astype(np.uint8),
    }
    if official:
        content["official_test"] = (content["writer"] == 2).astype(np.uint8)
    path = folder / "writers.npz"
    np.savez(path, **content)
    return f"npz:{path}"


def held(federation: Federation, part: str) -> list[int]:
    images = [getattr(shard, f"{part}_images")[:, 0, 0] for shard in federation.shards]
    return np.concatenate(images).tolist()


@pytest.mark.parametrize("official", [False, True])
def test_what_writers_hold_is_pooled_and_dealt_out_without_the_held_out_set(
    tmp_path: pathlib.Path, *, official: bool
):
    federation = load(
        file_of(tmp_path, official=official),
        devices=9,
        seed=0,
        way=Dealing(kind=Partition.IID),
    )
    out = set(federation.held_out_images[:, 0, 0].tolist())
    dealt = held(federation, "train") + held(federation, "test")
    assert out == set(range(2, 120, 6)) if official else out == set(range(96, 120))
    assert sorted(dealt) == sorted(set(range(120)) - out)
    assert len(federation.shards) == 9


def test_writers_are_refused_where_a_number_of_devices_cannot_be_counted(
    tmp_path: pathlib.Path,
):
    with pytest.raises(DataError, match="devices of the partition iid are no writers"):
        load(
            file_of(tmp_path, official=False),
            devices=None,
            seed=0,
            way=Dealing(kind=Partition.IID),
        )


def test_a_device_of_few_examples_still_has_both_parts():
    shards = dealing_module.deal(
        np.zeros((8, 28, 28), np.uint8),
        np.arange(8, dtype=np.uint8),
        Dealing(kind=Partition.IID),
        devices=4,
        test_fraction=0.01,
        rng=np.random.default_rng(0),
    )
    assert {(len(s.train_labels), len(s.test_labels)) for s in shards} == {(1, 1)}


def test_the_table_has_the_first_devices_and_the_sums_of_all():
    federation = load("sample", devices=30, seed=0)
    lines = overview.table(federation).splitlines()
    assert len(lines) == 1 + 20 + 2
    assert lines[1].startswith("device-0 ")
    assert lines[-2] == "... and 10 more"
    assert f"30 devices train on {federation.train_examples} examples" in lines[-1]
    assert "1000 examples are held out" in lines[-1]
    cells = lines[1].split()
    assert int(cells[1]) == sum(int(c) for c in cells[3:] if c != ".")


def test_the_picture_changes_with_who_holds_what():
    federation = load("sample", devices=4, seed=0)
    other = dataclasses.replace(federation, shards=federation.shards[::-1])
    picture = overview.draw(federation)
    assert picture.startswith(b"\x89PNG")
    assert picture == overview.draw(federation)
    assert picture != overview.draw(other)
