"""Safetensors bodies by hand, so that they may be wrong in any way."""

import json
import struct
from collections.abc import Mapping, Sequence


def container(header: object, data: bytes = b"") -> bytes:
    """A body of ``header``, as it is if it is bytes and as JSON if not, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(
    start: object, end: object, *, shape: object = None, dtype: object = "F32"
) -> dict[str, object]:
    """One tensor in a header; four-byte elements unless a shape is given."""
    if shape is None:
        assert isinstance(start, int)
        assert isinstance(end, int)
        shape = [(end - start) // 4]
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def update(
    tensors: Sequence[tuple[str, Sequence[int], Sequence[float]]],
    metadata: Mapping[str, str],
) -> bytes:
    """A body of float32 tensors: name, shape and values of each."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    data = b""
    for name, shape, values in tensors:
        part = struct.pack(f"<{len(values)}f", *values)
        header[name] = entry(len(data), len(data) + len(part), shape=list(shape))
        data += part
    return container(header, data)
