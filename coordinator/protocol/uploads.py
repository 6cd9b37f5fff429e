"""Resumable uploads: names of fields, and how their values are written.

A field whose value is of another type is as good as absent.

Source: draft-ietf-httpbis-resumable-upload-12, section 4 (the newest revision whose
whole text was at hand); RFC 9651 (Structured Field Values); RFC 9530 (Repr-Digest).
"""

from typing import Any, Final

import http_sf

COMPLETE: Final = "Upload-Complete"
OFFSET: Final = "Upload-Offset"
LENGTH: Final = "Upload-Length"
LIMIT: Final = "Upload-Limit"
REPR_DIGEST: Final = "Repr-Digest"
ACCEPT_PATCH: Final = "Accept-Patch"
MEDIA_TYPE: Final = "application/partial-upload"
TRUE: Final = "?1"
FALSE: Final = "?0"


def read_flag(value: str | None) -> bool | None:
    """Return the Boolean that a field holds, or none."""
    item = _item(value)
    return item if isinstance(item, bool) else None


def read_count(value: str | None) -> int | None:
    """Return the Integer from 0 that a field holds, or none."""
    item = _item(value)
    if isinstance(item, bool) or not isinstance(item, int) or item < 0:
        return None
    return item


def write_flag(value: bool) -> str:  # noqa: FBT001 - it is what is written
    """Return a Boolean as a field holds it."""
    return TRUE if value else FALSE


def write_limit(**limits: int) -> str:
    """Return the value of ``Upload-Limit``; ``max_size`` is written ``max-size``."""
    return ", ".join(
        f"{name.replace('_', '-')}={value}" for name, value in limits.items()
    )


def _item(value: str | None) -> Any:  # noqa: ANN401 - types are checked
    if value is None:
        return None
    try:
        parsed: Any = http_sf.parse(value.encode("latin-1", "replace"), tltype="item")
    except ValueError:
        return None
    return parsed[0]
