"""The coordinator's calls to the key authority."""

import concurrent.futures
import hashlib
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import httpx
import numpy as np
import pydantic

from coordinator.protocol.he.messages import (
    Decrypted,
    DecryptRequest,
    IssuedKey,
    KeyRequest,
    Summand,
)
from coordinator.protocol.he.parameters import MODULUS, Residues
from coordinator.protocol.manifest import Record
from coordinator.usecases.encrypted import AuthorityAway, AuthorityRefused

_R = TypeVar("_R", bound=Record)
_KEY_S: Final = 10.0  #: for which a worker does nothing else
_SUM_S: Final = 120.0
_CONNECT_S: Final = 5.0
_BEAT_S: Final = 1.0


class KeyService:
    """A key authority over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        """Call the authority at ``url``, with the token that it wrote for us."""
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
        )
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "authority")

    def issue(self, request: KeyRequest) -> IssuedKey:
        """Ask for a key. Raises AuthorityAway, AuthorityRefused."""
        issued = self._post(IssuedKey, "/v1/keys", request, _KEY_S)
        named = issued.key.statement.public_sha256
        if hashlib.sha256(issued.public).hexdigest() != named:
            raise AuthorityAway("the key is not the one that its statement names")
        return issued

    def decrypt(
        self,
        key_id: str,
        ciphertext: bytes,
        summands: Sequence[Summand],
        *,
        on_progress: Callable[[int], None],
    ) -> Residues:
        """Ask for a blinded sum. Raises AuthorityAway, AuthorityRefused."""
        request = DecryptRequest(ciphertext=ciphertext, summands=tuple(summands))
        path = f"/v1/keys/{key_id}/sum"
        asked = self._thread.submit(self._post, Decrypted, path, request, _SUM_S)
        while not concurrent.futures.wait([asked], _BEAT_S).done:
            on_progress(0)
        residues = asked.result().residues
        if len(residues) % 8:
            raise AuthorityAway("the authority's sum is no row of numbers")
        numbers = np.frombuffer(residues, np.dtype("<u8")).astype(np.uint64)
        if numbers.size and numbers.max() >= MODULUS:
            raise AuthorityAway("the authority's sum is not of residues")
        return numbers

    def _post(self, kind: type[_R], path: str, body: Record, patience_s: float) -> _R:
        try:
            answer = self._http.post(
                path,
                content=body.model_dump_json(),
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(patience_s, connect=_CONNECT_S),
            )
        except httpx.TransportError as error:
            raise AuthorityAway(
                f"the key authority does not answer: {type(error).__name__} {error}"
            ) from error
        if answer.is_success:
            try:
                return kind.model_validate_json(answer.content, extra="ignore")
            except pydantic.ValidationError as error:
                raise AuthorityAway(
                    f"the key authority's answer is no {kind.__name__}"
                ) from error
        said = f"the key authority says {answer.status_code}: {answer.text[:300]}"
        if answer.status_code in {403, 404, 409, 422}:
            raise AuthorityRefused(said)
        raise AuthorityAway(said)
