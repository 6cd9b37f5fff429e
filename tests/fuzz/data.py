"""Fuzzers of the files that simulated devices get their examples and traces from."""

import atexit
import contextlib
import io
import json
import lzma
import pathlib
import shutil
import sqlite3
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from device_sim import trace
from device_sim.data import download, examples, fed_emnist, leaf, npz
from device_sim.data.federation import DataError
from tests.fuzz import mutations
from tests.fuzz.target import Target

_TRACES: Final = pathlib.Path(trace.__file__).parent / "traces"
_SPLITS: Final = ("digits_only_train", "digits_only_test")
_ROOT: Final = pathlib.Path(tempfile.gettempdir())


def _folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="shoal-fuzz-", dir=_ROOT))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class _Folder:
    """A folder that is made when it is first asked for."""

    def __init__(self) -> None:
        self._path: pathlib.Path | None = None

    def __truediv__(self, name: str) -> pathlib.Path:
        if self._path is None or not self._path.exists():
            self._path = _folder()
        return self._path / name


_FILES: Final = _Folder()


def _read_npz(data: bytes) -> None:
    path = _FILES / "writers.npz"
    path.write_bytes(data)
    with contextlib.suppress(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy's, of files of Python 2
        npz.load(path, devices=2, classes=None, rng=np.random.default_rng(0))


def _archives() -> Sequence[bytes]:
    count = 12
    arrays = {
        "images": np.zeros((count, 28, 28), np.uint8),
        "labels": (np.arange(count) % 10).astype(np.uint8),
        "writer": (np.arange(count) // 4).astype(np.int16),
        "split": (np.arange(count) % 2).astype(np.uint8),
    }
    official = {"official_test": (arrays["writer"] == 2).astype(np.uint8)}
    names = {"writer_ids": np.array(["a", "b", "c"])}
    bodies = []
    for more in ({}, official, names):
        file = io.BytesIO()
        np.savez_compressed(file, **arrays, **more)
        bodies.append(file.getvalue())
    return bodies


_NPY: Final = mutations.text(
    [
        b"'descr': '|O', ",
        b"'descr': '<U99999999', ",
        b"'descr': '<M8[ns]', ",
        b"'fortran_order': True, ",
        b"'shape': (99999999999,), ",
        b"'shape': (12, 1000000, 28), ",
        b"'shape': (-1,), ",
        b"'shape': (0, 28, 28), ",
        b"'<f8'",
        b"'|b1'",
        b"'>u8'",
        b"9" * 30,
        b"L",
        b"(" * 300,
        b"}",
        b"'",
        b"\n",
        b"\x93NUMPY\x03\x00",
    ]
)


def _in_an_archive(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.integers(4) == 0:
        return mutations.spoil(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # noqa: BLE001 - whatever it is, it is no archive any more
        return mutations.spoil(data, rng)
    if members:
        name = sorted(members)[int(rng.integers(len(members)))]
        match int(rng.integers(6)):
            case 0:
                members[min(members)] = members[name]
            case 1:
                members.pop(name)
            case 2:
                members[name] = mutations.spoil(members[name], rng)
            case _:
                members[name] = _npy(members[name], rng)
    file = io.BytesIO()
    kind = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(file, "w", kind[int(rng.integers(3))]) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npy(content: bytes, rng: np.random.Generator) -> bytes:
    """Change the header of an array, keeping its length right."""
    if content[:6] != b"\x93NUMPY" or len(content) < 10:
        return mutations.spoil(content, rng)
    (size,) = struct.unpack("<H", content[8:10])
    header = _NPY(content[10 : 10 + size], rng)[:0xFFFF]
    rest = content[10 + size :]
    return content[:8] + struct.pack("<H", len(header)) + header + rest


def _read_leaf(data: bytes) -> None:
    for part in ("train", "test"):
        path = _FILES / f"leaf/{part}/data.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with contextlib.suppress(DataError):
        leaf.load(
            _FILES / "leaf", devices=1, classes=None, rng=np.random.default_rng(0)
        )


def _leaf_files() -> Sequence[bytes]:
    row = [1.0] * 784
    content = {
        "users": ["a", "b"],
        "num_samples": [1, 2],
        "user_data": {
            "a": {"x": [row], "y": [3]},
            "b": {"x": [row, row], "y": [1, 61]},
        },
    }
    return [json.dumps(content).encode()]


def _decode_example(data: bytes) -> None:
    try:
        pixels, label = examples.decode(data)
    except examples.MalformedExample:
        return
    assert pixels.shape == (784,)
    assert 0 <= label < 62


def _varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low | 0x80]) + _varint(value >> 7) if value > low else bytes([low])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _example(label: int) -> bytes:
    pixels = np.ones(784, "<f4").tobytes()
    integer = _field(3, _field(1, _varint(label)))
    floats = _field(2, _field(1, pixels))
    return _field(
        1,
        _field(1, _field(1, b"label") + _field(2, integer))
        + _field(1, _field(1, b"pixels") + _field(2, floats)),
    )


def _read_database(data: bytes) -> None:
    path = _FILES / fed_emnist.FILE
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        fed_emnist.load(
            "digits",
            devices=1,
            classes=None,
            cache=path.parent,
            rng=np.random.default_rng(0),
            url="http://127.0.0.1:9/",
        )


def _databases() -> Sequence[bytes]:
    path = _FILES / "seed.sqlite"
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "PRAGMA page_size = 1024;"
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL,"
            " serialized_example_proto BLOB NOT NULL);"
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL,"
            " split_name TEXT NOT NULL, num_examples INTEGER NOT NULL);"
        )
        for split in _SPLITS:
            connection.execute(
                "INSERT INTO client_metadata VALUES (?, ?, ?)", ("a", split, 1)
            )
            connection.execute(
                "INSERT INTO examples VALUES (?, ?, ?)", (split, "a", _example(3))
            )
    return [path.read_bytes()]


_STATEMENTS: Final[Sequence[tuple[str, Sequence[Any]]]] = tuple(
    (f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608 - names are our own
    for table, column in (
        ("examples", "serialized_example_proto"),
        ("examples", "client_id"),
        ("examples", "split_name"),
        ("client_metadata", "num_examples"),
        ("client_metadata", "client_id"),
    )
    for value in (0, -1, 1.5, 2**62, "", "1", "x\0y", b"", b"\xff\xfe", "a" * 9000)
)


def _in_a_database(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.integers(2) == 0:
        return mutations.spoil(data, rng)
    path = _FILES / "changed.sqlite"
    path.write_bytes(data)
    statement, values = _STATEMENTS[int(rng.integers(len(_STATEMENTS)))]
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA journal_mode = OFF")
            if rng.integers(3) == 0:
                statement = "UPDATE examples SET serialized_example_proto = ?"
                values = (mutations.spoil(_example(3), rng),)
            elif rng.integers(4) == 0:
                statement = "UPDATE client_metadata SET client_id = CAST(? AS TEXT)"
                values = (rng.bytes(4),)
            connection.execute(statement, values)
    except (sqlite3.Error, OverflowError, UnicodeError):
        return mutations.spoil(data, rng)
    if path.stat().st_size > 1 << 20:  # a page's number was changed before
        return data
    return path.read_bytes()


def _unpack(data: bytes) -> None:
    unpacked = io.BytesIO()
    with contextlib.suppress(lzma.LZMAError, EOFError, DataError):
        download.unpack(io.BytesIO(data), unpacked, limit=_UNPACKED_BYTES)
    assert unpacked.tell() <= _UNPACKED_BYTES


_UNPACKED_BYTES: Final = 1 << 20


def _packed() -> Sequence[bytes]:
    contents = (b"", b"database" * 100, bytes(_UNPACKED_BYTES), bytes(1 << 24))
    return [
        lzma.compress(each, kind)
        for each in contents
        for kind in (lzma.FORMAT_XZ, lzma.FORMAT_ALONE)
    ]


def _read(parse: Callable[[str], trace.Trace], data: bytes) -> None:
    try:
        content = data.decode()
    except UnicodeDecodeError:
        return
    try:
        found = parse(content)
    except trace.InvalidTrace:
        return
    for profile in trace.profiles(found, devices=3, seed=0):
        assert profile.seconds_per_example >= 0
        assert profile.next_available(5.0) >= 5.0


def _csv() -> Sequence[bytes]:
    return [
        b"name,slowness,down_bytes_per_s,available\na,1.5,1e6,22:00-07:00\nb,2,,\n",
        b"slowness\n" + b"1\n" * 50,
    ]


def _toml() -> Sequence[bytes]:
    deep = b"groups = " + b"[" * 3000 + b"]" * 3000
    long = b"seconds_per_example = " + b"1" * 5000
    return [*(path.read_bytes() for path in sorted(_TRACES.glob("*.toml"))), deep, long]


_WORDS: Final = mutations.text(
    [
        b"share",
        b"slowness",
        b"dropout",
        b",",
        b'"',
        b"\r",
        b"\0",
        b"nan",
        b"inf",
        b"-1",
        b"1e308",
        b"1e-320",
        b"24:00-07:00",
        b"00:00-00:00",
        b"\xd9\xa1",
        b"[[groups]]\n",
        b"{median = 1e308, sigma = 5}",
        b" = ",
    ]
)

TARGETS = (
    Target(
        name="npz",
        run=_read_npz,
        seeds=_archives,
        mutate=_in_an_archive,
        peak_bytes=64 << 20,
    ),
    Target(name="leaf", run=_read_leaf, seeds=_leaf_files, mutate=mutations.json_text),
    Target(name="examples", run=_decode_example, seeds=lambda: [_example(3)]),
    Target(
        name="fed-emnist",
        run=_read_database,
        seeds=_databases,
        mutate=_in_a_database,
        max_bytes=1 << 16,
    ),
    Target(name="lzma", run=_unpack, seeds=_packed, max_bytes=1 << 15),
    Target(
        name="trace-csv",
        run=lambda data: _read(trace.parse_csv, data),
        seeds=_csv,
        mutate=_WORDS,
    ),
    Target(
        name="trace-toml",
        run=lambda data: _read(trace.parse_trace, data),
        seeds=_toml,
        mutate=_WORDS,
    ),
)
