"""Report on an assignment: an update, an evaluation or a failure."""

from typing import Annotated

import fastapi
from fastapi import Header, Request, Response

from coordinator.api import callers, updates, uploads
from coordinator.api.problems import DigestNeeded, refusals
from coordinator.api.services import Given
from coordinator.domain.errors import DigestMismatch, InconsistentLength
from coordinator.domain.uploads import NOTHING
from coordinator.protocol import codings, digests, messages, problems
from coordinator.usecases import participation

router = fastapi.APIRouter(prefix="/v1/assignments/{assignment_id}", tags=["device"])


@router.post(
    "/update",
    response_model=messages.Receipt,
    responses={201: uploads.CREATED, **refusals(*updates.UPDATE)},
    summary="Post an update",
    openapi_extra={
        "parameters": [updates.DIGEST],
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
    resumable: updates.Resumable,
    content_digest: updates.ContentDigest = "",
    content_encoding: Annotated[
        str, Header(description="`identity`, `gzip` or `zstd`.")
    ] = codings.IDENTITY,
) -> messages.Receipt | Response:
    """Post the delta. The same body again gives the same receipt.

    Once this is answered with 200 the update is durable, counts exactly once, and may
    be forgotten by the device.

    With `Upload-Complete` it can be sent in parts: `?0` says that more follows, and
    with `?1` what came in of a body that broke off is kept. The upload resource is at
    this path, then `/` and the SHA-256 of the whole body as sent, in hex digits.
    """
    expected = await updates.expect(request, given, device_id, assignment_id)
    try:
        expected_digest = digests.parse_content_digest(content_digest)
    except ValueError as error:
        raise DigestNeeded(str(error)) from error
    whole = None
    path = given.blobs.new_incoming()
    if resumable is not None:
        whole = resumable.whole(
            request,
            expected,
            assignment_id=assignment_id,
            content_sha256=expected_digest,
            coding=content_encoding,
        )
        if not resumable.is_complete:
            return await uploads.begin(
                request, given, expected, whole, content_sha256=expected_digest
            )
        path = given.blobs.partials.new(whole, tag=NOTHING)
    try:
        async with updates.kept_if_broken(given, expected, whole, path, tag=NOTHING):
            size = await updates.receive(request, path, limit=expected.max_bytes)
        if whole is not None and whole.length not in {None, size}:
            raise InconsistentLength(f"{size} bytes came of {whole.length}")
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
        updates.refuse_digest(given, error)
    finally:
        given.blobs.drop_incoming(path)
    return updates.receipt(accepted)


@router.post(
    "/evaluation",
    response_model=messages.EvaluationReceipt,
    responses=refusals(
        *updates.RESULT,
        problems.INVALID_EVALUATION,
        problems.SECAGG_NEEDED,
        problems.ENCRYPTION_NEEDED,
    ),
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
    responses=refusals(*updates.OWN, problems.LEASE_LAPSED, problems.ALREADY_REPORTED),
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
