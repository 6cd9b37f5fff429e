"""Enrol and check in."""

import asyncio
import base64
import secrets
from collections.abc import Sequence
from typing import Annotated

import fastapi
from fastapi import Header

from coordinator import logs
from coordinator.api import callers, rendering
from coordinator.api.problems import IdempotencyKeyNeeded, refusals
from coordinator.api.services import Given
from coordinator.domain.devices import Device
from coordinator.domain.errors import AttestationRefused
from coordinator.protocol import device_keys, messages, operations, paths, problems
from coordinator.protocol.vocabulary import WaitReason
from coordinator.usecases import access, devices
from coordinator.usecases import check_in as check_in_usecase

router = fastapi.APIRouter(tags=["device"])
_MAX_KEY = 64


@router.post(
    paths.DEVICES,
    status_code=201,
    response_model=messages.Enrolment,
    responses=refusals(
        problems.ENROLMENT_TOKEN_NEEDED,
        problems.ENROLMENT_TOKEN_REFUSED,
        problems.DEVICE_KEY_NEEDED,
        problems.DEVICE_KEY_REFUSED,
        problems.DEVICE_REVOKED,
        problems.ATTESTATION_NEEDED,
        problems.ATTESTATION_REFUSED,
        problems.CHALLENGE_UNKNOWN,
        *callers.SIGNED,
    ),
    summary="Enrol a device",
)
async def enrol(
    body: messages.EnrolRequest, request: fastapi.Request, given: Given
) -> messages.Enrolment:
    """Enrol once, and keep the token, or the key, in the phone's key store.

    A request with a `public_key` is signed with that key.
    """
    content = await request.body()
    now = given.clock.now()

    def call() -> tuple[Device, str]:
        key = signature = None
        if body.public_key is not None:
            key = device_keys.parse(body.public_key)
            signature = access.check_signature(
                callers.message(request),
                key,
                body=content,
                now=now,
                skew=given.clock_skew,
            )
        applicant = devices.Applicant(
            name=body.name,
            capabilities=body.capabilities.model_dump(mode="json"),
            enrolment_token=body.enrolment_token,
            key=key,
            signature=signature,
            skew=given.clock_skew,
            attestation=_certificates(body.attestation),
        )
        return devices.enrol(given.store, applicant, admission=given.admission, now=now)

    device, token = await given.call(call)
    if given.devices_sign:
        return messages.Enrolment(device_id=device.id, auth="signature", token=None)
    return messages.Enrolment(device_id=device.id, token=token)


def _certificates(chain: Sequence[str]) -> tuple[bytes, ...]:
    try:
        return tuple(base64.b64decode(text, validate=True) for text in chain)
    except ValueError as error:
        raise AttestationRefused("a certificate is no base64") from error


@router.post(
    paths.ENROLMENT_CHALLENGES,
    status_code=201,
    response_model=messages.Challenge,
    responses=refusals(problems.ATTESTATION_NOT_ASKED),
    summary="Ask for an attestation challenge",
)
async def open_challenge(given: Given) -> messages.Challenge:
    """Get what the attestation of a new key has to answer; good for one enrolment."""
    challenge, expires_at = devices.open_challenge(
        given.admission, now=given.clock.now()
    )
    return messages.Challenge(
        challenge=base64.b64encode(challenge).decode(), expires_at=expires_at
    )


@router.post(
    paths.DEVICES + "/{device_id}/revoke",
    tags=["operator"],
    response_model=operations.RevokedDevice,
    responses=refusals(
        problems.UNAUTHENTICATED, problems.FORBIDDEN, problems.DEVICE_UNKNOWN
    ),
    summary="Revoke a device",
)
async def revoke_device(
    device_id: messages.Id, given: Given, operator: callers.Admin
) -> operations.RevokedDevice:
    """Shut a device out for good, and free the place that it holds."""
    revoked_at = await given.call(
        lambda: devices.revoke(
            given.store, device_id, by=operator.id, now=given.clock.now()
        )
    )
    return operations.RevokedDevice(id=device_id, revoked_at=revoked_at)


@router.get(
    paths.DEVICES,
    tags=["operator"],
    response_model=operations.DeviceList,
    responses=refusals(problems.UNAUTHENTICATED, problems.FORBIDDEN),
    dependencies=[callers.READ],
    summary="List devices",
)
async def list_devices(
    given: Given,
    limit: Annotated[int, fastapi.Query(ge=1, le=10_000)] = 100,
) -> operations.DeviceList:
    """List enrolled devices, newest first."""

    def call() -> operations.DeviceList:
        return operations.DeviceList(
            devices=tuple(
                operations.DeviceState(
                    id=device.id,
                    name=device.name,
                    enrolled_at=device.enrolled_at,
                    accepted=accepted,
                    has_key=device.public_key is not None,
                    attestation=device.attestation,
                    revoked_at=device.revoked_at,
                    erased_at=device.erased_at,
                )
                for device, accepted in devices.list_devices(given.store, limit=limit)
            )
        )

    return await given.call(call)


@router.post(
    paths.CHECK_INS,
    response_model=messages.CheckIn,
    responses=refusals(
        *callers.DEVICE,
        problems.IDEMPOTENCY_KEY_NEEDED,
        problems.IDEMPOTENCY_KEY_REUSED,
    ),
    summary="Ask for work",
    openapi_extra={
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "Drawn at random for this wish for work; send the same "
                "again when the answer was lost.",
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": _MAX_KEY,
                    "examples": ["8e03978e40d54330a6b7d6b6ab2c3e0f"],
                },
            }
        ]
    },
)
async def check_in(
    body: messages.CheckInRequest,
    given: Given,
    device_id: callers.Device,
    response: fastapi.Response,
    # Refused here, with a problem of its own; so OpenAPI is told above.
    idempotency_key: Annotated[str, Header(include_in_schema=False)] = "",
) -> messages.CheckIn:
    """Get an assignment, or how long to wait for one.

    A device that holds a live assignment gets that one again, whatever the key.
    """
    if not 1 <= len(idempotency_key) <= _MAX_KEY:
        raise IdempotencyKeyNeeded("Idempotency-Key must have 1 to 64 characters")
    given.pacer.meet_device()

    def ask() -> check_in_usecase.Work | WaitReason:
        return check_in_usecase.check_in(
            given.store,
            device_id=device_id,
            idempotency_key=idempotency_key,
            assignment_id=secrets.token_hex(16),
            now=given.clock.now(),
        )

    loop = asyncio.get_running_loop()
    until = loop.time() + body.wait_s
    while True:
        newest = given.watcher.newest_work
        outcome = await given.call(ask)
        if not isinstance(outcome, WaitReason):
            logs.note(round=outcome.round.id, assignment=outcome.assignment.id)
            given.metrics.count_check_in("assigned")
            return messages.CheckIn(
                assignment=rendering.assignment(
                    outcome, encodings_known=body.encodings, now=given.clock.now()
                ),
                wait_reason=None,
                retry_after_s=None,
            )
        left = until - loop.time()
        if left <= 0 or outcome is WaitReason.TASKS_ENDED or given.watcher.stopped:
            given.metrics.count_check_in(outcome)
            wait_s = await given.pacer.wait_s()
            response.headers["Retry-After"] = str(max(1, round(wait_s)))
            return messages.CheckIn(
                assignment=None, wait_reason=outcome, retry_after_s=wait_s
            )
        await given.watcher.wait_for_work(newest, left)
