"""Signed requests: HTTP Message Signatures, in the one profile that is taken here.

A signature covers ``@method``, ``@path`` and ``content-digest``, and of the fields in
``IF_PRESENT`` those that the request has. Its parameters are ``created``, ``nonce``,
``keyid`` and ``alg``. ``@path`` and not ``@target-uri``: a proxy may speak TLS, change
the scheme and the authority; no signed call has a query.

Signature base and structured fields are the library's; the profile, the clock and the
shape of the nonce are decided here. Whether a nonce was used before, and whether the
body has the digest, is the caller's to check.

Source: RFC 9421; RFC 9530 (Content-Digest).
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import http_message_signatures as hms
import http_sf
from http_message_signatures import algorithms

from coordinator.protocol import digests
from coordinator.protocol.device_keys import (
    ECDSA_P256,
    ED25519,
    DeviceKey,
    PrivateKey,
    algorithm,
)

ALWAYS: Final = ("@method", "@path", "content-digest")
IF_PRESENT: Final = (
    "content-encoding",
    "idempotency-key",
    "repr-digest",
    "upload-complete",
    "upload-length",
    "upload-offset",
)
LABEL: Final = "shoal"
_PARAMETERS: Final = frozenset({"created", "nonce", "keyid", "alg"})
_NONCE: Final = re.compile(r"[A-Za-z0-9_+/=.:-]{16,64}")
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST: Final = 2048  #: characters of either field
_ALGORITHMS: Final[Mapping[str, type[algorithms.HTTPSignatureAlgorithm]]] = {
    ED25519: algorithms.ED25519,
    ECDSA_P256: algorithms.ECDSA_P256_SHA256,
}


class SignatureNeeded(ValueError):
    """The request bears no signature."""


class SignatureInvalid(ValueError):
    """The signature is malformed, covers too little, or is not of this request."""


class SignatureStale(ValueError):
    """The signature was made too long ago, or in the future."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The parts of a request that a signature may cover."""

    method: str
    path: str  #: as on the request line, without query
    headers: Sequence[tuple[str, str]]  #: field lines in their order

    @property
    def sha256(self) -> str:
        """The digest of the body that its Content-Digest names, 64 hex digits.

        Raises:
            SignatureInvalid: There is none.
        """
        lines = [text for name, text in self.headers if name.lower() == ALWAYS[2]]
        try:
            return digests.parse_content_digest(", ".join(lines))
        except ValueError as error:
            raise SignatureInvalid(str(error)) from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a verified signature says of itself."""

    nonce: str
    created: dt.datetime


class _Fields(list[tuple[str, str]]):
    """Field lines, as the library reads them."""

    def items(self) -> list[tuple[str, str]]:
        return list(self)


@dataclasses.dataclass(slots=True)
class _Request:
    """A request, as the library reads it."""

    method: str
    url: str
    headers: _Fields | dict[str, str]


class Verifier(hms.HTTPMessageVerifier):
    """Leaves time to the caller, who has a clock."""

    def validate_created_and_expires(
        self, sig_input: object, max_age: object = None
    ) -> None:
        """Check nothing."""


def key_id(message: Message) -> str:
    """Return the name of the key that a request says it was signed with.

    Raises:
        SignatureNeeded: There is no signature.
        SignatureInvalid: There are several, or none that can be read.
    """
    found = [
        value for name, value in message.headers if name.lower() == "signature-input"
    ]
    if not found:
        raise SignatureNeeded("the request bears no Signature-Input")
    if len(found) > 1 or len(found[0]) > _LONGEST:
        raise SignatureInvalid("the request must bear one short Signature-Input")
    try:
        parsed: Any = http_sf.parse(found[0].encode(), tltype="dictionary")
        ((_, parameters),) = parsed.values()
        name = parameters["keyid"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SignatureInvalid("Signature-Input holds no keyid") from error
    if not isinstance(name, str) or not _KEY_ID.fullmatch(name):
        raise SignatureInvalid("keyid must be the SHA-256 of the key, in hex digits")
    return name


def verify(
    message: Message, key: DeviceKey, *, now: dt.datetime, skew: dt.timedelta
) -> Signature:
    """Check that the holder of ``key`` signed this request just now.

    Raises:
        SignatureInvalid: The holder did not, or not what must be covered.
        SignatureStale: It was not within ``skew`` of ``now``.
    """
    present = {name.lower() for name, _ in message.headers}
    needed = (*ALWAYS, *(name for name in IF_PRESENT if name in present))
    verifier = Verifier(
        signature_algorithm=_ALGORITHMS[key.algorithm],
        key_resolver=hms.MappingKeyResolver(
            public_keys={key.id: key.public}, private_keys={}
        ),
    )
    request = _Request(
        message.method, f"http://shoal{message.path}", _Fields(message.headers)
    )
    try:
        (result,) = verifier.verify(request, max_age=None, require_components=needed)
    except (hms.HTTPMessageSignaturesException, ValueError) as error:
        raise SignatureInvalid("the signature is not of this request") from error
    parameters: Mapping[str, Any] = result.parameters  # types are checked
    if set(parameters) != _PARAMETERS:
        raise SignatureInvalid(f"parameters must be {', '.join(sorted(_PARAMETERS))}")
    if not _NONCE.fullmatch(parameters["nonce"]):
        raise SignatureInvalid("nonce must have 16 to 64 characters of base64")
    created = _moment(parameters["created"])
    if abs(now - created) > skew:
        raise SignatureStale(
            f"created is {created:%Y-%m-%dT%H:%M:%SZ}, here it is "
            f"{now:%Y-%m-%dT%H:%M:%SZ}"
        )
    return Signature(nonce=parameters["nonce"], created=created)


def sign(
    private: PrivateKey,
    *,
    key_name: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    created: dt.datetime,
    nonce: str,
) -> dict[str, str]:
    """Return the two fields that sign a request. Run by the device.

    Args:
        private: The device's key.
        key_name: ``DeviceKey.id`` of its public half.
        method: The request's method.
        path: Its path, without query.
        headers: Its fields, ``Content-Digest`` among them.
        created: The present moment.
        nonce: Drawn at random for this request and no other.
    """
    present = {name.lower() for name in headers}
    covered = (*ALWAYS, *(name for name in IF_PRESENT if name in present))
    name = algorithm(private)
    request = _Request(method, f"http://shoal{path}", dict(headers))
    signer = hms.HTTPMessageSigner(
        signature_algorithm=_ALGORITHMS[name],
        key_resolver=hms.MappingKeyResolver(
            public_keys={}, private_keys={key_name: private}
        ),
    )
    signer.sign(
        request,
        key_id=key_name,
        created=created,
        nonce=nonce,
        label=LABEL,
        covered_component_ids=covered,
        use_existing_digest=True,
    )
    fields = dict(request.headers.items())
    return {field: fields[field] for field in ("Signature-Input", "Signature")}


def _moment(seconds: int) -> dt.datetime:
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise SignatureInvalid(f"created {seconds} is no moment") from error
