"""Content codings: how a body may be compressed on its way, and how far it may inflate.

Source: RFC 9110, section 8.4; RFC 8878 (zstd).
"""

import zlib
from typing import Final

import zstandard

IDENTITY: Final = "identity"
GZIP: Final = "gzip"
ZSTD: Final = "zstd"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
#: zstd frames that need more memory than this are refused, whatever they hold.
_ZSTD_WINDOW_BYTES: Final = 1 << 27
#: A block of 4 bytes may inflate to 128 KiB, so one feed yields at most 8 MiB.
_ZSTD_FEED_BYTES: Final = 256


class UnsupportedCoding(ValueError):
    """The coding is none that is taken here."""


class BadCoding(ValueError):
    """The bytes are not of the coding they claim, or end too early or too late."""


class InflatesTooFar(ValueError):
    """The bytes inflate beyond the limit."""


def is_identity(coding: str) -> bool:
    """Return whether ``coding``, a ``Content-Encoding``, leaves bytes as they are."""
    return (coding.strip().lower() or IDENTITY) == IDENTITY


def name_of(coding: str) -> str:
    """Return the one name of a content coding.

    Raises:
        UnsupportedCoding: The coding is unknown.
    """
    name = coding.strip().lower() or IDENTITY
    if name not in (IDENTITY, GZIP, ZSTD):
        raise UnsupportedCoding(f"unknown coding {coding!r:.40}")
    return name


def inflate(body: bytes, coding: str, *, limit: int) -> bytes:
    """Undo a content coding holding little more than ``limit`` bytes of it.

    Args:
        body: The bytes as they came.
        coding: Value of ``Content-Encoding``.
        limit: Most bytes that may come out.

    Raises:
        UnsupportedCoding: The coding is unknown.
        BadCoding: ``body`` is not of this coding.
        InflatesTooFar: More than ``limit`` bytes would come out.
    """
    name = name_of(coding)
    if name == IDENTITY:
        if len(body) > limit:
            raise InflatesTooFar(
                f"the body has {len(body)} bytes, the limit is {limit}"
            )
        return body
    if name == GZIP:
        return _gunzip(body, limit)
    return _unzstd(body, limit)


def _gunzip(body: bytes, limit: int) -> bytes:
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadCoding("the body is not gzip") from error
    if len(content) > limit:
        raise InflatesTooFar(f"the body inflates beyond {limit} bytes")
    if not decoder.eof or decoder.unused_data:
        raise BadCoding("the gzip stream ends too early, or bytes follow it")
    return content


def _unzstd(body: bytes, limit: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(
        max_window_size=_ZSTD_WINDOW_BYTES
    ).decompressobj()
    content = bytearray()
    try:
        for start in range(0, len(body), _ZSTD_FEED_BYTES):
            if decoder.eof:
                raise BadCoding("bytes follow the zstd frame")
            content += decoder.decompress(body[start : start + _ZSTD_FEED_BYTES])
            if len(content) > limit:
                raise InflatesTooFar(f"the body inflates beyond {limit} bytes")
    except zstandard.ZstdError as error:
        raise BadCoding("the body is not zstd") from error
    if not decoder.eof or decoder.unused_data:
        raise BadCoding("the zstd frame ends too early, or bytes follow it")
    return bytes(content)
