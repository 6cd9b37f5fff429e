"""The authority over HTTP: ask for a key, and for the one sum that it decrypts."""

import asyncio
import hmac
import pathlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import fastapi
import uvicorn
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from coordinator.authority import vault
from coordinator.authority.vault import Vault
from coordinator.clock import SystemClock
from coordinator.protocol.he.messages import (
    Decrypted,
    DecryptRequest,
    IssuedKey,
    KeyRequest,
)
from coordinator.protocol.messages import Id

T = TypeVar("T")
_Answer = Callable[[Request], Awaitable[Response]]
_HEALTH: Final = "/healthz"
_STATUS: Final = {
    vault.KeyUnknown: 404,
    vault.KeySpent: 409,
    vault.TooFewSigned: 403,
    vault.Undecryptable: 422,
}


def create(keys: Vault) -> fastapi.FastAPI:
    """Return the ASGI application."""
    app = fastapi.FastAPI(title="Shoal key authority", version="1")
    clock = SystemClock()

    @app.middleware("http")
    async def insist_coordinator(request: Request, answer: _Answer) -> Response:
        """Refuse others before anything of their body is read."""
        shown = request.headers.get("Authorization", "").encode()
        known = hmac.compare_digest(shown, f"Bearer {keys.token}".encode())
        if request.url.path != _HEALTH and not known:
            return _refusal(401, "the token is not the coordinator's")
        return await answer(request)

    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _handler(status))

    @app.get(_HEALTH)
    async def health() -> dict[str, str]:
        """Say that the authority answers, and its public key."""
        return {"status": "ok", "public_key": keys.public}

    @app.post("/v1/keys", status_code=201)
    async def issue(body: KeyRequest) -> IssuedKey:
        """Draw a key for a round."""
        return await _call(lambda: keys.issue(body, now=clock.now()))

    @app.post("/v1/keys/{key_id}/sum")
    async def decrypt(key_id: Id, body: DecryptRequest) -> Decrypted:
        """Decrypt one blinded sum. The same bytes again give the same answer."""
        residues = await _call(
            lambda: keys.decrypt(key_id, body.ciphertext, body.summands)
        )
        return Decrypted(residues=residues)

    return app


def serve(
    folder: pathlib.Path, *, host: str, port: int, roster: pathlib.Path | None
) -> None:
    """Run the authority until told to stop.

    Raises:
        ValueError: The roster cannot be read.
    """
    names = None if roster is None else vault.read_roster(roster)
    app = create(Vault(folder, roster=names))
    uvicorn.run(app, host=host, port=port, log_level="warning")


async def _call(body: Callable[[], T]) -> T:
    return await asyncio.to_thread(body)


def _handler(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda _, error: _refusal(status, str(error))


def _refusal(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)
