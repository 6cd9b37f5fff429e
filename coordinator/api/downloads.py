"""Files over HTTP: validators, ranges, and how long a cache may keep them."""

import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import FileResponse

from coordinator.api.problems import RangeNotSatisfiable
from coordinator.api.services import Services
from coordinator.domain.models import Model, Version
from coordinator.protocol import digests
from coordinator.usecases import models

FOREVER: Final = "public, max-age=31536000, immutable"
TENSORS: Final = "application/octet-stream"
_NO_EXTRA: Final[Mapping[str, str]] = {}
CACHED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The bytes that If-None-Match names are still these."}
}


def binary(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route that answers with bytes."""
    return {
        200: {
            "description": description,
            "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
        },
        **CACHED,
    }


PART: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that Range asks for."}
}
#: Places with more digits are in no file, and may be passed over like the malformed.
_RANGE = re.compile(r"bytes=(\d{1,19}-\d{0,19}|-\d{1,19})", re.ASCII)


class _Blob(FileResponse):
    """A file in pieces of 1 MiB; its ETag is the digest of its bytes."""

    chunk_size = 1 << 20


def _headers(sha256: str) -> dict[str, str]:
    return {
        "ETag": f'"{sha256}"',
        "Cache-Control": FOREVER,
        "Repr-Digest": digests.content_digest(sha256),
    }


def is_cached(request: Request, etag: str) -> bool:
    """Return whether the caller says that it holds what ``etag`` names."""
    sent = request.headers.get("If-None-Match", "")
    tags = [tag.strip().removeprefix("W/") for tag in sent.split(",")]
    return etag in tags or "*" in tags


def blob(
    request: Request,
    given: Services,
    sha256: str,
    media_type: str,
    extra: Mapping[str, str] = _NO_EXTRA,
) -> Response:
    """Answer with a file, or the part of it that Range asks for.

    Args:
        request: Its headers are looked at, and a Range that is none is taken out.
        given: Where the file lies.
        sha256: Names the file.
        media_type: Of the file.
        extra: Header fields beside, or in place of, those of an immutable file.

    Raises:
        RangeNotSatisfiable: The part begins behind the end.
        BlobLost, StorageUnavailable: The file is not there.
    """
    headers = {**_headers(sha256), **extra}
    if is_cached(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    path = given.blobs.find(sha256)
    _settle_range(request, path.stat().st_size)
    return _Blob(path, media_type=media_type, headers=headers)


def content(request: Request, body: bytes, media_type: str) -> Response:
    """Answer with immutable bytes that lie in no file."""
    headers = _headers(digests.sha256_hex(body))
    if is_cached(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def _settle_range(request: Request, size: int) -> None:
    """Let a Range that is not of its form count as none (RFC 9110, section 14.2).

    Raises:
        RangeNotSatisfiable: It is of its form, and begins behind the end.
    """
    asked = request.headers.get("Range")
    match = None if asked is None else _RANGE.fullmatch(asked)
    if match is not None:
        first, _, last = match[1].partition("-")
        if first and int(first) >= size:
            raise RangeNotSatisfiable(f"{asked} begins behind the end at {size} bytes")
        if not (first and last) or int(first) <= int(last):
            return
    request.scope["headers"] = [
        (name, value) for name, value in request.scope["headers"] if name != b"range"
    ]


def inference_file(
    request: Request,
    given: Services,
    model: Model,
    version: Version,
    extra: Mapping[str, str] = _NO_EXTRA,
) -> Response:
    """Answer with the inference file of a version; ``extra`` as for ``blob``."""
    etag = f'"{model.manifest.infer.sha256[:32]}-{version.weights_sha256[:32]}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER, **extra}
    if is_cached(request, etag):
        return Response(status_code=304, headers=headers)
    content = models.inference_file(given.blobs, model, version)
    headers["Repr-Digest"] = digests.content_digest(digests.sha256_hex(content))
    return Response(content, media_type=TENSORS, headers=headers)
