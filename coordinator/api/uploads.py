"""Bodies of updates, and the upload resource: asked for, continued and cancelled.

An upload resource has the address of its update, and the digest of the whole body: so a
device whose first request broke off knows where to go on. The interim answer 104 that
the draft has for this is optional, and the server cannot send it.

Source: draft-ietf-httpbis-resumable-upload-12.
"""

import contextlib
import pathlib
from typing import Annotated, Final

import fastapi
from fastapi import Header, Request, Response

from coordinator.api import callers, updates
from coordinator.api.problems import (
    BodyTooLarge,
    NotAPart,
    PartFieldsNeeded,
    refusals,
)
from coordinator.api.services import Given, Services
from coordinator.domain.errors import (
    DigestMismatch,
    InconsistentLength,
    UploadUnknown,
)
from coordinator.domain.uploads import NOTHING, PartialUpload, Whole
from coordinator.protocol import codings, digests, messages, paths, problems
from coordinator.protocol import uploads as fields
from coordinator.store.files import sha256_of
from coordinator.usecases import uploads
from coordinator.usecases.participation import Expected

router = fastapi.APIRouter(
    prefix="/v1/assignments/{assignment_id}/update", tags=["device"]
)
_ASKED: Final = (*updates.RESULT, problems.BETWEEN_ROUNDS, problems.UPLOAD_UNKNOWN)


def _field(name: str, description: str) -> dict[str, object]:
    return {name: {"description": description, "schema": {"type": "string"}}}


_LIMIT: Final = _field(
    fields.LIMIT,
    "`max-size`: bytes of the longest update; `max-age`: seconds until the lease ends.",
)
_STATE: Final = {
    **_field(fields.OFFSET, "Bytes that have come in."),
    **_field(fields.COMPLETE, "`?1` once the update is accepted."),
    **_LIMIT,
}
CREATED: Final = {
    "description": "The first part is kept; the rest goes to `Location`.",
    "headers": {**_field("Location", "The upload resource."), **_STATE},
}

_Sha256 = Annotated[
    str,
    fastapi.Path(
        description="SHA-256 of the whole update as sent, in hex digits.",
        pattern="^[0-9a-f]{64}$",
    ),
]


@router.options(
    "",
    status_code=204,
    responses={
        204: {
            "description": "Updates may be sent in parts.",
            "headers": {
                **_field(fields.ACCEPT_PATCH, "What an upload resource takes."),
                **_LIMIT,
            },
        },
        **refusals(*updates.RESULT, problems.BETWEEN_ROUNDS),
    },
    summary="Ask how an update may be sent",
)
async def describe(
    assignment_id: messages.Id,
    request: Request,
    given: Given,
    device_id: callers.UploadingDevice,
) -> Response:
    """Say that an update may be sent in parts, and how long it may be."""
    await updates.expect(request, given, device_id, assignment_id)
    return Response(
        status_code=204,
        headers={fields.ACCEPT_PATCH: fields.MEDIA_TYPE, **request.state.upload},
    )


@router.head(
    "/{sha256}",
    status_code=204,
    responses={
        204: {
            "description": "What has come in.",
            "headers": {**_STATE, **_field(fields.LENGTH, "Of the whole, if known.")},
        },
        **refusals(*_ASKED, problems.STORAGE_UNAVAILABLE, problems.TOO_MANY_UPLOADS),
    },
    summary="Ask how much of an update has come in",
)
async def locate(
    assignment_id: messages.Id,
    sha256: _Sha256,
    request: Request,
    given: Given,
    device_id: callers.UploadingDevice,
) -> Response:
    """Say where to go on. What is said to be there need not be sent again.

    A request for the same upload that is still under way adds nothing from now on.
    """
    expected = await updates.expect(request, given, device_id, assignment_id)
    upload = await given.call(
        lambda: uploads.locate(
            given.store,
            given.blobs,
            expected,
            assignment_id=assignment_id,
            sha256=sha256,
            room=updates.room(given, expected),
        )
    )
    response = Response(status_code=204, headers=_state(request, upload))
    if upload.whole.length is not None:
        response.headers[fields.LENGTH] = str(upload.whole.length)
    response.headers["Cache-Control"] = "no-store"
    return response


