"""What devices, the coordinator and the key authority tell each other of a key."""

import base64
import binascii
import hashlib
from typing import Annotated, Final

import pydantic
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import Field

from coordinator.protocol import device_keys
from coordinator.protocol.device_keys import SIGNATURE_BYTES
from coordinator.protocol.he import framing
from coordinator.protocol.he.parameters import (
    DEGREE,
    MAX_DEVICES,
    MAX_LENGTH,
    MODULUS,
)
from coordinator.protocol.manifest import Record, Request, Sha256
from coordinator.protocol.messages import Download, Id
from coordinator.protocol.secagg.messages import Session, Signature, hashed
from coordinator.protocol.secagg.summands import Encoding

_KEY: Final = b"shoal/he/1/key/"
_MAGIC: Final = b"SHOALBFV"
HEADER_BYTES: Final = len(_MAGIC) + SIGNATURE_BYTES  #: before the ciphertexts


class ForgedKey(ValueError):
    """The key is not of the authority that the device trusts, or not for its round."""


class MalformedEnvelope(ValueError):
    """The body is no encrypted result, or is not signed by its device."""


def _decode(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be base64") from error


Base64 = Annotated[
    bytes,
    pydantic.BeforeValidator(_decode),
    pydantic.PlainSerializer(lambda content: base64.b64encode(content).decode()),
    pydantic.WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


class KeyRequest(Request):
    """The coordinator asks the authority for a round's key."""

    session: Sha256 = Field(description="Digest of what devices join.")
    length: int = Field(ge=1, le=MAX_LENGTH, description="Numbers in a vector.")
    minimum: int = Field(
        ge=2, le=MAX_DEVICES, description="Fewest devices whose sum is decrypted."
    )
    noisy: int = Field(
        0, ge=0, le=MAX_LENGTH, description="Numbers, from the first, that get noise."
    )
    noise_stddev: float = Field(
        0.0,
        ge=0,
        le=2**31,
        allow_inf_nan=False,
        description="Standard deviation of that noise; 0: none.",
    )


class KeyStatement(Record):
    """What a key is for, in the authority's words."""

    key_id: Id = Field(description="Names the key.")
    session: Sha256 = Field(description="Digest of what devices join.")
    public_sha256: Sha256 = Field(description="Of the public key.")
    degree: int = Field(description="Of the polynomials, and numbers a ciphertext.")
    modulus: int = Field(description="Of the numbers.")
    length: int = Field(description="Numbers in a vector.")
    minimum: int = Field(description="Fewest devices whose sum is decrypted.")
    noisy: int = Field(description="Numbers, from the first, that get noise.")
    noise_stddev: float = Field(description="Standard deviation of that noise.")

    def signed_bytes(self) -> bytes:
        """Return what the authority signs."""
        return _KEY + rfc8785.dumps(self.model_dump(mode="json"))


class SignedKey(Record):
    """A key's statement under the authority's signature, Ed25519."""

    statement: KeyStatement
    signature: Signature = Field(
        description="Of the statement as canonical JSON (RFC 8785), behind "
        "`shoal/he/1/key/`."
    )

    def insist_for(
        self, session: Session, encoding: Encoding, authority: bytes
    ) -> KeyStatement:
        """Check that the authority made the key for this. Run by the device.

        Args:
            session: What the device joins, as it works it out itself.
            encoding: How it is told to lay its result out.
            authority: The authority's public key, 32 bytes.

        Raises:
            ForgedKey: It did not.
        """
        statement = self.statement
        public = ed25519.Ed25519PublicKey.from_public_bytes(authority)
        try:
            public.verify(self.signature, statement.signed_bytes())
        except InvalidSignature as error:
            raise ForgedKey("the key is not signed by the trusted authority") from error
        if statement.session != digest(session):
            raise ForgedKey("the key is for another round, model or plan")
        if (statement.degree, statement.modulus) != (DEGREE, MODULUS):
            raise ForgedKey("the key has other parameters")
        if statement.length != encoding.length or statement.minimum < 2:  # noqa: PLR2004
            raise ForgedKey(
                f"the key is for sums of {statement.minimum} devices with "
                f"{statement.length} numbers"
            )
        if statement.noise_stddev and statement.noisy != encoding.size:
            raise ForgedKey("the authority's noise does not cover the update")
        return statement


class IssuedKey(Record):
    """The authority's answer: a key that it keeps the secret half of."""

    key: SignedKey
    public: Base64 = Field(description="The public key, as TenSEAL serializes it.")


class KeyAnswer(Record):
    """What a device encrypts with, once it is there."""

    key: SignedKey | None = None
    public: Download | None = Field(None, description="The public key.")
    encoding: Encoding | None = Field(None, description="How results are laid out.")
    retry_after_s: float | None = Field(
        None, description="Seconds to the next question, while there is none."
    )


class Summand(Request):
    """A device's signature of what it has sent."""

    device_key: str = Field(
        max_length=device_keys.MAX_CHARACTERS, description="Base64 of its DER."
    )
    sha256: Sha256 = Field(description="Of its ciphertexts.")
    signature: Signature

    def insist_signed(self, key_id: str, session: str) -> str:
        """Check the signature. Returns the device key's name.

        Raises:
            MalformedEnvelope: It is not of this key, these bytes and this session.
        """
        try:
            key = device_keys.parse(self.device_key)
            key.verify(self.signature, _signed_result(key_id, session, self.sha256))
        except (InvalidSignature, device_keys.DeviceKeyRefused) as error:
            raise MalformedEnvelope(
                "a result is not signed by its device for this key"
            ) from error
        return key.id


class DecryptRequest(Request):
    """The coordinator asks for a blinded sum; once, with the same bytes again."""

    ciphertext: Base64 = Field(description="Ciphertexts of the blinded sum.")
    summands: tuple[Summand, ...] = Field(max_length=MAX_DEVICES, strict=False)


class Decrypted(Record):
    """The numbers of a blinded sum."""

    residues: Base64 = Field(description="Little-endian uint64, one a number.")


def digest(session: Session) -> str:
    """Return the digest of what devices join, 64 hex digits."""
    return hashed("encrypted session", *session.fields()).hex()


def seal(
    ciphertext: bytes, statement: KeyStatement, identity: device_keys.PrivateKey
) -> bytes:
    """Return the body that a device sends: its signature, and the ciphertexts."""
    content = _signed_result(
        statement.key_id, statement.session, hashlib.sha256(ciphertext).hexdigest()
    )
    return _MAGIC + device_keys.sign(identity, content) + ciphertext


def max_envelope_bytes(length: int) -> int:
    """Return the most bytes that an encrypted result of so many numbers has."""
    return HEADER_BYTES + framing.max_bytes(length)


def open_envelope(
    body: memoryview, device_key: str, statement: KeyStatement
) -> Summand:
    """Check who sent a body, and how many ciphertexts it has. Run by the coordinator.

    Raises:
        MalformedEnvelope: It is none, or not signed by the device for this key.
    """
    if bytes(body[: len(_MAGIC)]) != _MAGIC or len(body) <= HEADER_BYTES:
        raise MalformedEnvelope("the body must begin with SHOALBFV and a signature")
    found = Summand(
        device_key=device_key,
        sha256=hashlib.sha256(body[HEADER_BYTES:]).hexdigest(),
        signature=bytes(body[len(_MAGIC) : HEADER_BYTES]),
    )
    found.insist_signed(statement.key_id, statement.session)
    try:
        framing.split(body[HEADER_BYTES:], statement.length)
    except framing.MalformedCiphertext as error:
        raise MalformedEnvelope(str(error)) from error
    return found


def _signed_result(key_id: str, session: str, sha256: str) -> bytes:
    fields = map(bytes.fromhex, (key_id, session, sha256))
    return hashed("encrypted result", *fields)
