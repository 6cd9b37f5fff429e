"""The partial upload: what has come in of an update that is sent in several requests.

Its parts follow each other without gaps. A part is added at the end of what is there,
or not at all: of two that begin at the same offset, one is too late.

Source: draft-ietf-httpbis-resumable-upload-12, section 4.
"""

import dataclasses
from typing import Final

from coordinator.domain.errors import (
    CompletedUpload,
    InconsistentLength,
    MismatchingOffset,
    TooManyParts,
)

#: More are not kept: whoever sends ever smaller parts must send the rest in one.
MAX_PARTS: Final = 1000


#: The ``tag`` where nothing has come in.
NOTHING: Final = "0-0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Bytes that came in with one request."""

    name: str  #: of their file in the blob store
    size_bytes: int  #: that count; the file may have more


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The update that is sent in parts, as its device describes it."""

    assignment_id: str
    sha256: str  #: of the bytes as sent, content coding and all; 64 hex digits
    coding: str  #: Content-Encoding
    length: int | None  #: bytes; none: the device has not said yet


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartialUpload:
    """What has come in of an update. At most one an assignment."""

    whole: Whole
    parts: tuple[Part, ...]
    revision: int  #: grows with every change
    is_complete: bool  #: the update was accepted; its parts are gone

    @property
    def offset(self) -> int:
        """Bytes that have come in, from the first one on."""
        if self.is_complete and self.whole.length is not None:
            return self.whole.length
        return sum(part.size_bytes for part in self.parts)

    @property
    def tag(self) -> str:
        """What it is now: a request that began when it was another adds nothing.

        An upload that was cancelled and begun anew has old revisions again, and bytes
        that follow any other offset are not the next ones.
        """
        return f"{self.revision}-{self.offset}"

    def insist_fits(
        self, *, offset: int, size: int | None, length: int | None, completes: bool
    ) -> None:
        """Insist that a part may be added, as far as its request's fields say.

        Args:
            offset: Where the part begins.
            size: Its bytes; None: they are not known before they have come.
            length: Of the whole, as this request says; None: it does not.
            completes: Whether the part is the last one.

        Raises:
            MismatchingOffset: It begins elsewhere than at the end of what is there.
            InconsistentLength: It says otherwise of the whole than was said before,
                or does not fit into the whole.
            CompletedUpload: Everything is there, and this does not complete it again.
        """
        if self.is_complete:
            self._insist_repeats(offset=offset, size=size, completes=completes)
            return
        if offset != self.offset:
            raise MismatchingOffset(expected=self.offset, provided=offset)
        end = None if size is None else offset + size
        known = self.whole.length if length is None else length
        if self.whole.length not in (None, known):
            raise InconsistentLength(
                f"the length was {self.whole.length} before, now it is {known}"
            )
        if known is None or end is None:
            return
        if end > known or (completes and end != known):
            raise InconsistentLength(
                f"a part from {offset} to {end} is not one of {known} bytes"
                + (", the last" if completes else "")
            )

    def insist_room(self) -> None:
        """Insist that one more part may be kept.

        Raises:
            TooManyParts: There are as many as may be.
        """
        if len(self.parts) >= MAX_PARTS:
            raise TooManyParts(f"{MAX_PARTS} parts have come in")

    def _insist_repeats(
        self, *, offset: int, size: int | None, completes: bool
    ) -> None:
        if completes and size is not None and offset + size == self.offset:
            return
        if size == 0:
            raise CompletedUpload(self.whole.assignment_id)
        raise InconsistentLength(f"all {self.offset} bytes have come in")

    def with_length(self, length: int | None) -> "PartialUpload":
        """Return the upload with the length that a request says."""
        if length is None:
            return self
        return dataclasses.replace(
            self, whole=dataclasses.replace(self.whole, length=length)
        )

    def with_part(self, part: Part | None) -> "PartialUpload":
        """Return the upload with a part added, or with none; others are too late."""
        parts = self.parts if part is None else (*self.parts, part)
        return dataclasses.replace(self, parts=parts, revision=self.revision + 1)

    def completed(self, length: int) -> "PartialUpload":
        """Return the upload when its update, of so many bytes, was accepted."""
        return dataclasses.replace(
            self.with_length(length),
            parts=(),
            revision=self.revision + 1,
            is_complete=True,
        )
