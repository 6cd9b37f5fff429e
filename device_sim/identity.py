"""How a device proves who it is: by its token, or by signing with its key.

The key is of P-256, which is what phones keep in hardware. A real app never sees its
private half; a simulated device keeps it with the rest of its state.
"""

import base64
import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.protocol import device_keys, digests, signatures


def new_key() -> str:
    """Draw a private key. Returns what to keep: base64 of PKCS #8."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return base64.b64encode(der).decode()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251 - a device's own clock


@dataclasses.dataclass(frozen=True, slots=True)
class Bearer:
    """Shows a token."""

    token: str = dataclasses.field(repr=False)

    def fields(
        self,
        method: str,  # noqa: ARG002 - the same for every request
        path: str,  # noqa: ARG002 - the same for every request
        headers: Mapping[str, str],  # noqa: ARG002 - the same for every request
        content: bytes,  # noqa: ARG002 - the same for every request
    ) -> dict[str, str]:
        """Return the fields that prove who sends a request."""
        return {"Authorization": f"Bearer {self.token}"}


class Signer:
    """Signs each request, and each repetition of it, anew."""

    def __init__(self, key: str, *, now: Callable[[], dt.datetime] = _now) -> None:
        """Sign with what ``new_key`` returned."""
        private = serialization.load_der_private_key(base64.b64decode(key), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise TypeError(type(private))
        self.private = private
        self._now = now
        self.key = device_keys.of(private.public_key())  #: the public half

    def fields(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes
    ) -> dict[str, str]:
        """Return the fields that prove who sends a request."""
        digest = {
            digests.FIELD: digests.content_digest(digests.sha256_hex(content)),
        }
        signed = signatures.sign(
            self.private,
            key_name=self.key.id,
            method=method,
            path=path,
            headers=dict(headers) | digest,
            created=self._now(),
            nonce=secrets.token_urlsafe(18),
        )
        return digest | signed


Credential = Bearer | Signer
