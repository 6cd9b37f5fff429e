"""Bodies of updates on their way in, and what their requests say of them."""

import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import Annotated, Final, NoReturn

import fastapi
from fastapi import Header, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from coordinator.api import callers
from coordinator.api.problems import BodyTooLarge, DigestNeeded
from coordinator.api.services import Services
from coordinator.domain.errors import (
    BodyNotSigned,
    DigestMismatch,
    InconsistentLength,
)
from coordinator.domain.uploads import Whole
from coordinator.protocol import codings, digests, messages, problems
from coordinator.protocol import uploads as fields
from coordinator.store.files import Incoming
from coordinator.usecases import participation, uploads
from coordinator.usecases.participation import Accepted, Expected

OWN: Final = (
    *callers.DEVICE,
    problems.ASSIGNMENT_UNKNOWN,
    problems.FOREIGN_ASSIGNMENT,
)
RESULT: Final = (
    *OWN,
    problems.WRONG_KIND,
    problems.LEASE_LAPSED,
    problems.ROUND_CLOSED,
    problems.ASSIGNMENT_ENDED,
    problems.ALREADY_REPORTED,
)
UPDATE: Final = (
    *RESULT,
    problems.BETWEEN_ROUNDS,
    problems.STORAGE_UNAVAILABLE,
    problems.DIGEST_NEEDED,
    problems.DIGEST_MISMATCH,
    problems.UPDATE_TOO_LARGE,
    problems.UNSUPPORTED_CODING,
    problems.BAD_CODING,
    problems.INFLATES_TOO_FAR,
    problems.MALFORMED_TENSORS,
    problems.LEFTOVER_BYTES,
    problems.WRONG_METADATA,
    problems.UNKNOWN_ENCODING,
    problems.WRONG_TENSOR_NAMES,
    problems.WRONG_DTYPE,
    problems.WRONG_SHAPE,
    problems.NOT_FINITE,
    problems.WRONG_INDICES,
    problems.INCONSISTENT_LENGTH,
    problems.TOO_MANY_UPLOADS,
    problems.COHORT_ENDED,
    problems.LEFT_OUT,
    problems.WRONG_VECTOR,
    problems.WRONG_CIPHERTEXT,
    problems.DEVICE_KEY_NEEDED,
)  #: how updates are refused, in whole or in part

