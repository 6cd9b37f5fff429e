"""Ways to spoil bytes: blindly, and with knowledge of what they are.

A decoder is reached deep only by bytes whose frame is right, so each of these takes a
frame apart, spoils what is inside, and puts it together again. All chance comes from
the generator that is passed.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import zstandard

Rng = np.random.Generator
_NUMBERS: Final = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF)
_WIDE: Final = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)
_VALUES: Final[Sequence[Any]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    -(2**31) - 1,
    2**53 + 1,
    2**63,
    2**64,
    2**70,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "0",
    "a\0b",
    "\ud800",
    "\U0001f4f1",
    "../../etc/passwd",
    "a" * 5000,
    [],
    {},
    [[]],
    [0] * 9,
    {"": 0},
)
_DEEP: Final = 3000


def spoil(data: bytes, rng: Rng) -> bytes:
    """Change some bytes, knowing nothing of them."""
    content = bytearray(data)
    at = int(rng.integers(len(content) + 1))
    size = 1 + int(rng.integers(16))
    match int(rng.integers(7)):
        case 0 if content:
            content[at % len(content)] ^= 1 << int(rng.integers(8))
        case 1 if content:
            content[at % len(content)] = _pick(_NUMBERS, rng) & 0xFF
        case 2:
            del content[at : at + size]
        case 3:
            content[at:at] = rng.bytes(size)
        case 4:
            content[at:at] = content[at : at + size] * (1 + int(rng.integers(4)))
        case 5:
            order = "<" if rng.integers(2) else ">"
            kind = "Q" if rng.integers(2) else "I"
            number = _pick(_WIDE, rng) & (2**64 - 1 if kind == "Q" else 2**32 - 1)
            content[at : at + struct.calcsize(kind)] = struct.pack(order + kind, number)
        case _:
            del content[at:]
    return bytes(content)


def json_text(data: bytes, rng: Rng) -> bytes:
    """Change a value, a key or the order in a JSON text, or its bytes."""
    if rng.integers(8) == 0:
        return spoil(data, rng)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return spoil(data, rng)
    if rng.integers(40) == 0:
        return b"[" * _DEEP + data + b"]" * _DEEP
    return json.dumps(_json_value(value, rng)).encode()


def container(data: bytes, rng: Rng) -> bytes:
    """Change the JSON header of a safetensors body, keeping its length right."""
    length = int.from_bytes(data[:8], "little")
    if rng.integers(4) == 0 or not 2 <= length <= len(data) - 8:
        return spoil(data, rng)
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.integers(3):
        header = json_text(header, rng)
    else:
        rest = spoil(rest, rng)
    return struct.pack("<Q", len(header)) + header + rest


def coded(mutate: Callable[[bytes, Rng], bytes]) -> Callable[[bytes, Rng], bytes]:
    """Return what changes what is inside gzip or zstd; byte 0 says which it is."""

    def change(data: bytes, rng: Rng) -> bytes:
        if not data or rng.integers(3) == 0:
            return spoil(data, rng)
        try:
            if data[0] & 1:
                plain = gzip.decompress(data[1:])
                return data[:1] + gzip.compress(mutate(plain, rng), 1, mtime=0)
            plain = zstandard.ZstdDecompressor().decompress(data[1:], 1 << 20)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError, MemoryError):
            return spoil(data, rng)
        return data[:1] + zstandard.ZstdCompressor(1).compress(mutate(plain, rng))

    return change


def text(words: Sequence[bytes]) -> Callable[[bytes, Rng], bytes]:
    """Return what puts words of a language into a text, or moves its lines about."""

    def change(data: bytes, rng: Rng) -> bytes:
        match int(rng.integers(4)):
            case 0:
                return spoil(data, rng)
            case 1:
                lines = data.split(b"\n")
                first, second = rng.integers(len(lines), size=2)
                lines[first], lines[second] = lines[second], lines[first]
                if rng.integers(2):
                    lines.insert(first, lines[second])
                return b"\n".join(lines)
            case _:
                at = int(rng.integers(len(data) + 1))
                end = at + int(rng.integers(8)) * int(rng.integers(2))
                return data[:at] + _pick(words, rng) + data[end:]

    return change


def der(data: bytes, rng: Rng) -> bytes:
    """Change one element somewhere in nested DER; the lengths around it stay right."""
    return _der(data, rng, depth=0)


def _der(data: bytes, rng: Rng, depth: int) -> bytes:
    parts = _elements(data)
    if not parts or depth > 12:
        return spoil(data, rng)
    place = int(rng.integers(len(parts)))
    tag, content = parts[place]
    match int(rng.integers(8)):
        case 0:
            parts[place] = (spoil(tag, rng), content)
        case 1:
            del parts[place]
        case 2:
            parts.insert(place, parts[int(rng.integers(len(parts)))])
        case 3:
            parts[place] = (tag, spoil(content, rng))
        case _:
            parts[place] = (tag, _der(content, rng, depth + 1))
    return b"".join(tag + _length(len(content)) + content for tag, content in parts)


def _elements(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split DER leniently: nothing, where it is none."""
    parts = []
    at = 0
    while at < len(data):
        start = at
        at += 1
        if data[start] & 0x1F == 0x1F:
            while at < len(data) and data[at] >= 0x80:
                at += 1
            at += 1
        if at >= len(data):
            return []
        tag, length = data[start:at], data[at]
        at += 1
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            return []
        parts.append((tag, data[at : at + length]))
        at += length
    return parts


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    content = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(content)]) + content


def _json_value(value: Any, rng: Rng) -> Any:  # noqa: ANN401 - JSON is anything
    """Return ``value`` with one place of it changed."""
    if isinstance(value, dict) and value and rng.integers(8):
        return _object(value, rng)
    if isinstance(value, list) and value and rng.integers(8):
        return _array(value, rng)
    if isinstance(value, int) and rng.integers(2):
        return value + int(rng.integers(-2, 3))
    if isinstance(value, str) and rng.integers(2):
        return spoil(value.encode("utf-8", "surrogatepass"), rng).decode("latin-1")
    return _pick(_VALUES, rng)


def _object(value: dict[str, Any], rng: Rng) -> dict[str, Any]:
    key = _pick(list(value), rng)
    match int(rng.integers(6)):
        case 0:
            return {name: kept for name, kept in value.items() if name != key}
        case 1:
            return {**value, str(_pick(_VALUES, rng))[:99]: value[key]}
        case 2:
            names = list(value)
            rng.shuffle(names)
            return {name: value[name] for name in names}
        case _:
            return {**value, key: _json_value(value[key], rng)}


def _array(value: list[Any], rng: Rng) -> list[Any]:
    place = int(rng.integers(len(value)))
    match int(rng.integers(5)):
        case 0:
            return value[:place] + value[place + 1 :]
        case 1:
            return [*value, value[place]]
        case _:
            changed = _json_value(value[place], rng)
            return [*value[:place], changed, *value[place + 1 :]]


def _pick(values: Sequence[Any], rng: Rng) -> Any:  # noqa: ANN401 - of the sequence
    return values[int(rng.integers(len(values)))]
