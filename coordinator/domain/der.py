"""The part of DER that an attestation's extension is written in, read strictly.

Source: ITU-T X.690, sections 8 and 10.
"""

import dataclasses
from collections.abc import Iterator
from typing import Final

INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
SET: Final = 0x31
_CONTEXT: Final = 0xA0  #: context-specific and constructed: EXPLICIT
_HIGH_TAG: Final = 0x1F
_MORE: Final = 0x80
_MAX_LENGTH_BYTES: Final = 3


class MalformedDer(ValueError):
    """The bytes are no DER, or not of this shape."""


@dataclasses.dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag and what is in it."""

    identifier: int  #: the first byte; of a high tag, without the number
    number: int  #: of a context-specific tag; else -1
    content: bytes

    def whole(self) -> int:
        """Read a whole number that is not negative, of INTEGER or ENUMERATED."""
        content = self.content
        is_short = len(content) == 1 or (content[:1] == b"\0" and content[1] >= _MORE)
        if not content or content[0] >= _MORE or not (is_short or content[0]):
            raise MalformedDer("a whole number must be short and not negative")
        return int.from_bytes(content, "big")

    def children(self) -> list["Element"]:
        """Return the elements of a SEQUENCE, a SET or an explicit tag."""
        return list(elements(self.content))

    def only_child(self, identifier: int) -> "Element":
        """Return the one element in an explicit tag."""
        children = self.children()
        if len(children) != 1 or children[0].identifier != identifier:
            raise MalformedDer(f"tag {self.number} must hold one element of its type")
        return children[0]


def read(content: bytes, identifier: int) -> Element:
    """Read bytes that are one element and nothing else.

    Raises:
        MalformedDer: They are not.
    """
    found = list(elements(content))
    if len(found) != 1 or found[0].identifier != identifier:
        raise MalformedDer(f"there must be one element of type 0x{identifier:02x}")
    return found[0]


def elements(content: bytes) -> Iterator[Element]:
    """Read elements until nothing is left.

    Raises:
        MalformedDer: Bytes are missing or not in their one shortest form.
    """
    position = 0
    while position < len(content):
        identifier = content[position]
        position += 1
        number = -1
        if identifier & _HIGH_TAG == _HIGH_TAG:
            number, position = _high_tag(content, position)
            identifier &= ~_HIGH_TAG
        elif identifier & 0xC0 == _MORE:
            number = identifier & _HIGH_TAG
            identifier &= ~_HIGH_TAG
        length, position = _length(content, position)
        if position + length > len(content):
            raise MalformedDer("an element ends too early")
        yield Element(identifier, number, content[position : position + length])
        position += length


def is_explicit(element: Element) -> bool:
    """Whether an element is of an EXPLICIT context-specific tag."""
    return element.identifier == _CONTEXT


def _high_tag(content: bytes, position: int) -> tuple[int, int]:
    number = 0
    for count in range(3):
        if position >= len(content):
            raise MalformedDer("a tag ends too early")
        byte = content[position]
        position += 1
        if count == 0 and byte == _MORE:
            raise MalformedDer("a tag must be short")
        number = number << 7 | byte & 0x7F
        if byte < _MORE:
            if number < _HIGH_TAG:
                raise MalformedDer("a tag must be short")
            return number, position
    raise MalformedDer("a tag is too large")


def _length(content: bytes, position: int) -> tuple[int, int]:
    if position >= len(content):
        raise MalformedDer("a length is missing")
    first = content[position]
    position += 1
    if first < _MORE:
        return first, position
    size = first & 0x7F
    text = content[position : position + size]
    if not 1 <= size <= _MAX_LENGTH_BYTES or len(text) != size or text[0] == 0:
        raise MalformedDer("a length must be short")
    length = int.from_bytes(text, "big")
    if length < _MORE:
        raise MalformedDer("a length must be short")
    return length, position + size
