"""The key of a round whose devices encrypt; the result itself comes as an update."""

import functools
from typing import Annotated, Final

import fastapi
from fastapi import Path, Request, Response

from coordinator.api import callers, downloads, updates
from coordinator.api.problems import refusals
from coordinator.api.secagg import Wait, ask
from coordinator.api.services import Given
from coordinator.protocol import messages, paths, problems
from coordinator.protocol.he.messages import KeyAnswer
from coordinator.usecases import encrypted

router = fastapi.APIRouter(tags=["device"])
_KeyId = Annotated[messages.Id, Path(description="Id of the key.")]
_ASKED: Final = (*updates.OWN, problems.NOT_SECURE, problems.ROUND_CLOSED)


@router.get(
    "/v1/assignments/{assignment_id}/encryption",
    responses=refusals(*_ASKED, problems.DEVICE_KEY_NEEDED),
    summary="Ask for the key of a round",
)
async def get_key(
    assignment_id: messages.Id,
    given: Given,
    device_id: callers.Device,
    wait_s: Wait = 0.0,
) -> KeyAnswer:
    """Get what to encrypt the result with, once the key authority has made it."""
    names = {"device_id": device_id, "assignment_id": assignment_id}
    look = functools.partial(encrypted.key_of, given.store, **names)
    found, pause_s = await ask(given, look, wait_s)
    if found is None:
        return KeyAnswer(retry_after_s=pause_s)
    sha256 = found.key.statement.public_sha256
    return KeyAnswer(
        key=found.key,
        public=messages.Download(
            url=paths.public_key(found.key.statement.key_id),
            sha256=sha256,
            size_bytes=found.public_bytes,
        ),
        encoding=found.encoding,
    )


@router.get(
    paths.ENCRYPTION_KEYS + "/{key_id}",
    response_class=Response,
    responses=downloads.binary(
        "The public key, as TenSEAL serializes it.", downloads.TENSORS
    )
    | refusals(problems.ENCRYPTION_KEY_UNKNOWN),
    summary="Get the public key of a round",
)
async def get_public_key(key_id: _KeyId, request: Request, given: Given) -> Response:
    """Get the key, the same for all devices of the round. Immutable."""
    call = functools.partial(encrypted.public_key, given.store, key_id=key_id)
    return downloads.content(request, await given.call(call), downloads.TENSORS)
