"""Tensors as bytes: the safetensors format, read strictly.

A body is an 8-byte little-endian header length, a JSON header and the tensors' bytes.
Stricter than the format asks: tensors lie in the order of the header, without holes and
without a byte left over. Any safetensors library can read and write such bodies.

Source: the safetensors format description, version 0.4 and later.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from coordinator.protocol.digests import Bytes

MAX_HEADER_BYTES: Final = 1 << 20
_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 8
_METADATA: Final = "__metadata__"
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


class MalformedTensors(ValueError):
    """The bytes are no safetensors body: header, JSON, offsets or sizes are wrong."""


class LeftoverBytes(MalformedTensors):
    """The body goes on after its last tensor, or has holes between tensors."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor as the header declares it; ``start`` and ``end`` in the data part."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A parsed body. ``data`` is a view of the bytes behind the header."""

    metadata: Mapping[str, str]
    entries: tuple[Entry, ...]
    data: memoryview

    def array(self, entry: Entry) -> npt.NDArray[Any]:
        """Return a read-only view of ``entry``, in its shape and dtype."""
        part = self.data[entry.start : entry.end]
        return np.frombuffer(part, _DTYPES[entry.dtype]).reshape(entry.shape)


def header_for(
    entries: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Return length and header of a body whose tensors lie in the given order.

    Args:
        entries: Name, dtype (``F32``, ...) and shape of each tensor.
        metadata: Strings by strings; written in sorted order.
    """
    header: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * _DTYPES[dtype].itemsize
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def write(
    tensors: Sequence[tuple[str, npt.NDArray[Any]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the body that holds ``tensors`` in the given order.

    Raises:
        KeyError: A dtype has no safetensors name here.
    """
    entries = [
        (name, _NAMES[array.dtype.newbyteorder("<")], array.shape)
        for name, array in tensors
    ]
    parts = [
        np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        .reshape(-1)
        .view(np.uint8)
        .data
        for _, array in tensors
    ]
    return b"".join([header_for(entries, metadata), *parts])


def read(body: Bytes) -> Container:
    """Parse a body that came from outside.

    Raises:
        LeftoverBytes: There are bytes that no tensor owns.
        MalformedTensors: Anything else about the bytes is wrong.
    """
    view = memoryview(body).cast("B")
    if len(view) < _LENGTH_BYTES:
        raise MalformedTensors(f"a body has at least 8 bytes, got {len(view)}")
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, len(view) - _LENGTH_BYTES):
        raise MalformedTensors(f"header length {length} exceeds the body or 1 MiB")
    data = view[_LENGTH_BYTES + length :]
    header = _parse_header(bytes(view[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise MalformedTensors("metadata must map strings to strings")
    entries: list[Entry] = []
    expected = 0
    for name, fields in header.items():
        entry = _parse_entry(name, fields)
        if entry.start != expected:
            raise LeftoverBytes(
                f"tensor {name!a:.80} must start at byte {expected}, got {entry.start}"
            )
        expected = entry.end
        entries.append(entry)
    if expected > len(data):
        raise MalformedTensors(
            f"tensors need {expected} bytes, the body holds {len(data)}"
        )
    if expected < len(data):
        raise LeftoverBytes(f"{len(data) - expected} bytes follow the last tensor")
    return Container(metadata=metadata, entries=tuple(entries), data=data)


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except MalformedTensors:
        raise
    except (ValueError, RecursionError) as error:  # bad UTF-8, JSON or huge numbers
        raise MalformedTensors("the header is not JSON") from error
    if not isinstance(header, dict):
        raise MalformedTensors("the header must be a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedTensors("the header repeats a key")
    return fields


def _parse_entry(name: str, fields: object) -> Entry:
    tensor = f"tensor {name!a:.80}"
    if not isinstance(fields, dict) or set(fields) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise MalformedTensors(f"{tensor} needs dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise MalformedTensors(f"{tensor} has an unknown dtype {dtype!a:.40}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004 - start and end
        raise MalformedTensors(f"{tensor} has a wrong shape or wrong offsets")
    start, end = offsets
    if end - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise MalformedTensors(f"{tensor} has {end - start} bytes for {shape!s:.80}")
    return Entry(name=name, dtype=dtype, shape=tuple(shape), start=start, end=end)


def _are_sizes(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= 8  # noqa: PLR2004 - no tensor of a model has more dimensions
        and all(type(value) is int and 0 <= value < 1 << 40 for value in values)
    )