# Refused by the route, with a problem of its own.
_COMPLETE: Final = {
    "name": fields.COMPLETE,
    "in": "header",
    "required": True,
    "description": "`?1`: this body is the last part; `?0`: more follows.",
    "schema": {"type": "string", "enum": ["?0", "?1"]},
}
_OFFSET: Final = {
    "name": fields.OFFSET,
    "in": "header",
    "required": True,
    "description": "Where the part begins, in bytes.",
    "schema": {"type": "integer", "minimum": 0},
}


@router.patch(
    "/{sha256}",
    response_model=messages.Receipt,
    responses={
        200: {
            "description": "All has come in and was accepted.",
            "headers": _field(fields.COMPLETE, "`?1`"),
        },
        204: {"description": "The part is kept; more follows.", "headers": _STATE},
        **refusals(
            *updates.UPDATE,
            problems.UPLOAD_UNKNOWN,
            problems.MISMATCHING_OFFSET,
            problems.COMPLETED_UPLOAD,
            problems.PART_FIELDS_NEEDED,
            problems.NOT_A_PART,
            problems.TOO_MANY_PARTS,
        ),
    },
    summary="Go on with an update",
    openapi_extra={
        "parameters": [updates.DIGEST, _COMPLETE, _OFFSET],
        "requestBody": {
            "required": True,
            "description": "The bytes of the update that follow `Upload-Offset`.",
            "content": {
                fields.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}
            },
        },
    },
)
async def append(  # noqa: PLR0917 - FastAPI passes them by name
    assignment_id: messages.Id,
    sha256: _Sha256,
    request: Request,
    given: Given,
    device_id: callers.UploadingDevice,
    content_digest: updates.ContentDigest = "",
    upload_complete: Annotated[str | None, Header(include_in_schema=False)] = None,
    upload_offset: Annotated[str | None, Header(include_in_schema=False)] = None,
    upload_length: updates.Length = None,
) -> Response:
    """Add a part where the upload ends. The last one is answered as the update is.

    A part that breaks off is kept as far as it came. The last part again gives the same
    receipt.
    """
    expected = await updates.expect(request, given, device_id, assignment_id)
    part_sha256 = updates.parse_digest(content_digest, digests.FIELD)
    _insist_part(request)
    completes, offset = (
        fields.read_flag(upload_complete),
        fields.read_count(upload_offset),
    )
    if completes is None or offset is None:
        raise PartFieldsNeeded(
            f"{fields.OFFSET} is {upload_offset!r:.40}, "
            f"{fields.COMPLETE} is {upload_complete!r:.40}"
        )
    seen = await given.call(
        lambda: uploads.look(
            given.store, expected, assignment_id=assignment_id, sha256=sha256
        )
    )
    size, length = updates.declared_size(request), fields.read_count(upload_length)
    seen.insist_fits(offset=offset, size=size, length=length, completes=completes)
    if not completes:
        seen.insist_room()
    elif size is not None:
        length = offset + size
    whole = seen.with_length(length).whole
    path = given.blobs.partials.new(whole, tag=seen.tag)
    try:
        async with updates.kept_if_broken(given, expected, whole, path, tag=seen.tag):
            size = await _receive_part(
                request, given, path, expected, whole, offset=offset
            )
        seen.insist_fits(offset=offset, size=size, length=length, completes=completes)
        found = await given.call(lambda: sha256_of(path))
        if found != part_sha256:
            updates.refuse_digest(given, DigestMismatch(part_sha256, found))
        if not completes:
            following = await given.call(
                lambda: uploads.append(
                    given.store, given.blobs, seen, path, length=length
                )
            )
            return Response(status_code=204, headers=_state(request, following))
        request.state.upload |= {fields.COMPLETE: fields.TRUE}
        accepted = await given.call(
            lambda: uploads.complete(
                given.store,
                given.blobs,
                expected,
                seen,
                path,
                device_id=device_id,
                now=given.clock.now(),
            )
        )
    finally:
        given.blobs.drop_incoming(path)
    if not seen.is_complete:
        given.metrics.count_upload(offset + size)
    return Response(
        updates.receipt(accepted).model_dump_json(),
        media_type="application/json",
        headers={fields.COMPLETE: fields.TRUE},
    )


