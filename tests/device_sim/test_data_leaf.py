import json
import pathlib
from typing import Any

import numpy as np
import pytest

from device_sim.data import DataError, load


def part(writers: list[str], size: int, *, first: int = 0):
    rng = np.random.default_rng(first)
    data = {
        writer: {
            "x": (rng.integers(0, 256, (size, 784)) / 255).tolist(),
            "y": [(first + i) % 10 for i in range(size)],
        }
        for writer in writers
    }
    return {"users": list(data), "num_samples": [size] * len(data), "user_data": data}


def store(folder: pathlib.Path, split: str, name: str, content: dict[str, Any] | str):
    (folder / split).mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / split / f"{name}.json").write_text(text)


@pytest.fixture
def folder(tmp_path: pathlib.Path):
    store(tmp_path, "train", "all_data_0", part(["f1", "f2"], 3))
    store(tmp_path, "train", "all_data_1", part(["f3"], 4, first=3))
    store(tmp_path, "test", "all_data_0", part(["f1", "f2"], 1, first=5))
    store(tmp_path, "test", "all_data_1", part(["f3"], 2, first=7))
    return tmp_path


def test_a_device_is_a_writer_and_paper_becomes_zero(folder: pathlib.Path):
    federation = load(f"leaf:{folder}", devices=3, seed=0)
    assert federation.classes == 10
    stored = json.loads((folder / "train" / "all_data_1.json").read_text())["user_data"]
    shard = next(shard for shard in federation.shards if shard.name == "f3")
    assert shard.train_y.tolist() == [3, 4, 5, 6]
    assert shard.test_y.tolist() == [7, 8]
    np.testing.assert_allclose(
        shard.train_x.reshape(4, 784), 1 - np.array(stored["f3"]["x"]), atol=1e-6
    )


def test_the_held_out_part_is_the_test_part_of_all_writers(folder: pathlib.Path):
    federation = load(f"leaf:{folder}", devices=1, seed=0)
    assert federation.held_out_y.tolist() == [5, 5, 7, 8]
    assert federation.held_out_x.shape == (4, 28, 28, 1)


def test_more_devices_than_writers_are_refused(folder: pathlib.Path):
    with pytest.raises(DataError, match="has 3 writers"):
        load(f"leaf:{folder}", devices=4, seed=0)


def test_a_split_by_user_is_refused_with_the_option_to_use(folder: pathlib.Path):
    store(folder, "test", "all_data_1", part(["f9"], 2))
    with pytest.raises(DataError, match=r"writer f9 .* no train .* -t sample"):
        load(f"leaf:{folder}", devices=3, seed=0)


def test_a_missing_folder_is_named(folder: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(DataError, match=r"no JSON file in .*nowhere"):
        load(f"leaf:{tmp_path / 'nowhere'}", devices=1, seed=0)
    for path in (folder / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no JSON file in .*train"):
        load(f"leaf:{folder}", devices=1, seed=0)


def test_a_writer_in_two_files_is_refused(folder: pathlib.Path):
    store(folder, "test", "all_data_2", part(["f1"], 2))
    with pytest.raises(DataError, match=r"writer f1 is in .* a file before it"):
        load(f"leaf:{folder}", devices=1, seed=0)


def one(**writer: object):
    return {"users": ["f1"], "num_samples": [1], "user_data": {"f1": writer}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not readable JSON"),
        (json.dumps(part(["f1"], 1))[:-9], "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("[]", "no object user_data"),
        ('{"user_data": []}', "no object user_data"),
        ('{"users": ["f2"], "user_data": {"f1": {}}}', "name other writers"),
        ('{"users": 3, "user_data": {"f1": {}}}', "name other writers"),
        (one(), "not lists of numbers"),
        (one(x=[[0.0] * 784, [0.0]], y=[1, 1]), "not lists of numbers"),
        (one(x=[["ink"] * 784], y=[1]), "not lists of numbers"),
        (one(x=["Shakespeare"], y=["s"]), "not lists of numbers"),
        (one(x=[[0.0] * 3072], y=[1]), "rows of 784 pixels"),
        (one(x=[], y=[]), "rows of 784 pixels"),
        (one(x=[[0.0] * 784], y=[1, 2]), "y of writer f1 .* must be 1 integers"),
        (one(x=[[0.0] * 784], y=[1.5]), "must be 1 integers"),
        (one(x=[[0.0] * 784], y=[10**30]), "must be 1 integers"),
        (one(x=[[0.0] * 784], y=[62]), "labels of writer f1 .* 0 to 61"),
        (one(x=[[0.0] * 784], y=[-1]), "labels of writer f1 .* 0 to 61"),
        (one(x=[[255.0] * 784], y=[1]), r"must lie in \[0, 1\], got 255 to 255"),
        (one(x=[[float("nan")] * 784], y=[1]), r"must lie in \[0, 1\]"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    folder: pathlib.Path, content: dict[str, Any] | str, message: str
):
    store(folder, "test", "all_data_1", "{}")
    store(folder, "test", "all_data_0", content)
    with pytest.raises(DataError, match=message):
        load(f"leaf:{folder}", devices=1, seed=0)
