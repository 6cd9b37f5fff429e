import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coordinator.protocol import tensors
from coordinator.protocol.tensors import LeftoverBytes, MalformedTensors
from tests.support.bodies import container, entry

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"} | {
    "I8": "|i1",
    "U8": "|u1",
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in DTYPES.values()]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)
BODIES = st.lists(
    st.tuples(TEXT.filter(lambda name: name != "__metadata__"), ARRAYS),
    max_size=4,
    unique_by=lambda pair: pair[0],
)
GOOD = container(
    {
        "__metadata__": {"encoding": "f32"},
        "a": entry(0, 8),
        "b": entry(8, 12, shape=[]),
    },
    np.array([1, 2, 3], "<f4").tobytes(),
)
#: What JSON a hostile header may hold; sizes stay small so that arrays fit in memory.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "BF16"]),
        "shape": st.lists(st.integers(0, 2), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 12), min_size=2, max_size=2),
    }
)
HEADERS = JSON | st.dictionaries(TEXT | st.just("__metadata__"), ENTRIES | JSON)


def bits(array: npt.NDArray[Any]) -> bytes:
    return array.tobytes()


@given(BODIES, st.dictionaries(TEXT, TEXT, max_size=4))
def test_what_is_written_is_read(
    arrays: list[tuple[str, npt.NDArray[Any]]], metadata: dict[str, str]
) -> None:
    container_ = tensors.read(tensors.write(arrays, metadata))
    assert container_.metadata == metadata
    assert [entry_.name for entry_ in container_.entries] == [n for n, _ in arrays]
    for entry_, (_, array) in zip(container_.entries, arrays, strict=True):
        read = container_.array(entry_)
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert bits(read) == bits(array)
        assert not read.flags.writeable


@pytest.mark.parametrize(("name", "code"), list(DTYPES.items()))
def test_each_dtype_has_its_name(name: str, code: str) -> None:
    (entry_,) = tensors.read(tensors.write([("x", np.ones(2, code))], {})).entries
    assert entry_.dtype == name
    assert entry_.end == 2 * np.dtype(code).itemsize


def test_big_endian_and_strided_arrays_are_written_little_endian_in_c_order() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    body = tensors.write([("x", array)], {})
    assert body.endswith(np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes())


def test_a_dtype_without_a_name_is_not_written() -> None:
    with pytest.raises(KeyError):
        tensors.write([("x", np.ones(2, np.complex64))], {})


def test_the_header_is_padded_to_eight_bytes_and_sorts_its_metadata() -> None:
    header = tensors.header_for([("x", "F16", (2, 3))], {"b": "2", "a": "1"})
    text = (
        b'{"__metadata__":{"a":"1","b":"2"},'
        b'"x":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}'
    )
    assert len(text) == 90
    assert header == b"\x60" + bytes(7) + text + b"      "


@given(BODIES)
def test_the_safetensors_package_reads_what_is_written(
    arrays: list[tuple[str, npt.NDArray[Any]]],
) -> None:
    loaded = safetensors.numpy.load(tensors.write(arrays, {"k": "v"}))
    assert set(loaded) == {name for name, _ in arrays}
    for name, array in arrays:
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert bits(loaded[name]) == bits(array)


@given(BODIES, st.dictionaries(TEXT, TEXT, max_size=4))
def test_what_the_safetensors_package_writes_is_read(
    arrays: list[tuple[str, npt.NDArray[Any]]], metadata: dict[str, str]
) -> None:
    body = safetensors.numpy.save(dict(arrays), metadata or None)
    container_ = tensors.read(body)
    assert container_.metadata == metadata
    read = {entry_.name: container_.array(entry_) for entry_ in container_.entries}
    assert set(read) == {name for name, _ in arrays}
    for name, array in arrays:
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert bits(read[name]) == bits(array)


def test_the_safetensors_package_reads_the_metadata(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensors.write([("x", np.ones(2, "f4"))], {"examples": "7"}))
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"examples": "7"}


def test_arrays_are_views_of_the_body() -> None:
    body = bytearray(GOOD)
    container_ = tensors.read(body)
    assert container_.array(container_.entries[0]).tolist() == [1, 2]
    body[-12:-8] = np.array([9], "<f4").tobytes()
    assert container_.array(container_.entries[0]).tolist() == [9, 2]
    assert container_.array(container_.entries[1]).tolist() == 3


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_truncated_body_is_malformed(length: int) -> None:
    with pytest.raises(MalformedTensors) as caught:
        tensors.read(GOOD[:length])
    assert caught.type is MalformedTensors


