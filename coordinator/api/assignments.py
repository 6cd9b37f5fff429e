"""Report on an assignment: an update, an evaluation or a failure."""

import pathlib
from typing import Annotated

import fastapi
from fastapi import Header, Request

from coordinator.api import callers
from coordinator.api.problems import BodyTooLarge, DigestNeeded, refusals
from coordinator.api.services import Given
from coordinator.domain.errors import BodyNotSigned, DigestMismatch
from coordinator.protocol import codings, digests, messages, problems
from coordinator.store.files import Incoming
from coordinator.usecases import participation

router = fastapi.APIRouter(prefix="/v1/assignments/{assignment_id}", tags=["device"])
_OWN = (
    *callers.DEVICE,
    problems.ASSIGNMENT_UNKNOWN,
    problems.FOREIGN_ASSIGNMENT,
)
_RESULT = (
    *_OWN,
    problems.WRONG_KIND,
    problems.LEASE_LAPSED,
    problems.ROUND_CLOSED,
    problems.ASSIGNMENT_ENDED,
    problems.ALREADY_REPORTED,
)
_UPDATE = (
    *_RESULT,
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
)


@router.post(
    "/update",
    response_model=messages.Receipt,
    responses=refusals(*_UPDATE),
    summary="Post an update",
    openapi_extra={
        "parameters": [
            {
                "name": digests.FIELD,
                "in": "header",
                "required": True,
                "description": "RFC 9530: SHA-256 of the body as sent.",
                "schema": {
                    "type": "string",
                    "examples": [
                        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
                    ],
                },
            }
        ],
        "requestBody": {
            "required": True,
            "description": "A safetensors body: the delta, new minus old weights, as "
            "its encoding lays it out (`f32`: the manifest's trainable tensors in its "
            "order, float32); metadata strings `encoding` (the assignment's, or "
            "`f32`), `examples` (distinct training examples, a whole number), "
            "`train_loss` (mean) and `train_accuracy` (0 to 1).",
            "content": {
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary"}
                }
            },
        },
    },
)
async def submit_update(  # noqa: PLR0917 - FastAPI passes them by name
    assignment_id: messages.Id,
    request: Request,
    given: Given,
    device_id: callers.UploadingDevice,
    # Refused here, with a problem of its own; so OpenAPI is told above.
    content_digest: Annotated[str, Header(include_in_schema=False)] = "",
    content_encoding: Annotated[
        str, Header(description="`identity`, `gzip` or `zstd`.")
    ] = codings.IDENTITY,
) -> messages.Receipt:
    """Post the delta. The same body again gives the same receipt.

    Once this is answered with 200 the update is durable, counts exactly once, and may
    be forgotten by the device.
    """
    expected = await given.call(
        lambda: participation.expect_update(
            given.store,
            device_id=device_id,
            assignment_id=assignment_id,
            now=given.clock.now(),
        )
    )
    try:
        expected_digest = digests.parse_content_digest(content_digest)
    except ValueError as error:
        raise DigestNeeded(str(error)) from error
    path = given.blobs.new_incoming()
    try:
        size = await _receive(request, path, limit=expected.max_bytes)
        given.metrics.count_upload(size)
        accepted = await given.call(
            lambda: participation.submit_update(
                given.store,
                given.blobs,
                expected,
                participation.Sent(
                    path=path, content_digest=expected_digest, coding=content_encoding
                ),
                device_id=device_id,
                assignment_id=assignment_id,
                now=given.clock.now(),
            )
        )
    except DigestMismatch as error:
        if given.devices_sign:
            raise BodyNotSigned(str(error)) from error
        raise
    finally:
        given.blobs.drop_incoming(path)
    update = accepted.update
    return messages.Receipt(
        assignment=assignment_id,
        sha256=update.sha256,
        size_bytes=update.size_bytes,
        examples=update.examples,
        accepted_at=accepted.accepted_at,
    )


@router.post(
    "/evaluation",
    response_model=messages.EvaluationReceipt,
    responses=refusals(*_RESULT, problems.INVALID_EVALUATION),
    summary="Post an evaluation",
)
async def submit_evaluation(
    assignment_id: messages.Id,
    body: messages.EvaluationReport,
    given: Given,
    device_id: callers.Device,
) -> messages.EvaluationReceipt:
    """Post sums over the device's own test examples."""

    def call() -> messages.EvaluationReceipt:
        accepted_at = participation.submit_evaluation(
            given.store,
            body,
            device_id=device_id,
            assignment_id=assignment_id,
            now=given.clock.now(),
        )
        return messages.EvaluationReceipt(
            assignment=assignment_id, accepted_at=accepted_at
        )

    return await given.call(call)


@router.post(
    "/failure",
    response_model=messages.FailureReceipt,
    responses=refusals(*_OWN, problems.LEASE_LAPSED, problems.ALREADY_REPORTED),
    summary="Give an assignment up",
)
async def report_failure(
    assignment_id: messages.Id,
    body: messages.FailureReport,
    given: Given,
    device_id: callers.Device,
) -> messages.FailureReceipt:
    """Free the place at once, rather than when the lease lapses."""

    def call() -> messages.FailureReceipt:
        ended_at = participation.report_failure(
            given.store,
            device_id=device_id,
            assignment_id=assignment_id,
            reason=body.reason,
            detail=body.detail,
            now=given.clock.now(),
        )
        return messages.FailureReceipt(assignment=assignment_id, ended_at=ended_at)

    return await given.call(call)


async def _receive(request: Request, path: pathlib.Path, *, limit: int) -> int:
    """Write the body to ``path`` as it comes, so that memory stays flat.

    Returns:
        Its size in bytes.

    Raises:
        BodyTooLarge: It has more than ``limit`` bytes.
        StorageUnavailable: It does not fit on the disk.
    """
    declared = request.headers.get("Content-Length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
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
