import pathlib
import zipfile

import numpy as np
import pytest

from device_sim.data import DataError, load

REAL = pathlib.Path(__file__).parents[3] / "shared" / "emnist"


def arrays(writers: int = 5, size: int = 4, *, classes: int = 10):
    """A file of ``writers``, each with ``size`` examples, the last one to test."""
    rng = np.random.default_rng(0)
    n = writers * size
    return {
        "images": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
        "labels": (np.arange(n) % classes).astype(np.uint8),
        "writer": np.tile(np.arange(writers), size).astype(np.int16),  # interleaved
        "split": (np.arange(n) >= n - writers).astype(np.uint8),
    }


def save(folder: pathlib.Path, content: dict[str, np.ndarray]):
    path = folder / "writers.npz"
    np.savez_compressed(path, **content)
    return path


def test_a_device_is_a_writer_with_its_own_train_and_test_examples(
    tmp_path: pathlib.Path,
):
    content = arrays()
    federation = load(f"npz:{save(tmp_path, content)}", devices=5, seed=0)
    assert federation.classes == 10
    names = {f"writer-{number}": number for number in range(5)}
    assert {shard.name for shard in federation.shards} == set(names)
    for shard in federation.shards:
        mine = content["writer"] == names[shard.name]
        train, test = (mine & (content["split"] == part) for part in (0, 1))
        assert np.array_equal(shard.train_images, content["images"][train])
        assert np.array_equal(shard.train_labels, content["labels"][train])
        assert np.array_equal(shard.test_images, content["images"][test])
        assert np.array_equal(shard.test_labels, content["labels"][test])


def test_the_held_out_part_is_the_test_part_of_all_writers(tmp_path: pathlib.Path):
    content = arrays(writers=9)
    federation = load(f"npz:{save(tmp_path, content)}", devices=2, seed=0)
    test = content["split"] == 1
    assert np.array_equal(federation.held_out_images, content["images"][test])
    assert np.array_equal(federation.held_out_labels, content["labels"][test])


def test_writers_of_an_official_test_set_are_held_out_whole(tmp_path: pathlib.Path):
    content = arrays(writers=6)
    official = np.isin(content["writer"], [1, 4])
    content |= {"official_test": official.astype(np.uint8)}
    federation = load(f"npz:{save(tmp_path, content)}", devices=None, seed=0)
    names = {f"writer-{number}" for number in (0, 2, 3, 5)}
    assert {shard.name for shard in federation.shards} == names
    assert np.array_equal(federation.held_out_images, content["images"][official])
    assert np.array_equal(federation.held_out_labels, content["labels"][official])


def test_all_writers_are_taken_where_no_number_is_said(tmp_path: pathlib.Path):
    source = f"npz:{save(tmp_path, arrays(writers=7))}"
    assert len(load(source, devices=None, seed=0).shards) == 7


def test_the_seed_chooses_the_writers(tmp_path: pathlib.Path):
    source = f"npz:{save(tmp_path, arrays(writers=30))}"

    def names(seed: int) -> list[str]:
        return [shard.name for shard in load(source, devices=5, seed=seed).shards]

    assert names(1) == names(1)
    assert names(1) != names(2)


def test_writers_go_by_their_ids_where_the_file_has_them(tmp_path: pathlib.Path):
    content = arrays() | {"writer_ids": np.array([f"f{i:04}" for i in range(5)])}
    federation = load(f"npz:{save(tmp_path, content)}", devices=5, seed=0)
    assert {s.name for s in federation.shards} == {f"f000{i}" for i in range(5)}


def test_a_writer_without_a_test_example_is_no_device(tmp_path: pathlib.Path):
    content = arrays(writers=3)
    content["split"][content["writer"] == 1] = 0
    source = f"npz:{save(tmp_path, content)}"
    names = {shard.name for shard in load(source, devices=2, seed=0).shards}
    assert names == {"writer-0", "writer-2"}
    with pytest.raises(DataError, match="2 writers with train and test examples"):
        load(source, devices=3, seed=0)


