"""Who calls: dependencies that let a route run, or refuse before its body is judged.

Devices bear their token or sign, as the coordinator is set; operators bear a token
whose role must suffice.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import fastapi
from fastapi import Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from coordinator import logs
from coordinator.api.services import Given, Services
from coordinator.domain.devices import Operator, Role
from coordinator.domain.errors import Forbidden
from coordinator.protocol import problems, signatures
from coordinator.usecases import access

_device_scheme = HTTPBearer(
    scheme_name="device",
    description="The token that enrolment answered with, where it did.",
    auto_error=False,
)
_signature_scheme = APIKeyHeader(
    name="Signature-Input",
    scheme_name="signature",
    description="RFC 9421, beside `Signature` and `Content-Digest`, where enrolment "
    "answered that requests are signed. It covers `@method`, `@path`, "
    "`content-digest`, and of `idempotency-key`, `content-encoding`, `repr-digest`, "
    "`upload-complete`, `upload-length` and `upload-offset` what is sent; "
    "its parameters are `created`, `nonce`, `keyid` and `alg`.",
    auto_error=False,
)
_operator_scheme = HTTPBearer(
    scheme_name="operator",
    description="The token in `operator.token` of the coordinator's data folder, or "
    "one that an admin made.",
    auto_error=False,
)

SIGNED: Final = (
    problems.SIGNATURE_NEEDED,
    problems.SIGNATURE_INVALID,
    problems.SIGNATURE_STALE,
    problems.SIGNATURE_REPLAYED,
    problems.BODY_NOT_SIGNED,
    problems.TOO_MANY_SIGNATURES,
)  #: how signed requests are refused
DEVICE: Final = (problems.UNAUTHENTICATED, problems.DEVICE_REVOKED, *SIGNED)

_Sent = Annotated[HTTPAuthorizationCredentials | None, fastapi.Depends(_device_scheme)]
_Signed = Annotated[str | None, fastapi.Depends(_signature_scheme)]


def message(request: Request) -> signatures.Message:
    """Return what a signature of the request covers."""
    return signatures.Message(
        method=request.method,
        path=request.scope["raw_path"].decode("latin-1"),
        headers=request.headers.items(),
    )


async def _device(request: Request, given: Given, sent: _Sent, _: _Signed) -> str:
    """Return the id of the device that calls, with this body."""
    body = await request.body() if given.devices_sign else None
    return await _authenticate(request, given, sent, body)


async def _uploading_device(
    request: Request, given: Given, sent: _Sent, _: _Signed
) -> str:
    """Return the id of the device that calls; its body is yet to come."""
    return await _authenticate(request, given, sent, None)


async def _authenticate(
    request: Request,
    given: Services,
    sent: HTTPAuthorizationCredentials | None,
    body: bytes | None,
) -> str:
    if not given.devices_sign:
        token = None if sent is None else sent.credentials
        device_id = await given.call(
            lambda: access.authenticate_device(given.store, token)
        )
    else:
        signed = message(request)
        device = await given.call(lambda: access.find_signer(given.store, signed))
        request.state.caller = device_id = device.id
        await given.call(
            lambda: access.authenticate_signature(
                given.store,
                device,
                signed,
                body=body,
                now=given.clock.now(),
                skew=given.clock_skew,
            )
        )
    request.state.caller = device_id
    logs.note(device=device_id)
    given.load.admit_device(request, device_id)
    return device_id


def _with_role(role: Role) -> Callable[..., Awaitable[Operator]]:
    async def authorize(
        request: Request,
        given: Given,
        sent: Annotated[
            HTTPAuthorizationCredentials | None, fastapi.Depends(_operator_scheme)
        ],
    ) -> Operator:
        token = None if sent is None else sent.credentials
        operator = await given.call(lambda: access.authorize(given.store, token, role))
        request.state.caller = operator.id
        return operator

    return authorize


def device_or(role: Role) -> Callable[..., Awaitable[str]]:
    """Return a dependency: the device of the path, or an operator with a role.

    It gives the id of who calls.
    """

    async def authorize(
        request: Request,
        given: Given,
        sent: _Sent,
        signed: _Signed,
        operator: Annotated[
            HTTPAuthorizationCredentials | None, fastapi.Depends(_operator_scheme)
        ],
    ) -> str:
        if signed is not None or await _bears_a_devices_token(given, sent):
            caller = await _device(request, given, sent, signed)
            if caller != request.path_params["device_id"]:
                raise Forbidden("a device may only ask for itself", caller)
            return caller
        return (await _with_role(role)(request, given, operator)).id

    return authorize


async def _bears_a_devices_token(
    given: Services, sent: HTTPAuthorizationCredentials | None
) -> bool:
    if sent is None or given.devices_sign:
        return False
    return await given.call(
        lambda: access.is_of_a_device(given.store, sent.credentials)
    )


Device = Annotated[str, fastapi.Depends(_device)]
UploadingDevice = Annotated[str, fastapi.Depends(_uploading_device)]
Admin = Annotated[Operator, fastapi.Depends(_with_role(Role.ADMIN))]
READ: Final = fastapi.Depends(_with_role(Role.READ))
RUN: Final = fastapi.Depends(_with_role(Role.RUN))