@router.delete(
    "/{sha256}",
    status_code=204,
    responses={
        204: {"description": "The upload has ended."},
        **refusals(*_ASKED),
    },
    summary="Cancel an upload",
)
async def cancel(
    assignment_id: messages.Id,
    sha256: _Sha256,
    request: Request,
    given: Given,
    device_id: callers.UploadingDevice,
) -> Response:
    """Forget what has come in of an update. The assignment goes on."""
    await updates.expect(request, given, device_id, assignment_id)
    await given.call(
        lambda: uploads.cancel(
            given.store, given.blobs, assignment_id=assignment_id, sha256=sha256
        )
    )
    return Response(status_code=204)


async def begin(
    request: Request,
    given: Services,
    expected: Expected,
    whole: Whole,
    *,
    content_sha256: str,
) -> Response:
    """Keep the first part of an update. Returns where the rest goes.

    Raises:
        DigestMismatch, BodyNotSigned: The part is not the one its field names.
        BodyTooLarge: It is longer than the update may be.
        TooManyUploads, StorageUnavailable: It cannot be kept now.
    """
    path = given.blobs.partials.new(whole, tag=NOTHING)
    try:
        async with updates.kept_if_broken(given, expected, whole, path, tag=NOTHING):
            await _receive_part(request, given, path, expected, whole, offset=0)
        found = await given.call(lambda: sha256_of(path))
        if found != content_sha256:
            updates.refuse_digest(given, DigestMismatch(content_sha256, found))
        upload = await given.call(
            lambda: uploads.begin(
                given.store,
                given.blobs,
                expected,
                whole,
                path,
                room=updates.room(given, expected),
            )
        )
    finally:
        given.blobs.drop_incoming(path)
    location = paths.upload(paths.update(whole.assignment_id), whole.sha256)
    return Response(
        status_code=201, headers={"Location": location, **_state(request, upload)}
    )


async def _receive_part(
    request: Request,
    given: Services,
    path: pathlib.Path,
    expected: Expected,
    whole: Whole,
    *,
    offset: int,
) -> int:
    """Receive a part that begins at ``offset``. Returns its size in bytes.

    Raises:
        InconsistentLength: It goes on beyond the length that was given. Its upload has
            ended with it, as the draft wants it.
        BodyTooLarge, StorageUnavailable: As for ``receive``.
    """
    end = expected.max_bytes if whole.length is None else whole.length
    try:
        return await updates.receive(request, path, limit=max(0, end - offset))
    except BodyTooLarge as error:
        if whole.length is None:
            raise
        with contextlib.suppress(UploadUnknown):
            await given.call(
                lambda: uploads.cancel(
                    given.store,
                    given.blobs,
                    assignment_id=whole.assignment_id,
                    sha256=whole.sha256,
                )
            )
        raise InconsistentLength(f"the update goes on beyond {end} bytes") from error


def _insist_part(request: Request) -> None:
    media_type = request.headers.get("Content-Type", "").partition(";")[0]
    if media_type.strip().lower() != fields.MEDIA_TYPE:
        raise NotAPart(f"the part is {media_type!r:.80}")
    if not codings.is_identity(request.headers.get("Content-Encoding", "")):
        raise NotAPart("parts are of the encoded update, and not encoded themselves")


def _state(request: Request, upload: PartialUpload) -> dict[str, str]:
    return {
        fields.OFFSET: str(upload.offset),
        fields.COMPLETE: fields.write_flag(upload.is_complete),
        **request.state.upload,
    }