def test_letters_make_sixty_two_classes(tmp_path: pathlib.Path):
    path = save(tmp_path, arrays(writers=4, size=4, classes=11))
    assert load(f"npz:{path}", devices=2, seed=0).classes == 62
    with pytest.raises(DataError, match="must be under 10, got 10"):
        load(f"npz:{path}", devices=2, seed=0, classes=10)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("images", np.zeros((20, 28, 28), np.float32), "images of .* must be uint8"),
        ("images", np.zeros((20, 784), np.uint8), r"got uint8 of shape \(20, 784\)"),
        ("images", np.zeros((0, 28, 28), np.uint8), r"shape \(0, 28, 28\)"),
        ("labels", np.zeros(19, np.uint8), r"labels of .* shape \(20,\)"),
        ("labels", np.full(20, 62), "must be under 62, got 62"),
        ("labels", np.full(20, 300), "must be under 62, got 300"),
        ("labels", np.full(20, -1), "labels of .* 0 or more, got -1"),
        ("writer", np.zeros(20), "writer of .* must be integers"),
        ("split", np.full(20, 2), "split of .* got 2"),
        ("split", np.zeros(20, np.uint8), "0 writers with train and test"),
        ("official_test", np.full(20, 2), "official_test of .* got 2"),
        ("official_test", np.zeros(20, np.uint8), "got 0 examples marked"),
        ("official_test", np.arange(20) > 17, "official_test of .* must be integers"),
        ("official_test", np.eye(20, dtype=int)[3], "1 examples marked and 1 writers"),
        ("labels", np.array([None] * 20), "not a readable npz file"),
    ],
)
def test_a_wrong_array_is_refused(
    tmp_path: pathlib.Path, name: str, value: np.ndarray, message: str
):
    path = save(tmp_path, arrays() | {name: value})
    with pytest.raises(DataError, match=message):
        load(f"npz:{path}", devices=1, seed=0)


def test_a_missing_array_is_named(tmp_path: pathlib.Path):
    content = arrays()
    del content["split"]
    with pytest.raises(DataError, match="has no array split"):
        load(f"npz:{save(tmp_path, content)}", devices=1, seed=0)


def test_a_missing_file_is_named(tmp_path: pathlib.Path):
    with pytest.raises(DataError, match=r"no file .*nowhere\.npz"):
        load(f"npz:{tmp_path / 'nowhere.npz'}", devices=1, seed=0)


def test_a_foreign_file_is_refused(tmp_path: pathlib.Path):
    lone = tmp_path / "lone.npy"
    np.save(lone, np.zeros(3))
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    empty = tmp_path / "empty.npz"
    empty.touch()
    for path in (lone, text, empty, tmp_path):
        with pytest.raises(DataError, match="not a readable npz file"):
            load(f"npz:{path}", devices=1, seed=0)


def test_a_cut_or_damaged_file_is_refused_wherever_it_is_cut(tmp_path: pathlib.Path):
    whole = save(tmp_path, arrays()).read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, len(whole), 997):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.npz"):
            load(f"npz:{path}", devices=1, seed=0)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"cut\.npz"):
        load(f"npz:{path}", devices=1, seed=0)


@pytest.mark.parametrize(
    "content",
    [
        b"no array at all",
        b"\x93NUMPY\x01\x00\x08\x00{'descr'",
        (
            b"\x93NUMPY\x01\x00\x4a\x00{'descr': '|u1', 'fortran_order': False, "
            b"'shape': (99999999999999, 28, 28)}\n"
        ),
        (
            b"\x93NUMPY\x01\x00\x4b\x00{'descr': '|u1', 'fortran_order': False, "
            b"'shape': (99999999999999999999,)}\n"
        ),
        (
            b"\x93NUMPY\x01\x00\x3b\x00{'descr': '(,2u1', 'fortran_order': False, "
            b"'shape': (12,)}\n"
        ),
    ],
    ids=["no array", "no header", "no room", "no number", "no type"],
)
def test_a_member_that_is_no_array_is_refused(tmp_path: pathlib.Path, content: bytes):
    path = save(tmp_path, arrays())
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as changed:
        for name, old in members.items():
            changed.writestr(name, content if name == "images.npy" else old)
    with pytest.raises(DataError, match="not a readable npz file"):
        load(f"npz:{path}", devices=1, seed=0)


def test_names_that_are_no_text_are_refused(tmp_path: pathlib.Path):
    content = arrays()
    content["writer_ids"] = np.full(40, 0xFFFFFFFF, np.uint32).view("<U1")
    with pytest.raises(DataError, match=r"writer_ids of .* must be text"):
        load(f"npz:{save(tmp_path, content)}", devices=1, seed=0)


def test_an_encrypted_file_is_refused(tmp_path: pathlib.Path):
    path = save(tmp_path, arrays())
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(mark)
        content[start + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load(f"npz:{path}", devices=5, seed=0)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not on this machine")
@pytest.mark.parametrize(
    ("file", "writers", "classes", "held_out"),
    [
        ("femnist_leaf_digits.npz", 367, 10, 4346),
        ("femnist_leaf_all62.npz", 390, 62, 6170),
        ("mnist_by_writer.npz", 539, 10, 10_000),
    ],
)
def test_the_real_files_give_every_writer_a_device(
    file: str, writers: int, classes: int, held_out: int
):
    source = f"npz:{REAL / file}"
    federation = load(source, devices=writers, seed=0)
    assert federation.classes == classes
    assert len({shard.name for shard in federation.shards}) == writers
    assert len(federation.held_out_labels) == held_out
    assert len(np.unique(federation.held_out_labels)) == classes
    assert 0.02 < federation.held_out_x.mean() < 0.2  # ink is rare: 0 is paper
    with pytest.raises(DataError, match=f"{writers} writers"):
        load(source, devices=writers + 1, seed=0)
