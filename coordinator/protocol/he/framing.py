"""Ciphertexts one behind the other, each behind its length (4 bytes, big-endian)."""

import io
import struct
from collections.abc import Iterable
from typing import Final

from coordinator.protocol.he.parameters import (
    DEGREE,
    MAX_CIPHERTEXT_BYTES,
)

_SIZE: Final = struct.Struct(">I")


class MalformedCiphertext(ValueError):
    """The bytes are no ciphertexts of so many numbers under this key."""


def count(length: int) -> int:
    """Return how many ciphertexts hold so many numbers."""
    return -(-length // DEGREE)


def max_bytes(length: int) -> int:
    """Return the most bytes that ciphertexts of so many numbers have."""
    return count(length) * (_SIZE.size + MAX_CIPHERTEXT_BYTES)


def join(parts: Iterable[bytes]) -> bytes:
    """Return the bytes of several, each behind its length."""
    file = io.BytesIO()
    for part in parts:
        file.write(_SIZE.pack(len(part)))
        file.write(part)
    return file.getvalue()


def split(content: bytes | memoryview, length: int) -> list[bytes | memoryview]:
    """Return the bytes of each ciphertext, unread.

    Args:
        content: What ``join`` returned, of somebody.
        length: Numbers in all of them together.

    Raises:
        MalformedCiphertext: They are not so many, or of impossible sizes.
    """
    parts: list[bytes | memoryview] = []
    place = 0
    for _ in range(count(length)):
        if place + _SIZE.size > len(content):
            raise MalformedCiphertext("ciphertexts are missing")
        (size,) = _SIZE.unpack(content[place : place + _SIZE.size])
        place += _SIZE.size
        if not 0 < size <= MAX_CIPHERTEXT_BYTES or place + size > len(content):
            raise MalformedCiphertext(f"a ciphertext of {size} bytes")
        parts.append(content[place : place + size])
        place += size
    if place != len(content):
        raise MalformedCiphertext(f"{len(content) - place} bytes follow the last")
    return parts
