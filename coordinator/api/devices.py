"""Enrol and check in."""

import asyncio
import secrets
from typing import Annotated

import fastapi
from fastapi import Header

from coordinator import logs
from coordinator.api import rendering
from coordinator.api.problems import IdempotencyKeyNeeded, refusals
from coordinator.api.services import DeviceToken, Given, OperatorToken
from coordinator.protocol import messages, operations, paths, problems
from coordinator.protocol.vocabulary import WaitReason
from coordinator.usecases import check_in as check_in_usecase
from coordinator.usecases import devices

router = fastapi.APIRouter(tags=["device"])
_MAX_KEY = 64


@router.post(
    paths.DEVICES,
    status_code=201,
    response_model=messages.Enrolment,
    responses=refusals(),
    summary="Enrol a device",
)
async def enrol(body: messages.EnrolRequest, given: Given) -> messages.Enrolment:
    """Enrol once, and keep the token in the phone's key store."""
    device, token = await given.call(
        lambda: devices.enrol(
            given.store,
            name=body.name,
            capabilities=body.capabilities.model_dump(mode="json"),
            now=given.clock.now(),
        )
    )
    return messages.Enrolment(device_id=device.id, token=token)


@router.get(
    paths.DEVICES,
    tags=["operator"],
    response_model=operations.DeviceList,
    responses=refusals(problems.UNAUTHENTICATED, problems.FORBIDDEN),
    summary="List devices",
)
async def list_devices(
    given: Given,
    token: OperatorToken,
    limit: Annotated[int, fastapi.Query(ge=1, le=10_000)] = 100,
) -> operations.DeviceList:
    """List enrolled devices, newest first."""

    def call() -> operations.DeviceList:
        devices.authenticate_operator(given.store, token)
        return operations.DeviceList(
            devices=tuple(
                operations.DeviceState(
                    id=device.id,
                    name=device.name,
                    enrolled_at=device.enrolled_at,
                    accepted=accepted,
                )
                for device, accepted in devices.list_devices(given.store, limit=limit)
            )
        )

    return await given.call(call)


@router.post(
    paths.CHECK_INS,
    response_model=messages.CheckIn,
    responses=refusals(
        problems.UNAUTHENTICATED,
        problems.IDEMPOTENCY_KEY_NEEDED,
        problems.IDEMPOTENCY_KEY_REUSED,
    ),
    summary="Ask for work",
)
async def check_in(
    body: messages.CheckInRequest,
    given: Given,
    token: DeviceToken,
    response: fastapi.Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="1 to 64 characters drawn at random for this wish for work; "
            "send the same again when the answer was lost.",
            examples=["8e03978e40d54330a6b7d6b6ab2c3e0f"],
        ),
    ] = None,
) -> messages.CheckIn:
    """Get an assignment, or how long to wait for one.

    A device that holds a live assignment gets that one again, whatever the key.
    """
    if idempotency_key is None or not 1 <= len(idempotency_key) <= _MAX_KEY:
        raise IdempotencyKeyNeeded("Idempotency-Key must have 1 to 64 characters")
    key = idempotency_key

    def ask() -> check_in_usecase.Work | WaitReason:
        device_id = given.identities.device(token)
        return check_in_usecase.check_in(
            given.store,
            device_id=device_id,
            idempotency_key=key,
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
            wait_s = given.jittered_wait_s()
            response.headers["Retry-After"] = str(max(1, round(wait_s)))
            return messages.CheckIn(
                assignment=None, wait_reason=outcome, retry_after_s=wait_s
            )
        await given.watcher.wait_for_work(newest, left)
