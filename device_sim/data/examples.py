"""Decodes the serialized ``tf.train.Example`` of federated EMNIST, without TensorFlow.

A strict reader of the few protocol buffer fields that occur there, not a protobuf
library: an image is the packed float list ``pixels``, its class the packed int64 list
``label``.

Source: tensorflow/core/example/example.proto and feature.proto; "Encoding" in the
protocol buffers documentation.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sim.data.federation import CHARACTERS, SIDE

PIXELS: Final = SIDE * SIDE
_LENGTH: Final = 2  # wire type
_VARINT_BITS: Final = 64
_FLOAT_LIST: Final = 2  # fields of the message Feature
_INT64_LIST: Final = 3


class MalformedExample(Exception):
    """These bytes are not an example of federated EMNIST."""


def decode(example: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """Return (pixels, label) of one example.

    Returns:
        Pixels of shape (784,), as stored and not checked for range, and a label of 0 to
        61.

    Raises:
        MalformedExample: The bytes are cut short, laid out otherwise or lack a feature.
    """
    features: dict[bytes, tuple[int, bytes]] = {}
    for entry in _children(_only(example, 1, "Example.features"), 1):
        name = _only(entry, 1, "the name of a feature")
        kinds = list(_fields(_only(entry, 2, "the value of a feature")))
        if name in features or len(kinds) != 1:
            raise MalformedExample(f"feature {name!r} must have one value")
        features[name] = kinds[0]
    for name in (b"pixels", b"label"):
        if name not in features:
            raise MalformedExample(f"there is no feature {name.decode()}")
    return _pixels(*features[b"pixels"]), _label(*features[b"label"])


def _pixels(kind: int, value: bytes) -> npt.NDArray[np.float32]:
    if kind != _FLOAT_LIST:
        raise MalformedExample(f"pixels must be a float list, got field {kind}")
    packed = _only(value, 1, "the floats of pixels")
    if len(packed) != 4 * PIXELS:
        raise MalformedExample(
            f"pixels must be {PIXELS} floats, got {len(packed)} bytes"
        )
    return np.frombuffer(packed, dtype="<f4").astype(np.float32)


def _label(kind: int, value: bytes) -> int:
    if kind != _INT64_LIST:
        raise MalformedExample(f"label must be an int64 list, got field {kind}")
    packed = _only(value, 1, "the integer of label")
    label, end = _varint(packed, 0)
    if end != len(packed) or label >= CHARACTERS:
        raise MalformedExample(
            f"label must be one integer of 0 to {CHARACTERS - 1}, got {label}"
        )
    return label


def _only(message: bytes, number: int, what: str) -> bytes:
    """Return the one occurrence of a field."""
    found = list(_children(message, number))
    if len(found) != 1:
        raise MalformedExample(f"{what} must be there once, got {len(found)} times")
    return found[0]


def _children(message: bytes, number: int) -> Iterator[bytes]:
    """Yield every occurrence of a field."""
    return (value for field, value in _fields(message) if field == number)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, bytes) of every field; all that occur here carry a length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 != _LENGTH:
            raise MalformedExample(f"a field before byte {at} has wire type {tag & 7}")
        length, at = _varint(message, at)
        if length > len(message) - at:
            raise MalformedExample(
                f"a field of {length} bytes is cut short after {len(message) - at}"
            )
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return (value, end) of the base-128 integer at ``at``."""
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
        if at >= len(message):
            raise MalformedExample(f"an integer is cut short at byte {at}")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  - the continuation bit is clear
            return value, at
    raise MalformedExample(
        f"an integer at byte {at} is longer than {_VARINT_BITS} bits"
    )