MALFORMED: dict[str, bytes] = {
    "length of 2**64 - 1": b"\xff" * 8 + b"{}",
    "length one beyond the body": b"\x03" + bytes(7) + b"{}",
    "header of no bytes": container(b""),
    "no JSON": container(b"tensors"),
    "JSON that ends early": container(b'{"a":'),
    "JSON with more behind it": container(b"{} {}"),
    "no UTF-8": container(b'{"\xff":1}'),
    "UTF-16": container('{"__metadata__":{}}'.encode("utf-16")),
    "UTF-32": container("{}".encode("utf-32-le")),
    "byte order mark": container(b"\xef\xbb\xbf{}"),
    "a list": container([]),
    "a number": container(7),
    "null": container(None),
    "a key twice": container(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), bytes(4)
    ),
    "metadata twice": container(b'{"__metadata__":{},"__metadata__":{}}'),
    "a metadata key twice": container(b'{"__metadata__":{"k":"1","k":"2"}}'),
    "a dtype twice": container(
        b'{"a":{"dtype":"F64","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "deep lists": container(b"[" * 100_000),
    "deep objects": container(b'{"a":' * 100_000),
    "a deep entry": container(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a size of 5,000 digits": container(
        b'{"a":{"dtype":"F32","shape":[1%s],"data_offsets":[0,4]}}' % (b"0" * 5000)
    ),
    "a size of 4,000 digits": container({"a": entry(0, 4, shape=[10**4000])}),
    "a size of 2**40": container({"a": entry(0, 1 << 40, shape=[1 << 40], dtype="U8")}),
    "sizes whose product wraps at 64 bits": container(
        {"a": entry(0, 4, shape=[1 << 32, 1 << 32, 1])}, bytes(4)
    ),
    "a negative size": container({"a": entry(0, 4, shape=[-1, -1])}, bytes(4)),
    "a fractional size": container({"a": entry(0, 4, shape=[1.0])}, bytes(4)),
    "a size of true": container({"a": entry(0, 4, shape=[True])}, bytes(4)),
    "a size of NaN": container({"a": entry(0, 4, shape=[float("nan")])}, bytes(4)),
    "a size as text": container({"a": entry(0, 4, shape=["1"])}, bytes(4)),
    "a shape that is a number": container({"a": entry(0, 4, shape=1)}, bytes(4)),
    "a shape that is null": container(
        b'{"a":{"dtype":"F32","shape":null,"data_offsets":[0,4]}}', bytes(4)
    ),
    "nine dimensions": container({"a": entry(0, 4, shape=[1] * 9)}, bytes(4)),
    "three offsets": container(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4)
    ),
    "one offset": container(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, bytes(4)
    ),
    "a negative offset": container({"a": entry(-4, 0, shape=[1])}, bytes(4)),
    "offsets that run backwards": container({"a": entry(4, 0, shape=[1])}, bytes(4)),
    "more bytes than the shape": container({"a": entry(0, 8, shape=[1])}, bytes(8)),
    "fewer bytes than the shape": container({"a": entry(0, 4, shape=[2])}, bytes(4)),
    "bfloat16": container({"a": entry(0, 4, dtype="BF16", shape=[2])}, bytes(4)),
    "a dtype in small letters": container({"a": entry(0, 4, dtype="f32")}, bytes(4)),
    "a dtype that is a number": container({"a": entry(0, 4, dtype=4)}, bytes(4)),
    "a dtype that is a list": container({"a": entry(0, 4, dtype=["F32"])}, bytes(4)),
    "an entry that is null": container({"a": None}),
    "an entry that is a list": container({"a": ["F32", [1], [0, 4]]}, bytes(4)),
    "an entry without a shape": container(
        {"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)
    ),
    "an entry with one field more": container({"a": entry(0, 4) | {"x": 0}}, bytes(4)),
    "metadata that is null": container({"__metadata__": None}),
    "metadata that is a list": container({"__metadata__": []}),
    "a metadata value that is a number": container({"__metadata__": {"k": 1}}),
    "a tensor past the end": container({"a": entry(0, 8)}, bytes(4)),
}
LEFTOVER: dict[str, bytes] = {
    "a byte behind the last tensor": GOOD + b"\0",
    "bytes and no tensor": container({}, b"x"),
    "a hole before the first tensor": container({"a": entry(4, 8)}, bytes(8)),
    "a hole between tensors": container(
        {"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)
    ),
    "tensors that overlap": container({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "two tensors in one place": container(
        {"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)
    ),
    "tensors out of order": container({"b": entry(4, 8), "a": entry(0, 4)}, bytes(8)),
}
UNSHOWABLE: dict[str, bytes] = {
    "a name of half a million letters": container({"a" * 500_000: None}),
    "a long name behind a hole": container({"a" * 500_000: entry(4, 8)}, bytes(8)),
    "half a surrogate pair as a name": container(b'{"\\ud800":null}'),
    "a name of control characters": container({"\x1b[2J\r\n\0": None}),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    assert type(refusal_of(body)) is MalformedTensors


@pytest.mark.parametrize("body", LEFTOVER.values(), ids=LEFTOVER)
def test_bytes_of_no_tensor_are_refused(body: bytes) -> None:
    assert type(refusal_of(body)) is LeftoverBytes


@pytest.mark.parametrize("body", UNSHOWABLE.values(), ids=UNSHOWABLE)
def test_a_name_that_cannot_be_shown_is_refused(body: bytes) -> None:
    refusal_of(body)


def refusal_of(body: bytes) -> MalformedTensors:
    """The refusal, whose message must be a short line that can be sent as UTF-8."""
    with pytest.raises(MalformedTensors) as caught:
        tensors.read(body)
    assert str(caught.value).encode().decode().isprintable()
    assert len(str(caught.value)) <= 500
    return caught.value


def test_the_longest_header_is_one_mebibyte() -> None:
    assert tensors.read(container(b"{}".ljust(1 << 20))).entries == ()
    with pytest.raises(MalformedTensors, match="1048577"):
        tensors.read(container(b"{}".ljust((1 << 20) + 1)))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    read_or_refuse(body)


@given(HEADERS, st.binary(max_size=12))
def test_any_header_is_read_or_refused(header: object, data: bytes) -> None:
    read_or_refuse(container(header, data))


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
def test_any_damage_is_read_or_refused(at: int, damage: bytes) -> None:
    read_or_refuse(GOOD[:at] + damage + GOOD[at + 1 :])


def read_or_refuse(body: bytes) -> None:
    try:
        container_ = tensors.read(body)
    except MalformedTensors:
        return
    read = [container_.array(entry_) for entry_ in container_.entries]
    assert sum(array.nbytes for array in read) == len(container_.data)