# Refused here, with a problem of its own; so OpenAPI is told by ``DIGEST``.
ContentDigest = Annotated[str, Header(include_in_schema=False)]
DIGEST: Final = {
    "name": digests.FIELD,
    "in": "header",
    "required": True,
    "description": "RFC 9530: SHA-256 of the body as sent.",
    "schema": {
        "type": "string",
        "examples": ["sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"],
    },
}
Complete = Annotated[
    str | None,
    Header(description="`?1`: this body is the last part, or all; `?0`: more follows."),
]
Length = Annotated[
    str | None, Header(description="Bytes of the whole update as sent, if known.")
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What a request says that lets its update be sent in parts."""

    is_complete: bool  #: whether its body is all of the update
    length: int | None
    repr_digest: str | None

    def whole(
        self,
        request: Request,
        expected: Expected,
        *,
        assignment_id: str,
        content_sha256: str,
        coding: str,
    ) -> Whole:
        """Return the update that is to come in.

        Raises:
            DigestNeeded: It has no digest.
            DigestMismatch: It has two.
            InconsistentLength: Its lengths do not fit together.
            BodyTooLarge: It is longer than it may be.
            UnsupportedCoding: Its coding is unknown.
        """
        sha256 = content_sha256
        if self.repr_digest is not None or not self.is_complete:
            sha256 = parse_digest(self.repr_digest, fields.REPR_DIGEST)
            if self.is_complete and sha256 != content_sha256:
                raise DigestMismatch(sha256, content_sha256)
        size, length = declared_size(request), self.length
        if length is None and self.is_complete:
            length = size
        if size is not None and length is not None:
            fits = size == length if self.is_complete else size <= length
            if not fits:
                raise InconsistentLength(f"{size} bytes are sent of {length}")
        if length is not None and length > expected.max_bytes:
            raise BodyTooLarge(
                f"the update has {length} bytes, the limit is {expected.max_bytes}"
            )
        return Whole(
            assignment_id=assignment_id,
            sha256=sha256,
            coding=codings.name_of(coding),
            length=length,
        )


async def _creation(
    upload_complete: Complete = None,
    upload_length: Length = None,
    repr_digest: Annotated[
        str | None,
        Header(
            description="RFC 9530: SHA-256 of the whole update as sent. Required with "
            "`Upload-Complete: ?0`."
        ),
    ] = None,
) -> Creation | None:
    is_complete = fields.read_flag(upload_complete)
    if is_complete is None:
        return None
    return Creation(
        is_complete=is_complete,
        length=fields.read_count(upload_length),
        repr_digest=repr_digest,
    )


Resumable = Annotated[Creation | None, fastapi.Depends(_creation)]


async def expect(
    request: Request, given: Services, device_id: str, assignment_id: str
) -> Expected:
    """Say what the update must be, in the request's answer too.

    Raises:
        What ``participation.expect_update`` raises.
    """
    now = given.clock.now()
    expected = await given.call(
        lambda: participation.expect_update(
            given.store, device_id=device_id, assignment_id=assignment_id, now=now
        )
    )
    left = (expected.ends_at - now).total_seconds()
    request.state.upload = {
        fields.LIMIT: fields.write_limit(
            max_size=expected.max_bytes, max_age=max(0, int(left))
        )
    }
    return expected


async def receive(request: Request, path: pathlib.Path, *, limit: int) -> int:
    """Write the body to ``path`` as it comes, so that memory stays flat.

    Returns:
        Its size in bytes.

    Raises:
        BodyTooLarge: It has more than ``limit`` bytes.
        StorageUnavailable: It does not fit on the disk.
    """
    declared = declared_size(request)
    if declared is not None and declared > limit:
        raise BodyTooLarge(f"the body has {declared} bytes, the limit is {limit}")
    size = 0
    # Writes go to the page cache: shorter than a hop to a thread and back.
    with Incoming(path) as incoming:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"the body exceeds the limit of {limit} bytes")
            incoming.write(chunk)
    return size


@contextlib.asynccontextmanager
async def kept_if_broken(
    given: Services,
    expected: Expected,
    whole: Whole | None,
    path: pathlib.Path,
    *,
    tag: str,
) -> AsyncIterator[None]:
    """Keep what has come in when the device is gone, or is cut because it is slow.

    Args:
        given: The services.
        expected: What the update must be.
        whole: What is uploaded; None: nothing is to be kept.
        path: Where it comes in.
        tag: Of the upload that it continues.
    """
    try:
        yield
    except (ClientDisconnect, HTTPException):
        if whole is not None and expected.previous is None:
            await given.call(
                lambda: uploads.keep_broken(
                    given.store,
                    given.blobs,
                    whole,
                    path,
                    tag=tag,
                    room=room(given, expected),
                )
            )
        raise


def declared_size(request: Request) -> int | None:
    """Return how many bytes a request says that it sends; None: it does not say."""
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit():
        return int(declared)
    return None if "Transfer-Encoding" in request.headers else 0


def refuse_digest(given: Services, error: DigestMismatch) -> NoReturn:
    """Refuse a body that is not the one its field names.

    Raises:
        BodyNotSigned: That field was signed.
        DigestMismatch: It was not.
    """
    if given.devices_sign:
        raise BodyNotSigned(str(error)) from error
    raise error


def receipt(accepted: Accepted) -> messages.Receipt:
    """Return what an accepted update is answered with."""
    update = accepted.update
    return messages.Receipt(
        assignment=update.assignment_id,
        sha256=update.sha256,
        size_bytes=update.size_bytes,
        examples=update.examples,
        accepted_at=accepted.accepted_at,
    )


def parse_digest(value: str | None, name: str) -> str:
    """Return the SHA-256 that the field ``name`` holds, 64 hex digits.

    Raises:
        DigestNeeded: It holds none.
    """
    try:
        return digests.parse_content_digest(value or "")
    except ValueError as error:
        raise DigestNeeded(f"{name}: {error}") from error


def room(given: Services, expected: Expected) -> uploads.Room:
    """Return how much may be kept of partial uploads."""
    return uploads.Room(all_bytes=given.partial_bytes, upload_bytes=expected.max_bytes)
