"""How bytes are named: SHA-256, and its HTTP field.

Source: RFC 9530, Digest Fields.
"""

import base64
import hashlib
import mmap
from typing import TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview | mmap.mmap

FIELD = "Content-Digest"
_PREFIX = "sha-256=:"
_DIGEST_BYTES = 32


def sha256_hex(content: Bytes) -> str:
    """Return the SHA-256 of ``content`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def content_digest(sha256: str) -> str:
    """Return the value of ``Content-Digest`` for a digest in hexadecimal digits."""
    return f"{_PREFIX}{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def parse_content_digest(value: str) -> str:
    """Return the SHA-256 that a ``Content-Digest`` field names, in hexadecimal digits.

    Members with other algorithms are passed over (RFC 9530, section 2).

    Raises:
        ValueError: There is no well-formed ``sha-256`` member.
    """
    for member in value.split(","):
        text = member.strip()
        if not text.startswith(_PREFIX) or not text.endswith(":"):
            continue
        try:
            digest = base64.b64decode(text[len(_PREFIX) : -1], validate=True)
        except ValueError:  # not base64, or not ASCII
            continue
        if len(digest) == _DIGEST_BYTES:
            return digest.hex()
    raise ValueError("Content-Digest must hold sha-256=:<base64 of 32 bytes>:")
