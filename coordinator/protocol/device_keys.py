"""The device key: what a phone's key store makes, how it travels, what it is called.

A public key travels as the base64 of its SubjectPublicKeyInfo (DER): one string that
holds the algorithm too, and exactly what Android's ``getEncoded``, WebCrypto and
OpenSSL give. A key's name, the ``keyid`` of its signatures, is the SHA-256 of that DER.

Source: RFC 5280, section 4.1.2.7; RFC 8410 (Ed25519); RFC 5480 (P-256).
"""

import base64
import binascii
import dataclasses
import functools
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from coordinator.protocol import digests

PublicKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

ED25519: Final = "ed25519"
ECDSA_P256: Final = "ecdsa-p256-sha256"
SIGNATURE_BYTES: Final = 64
MAX_CHARACTERS: Final = 200  #: a P-256 key has 124


class DeviceKeyRefused(ValueError):
    """The text is no public key of a kind that is taken."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceKey:
    """A device's public key."""

    spki: str  #: canonical base64 of the DER
    public: PublicKey = dataclasses.field(compare=False, repr=False)

    @property
    def id(self) -> str:
        """Its name: the SHA-256 of the DER, 64 hex digits."""
        return digests.sha256_hex(base64.b64decode(self.spki))

    @property
    def algorithm(self) -> str:
        """The algorithm of its signatures, as RFC 9421, section 6.2.2 names it."""
        return algorithm(self.public)

    def verify(self, signature: bytes, content: bytes) -> None:
        """Check what ``sign`` returned.

        Raises:
            InvalidSignature: The key did not sign this.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise InvalidSignature
        if isinstance(self.public, ed25519.Ed25519PublicKey):
            self.public.verify(signature, content)
            return
        half = SIGNATURE_BYTES // 2
        der = utils.encode_dss_signature(
            int.from_bytes(signature[:half], "big"),
            int.from_bytes(signature[half:], "big"),
        )
        self.public.verify(der, content, ec.ECDSA(hashes.SHA256()))


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> DeviceKey:
    """Read a public key.

    Raises:
        DeviceKeyRefused: It is not the canonical base64 and DER of an Ed25519 or
            P-256 key.
    """
    if len(text) > MAX_CHARACTERS:
        raise DeviceKeyRefused(
            f"a key has at most {MAX_CHARACTERS} characters, got {len(text)}"
        )
    try:
        der = base64.b64decode(text, validate=True)
        public = serialization.load_der_public_key(der)
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise DeviceKeyRefused(
            "a key must be the base64 of a DER SubjectPublicKeyInfo"
        ) from error
    if not isinstance(
        public, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
    ) or not algorithm(public):
        raise DeviceKeyRefused("a key must be of Ed25519 or of P-256")
    key = of(public)
    if key.spki != text:
        raise DeviceKeyRefused("a key must have its one canonical form")
    return key


def of(public: PublicKey) -> DeviceKey:
    """Return the device key of a public key."""
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return DeviceKey(base64.b64encode(der).decode(), public)


def sign(key: PrivateKey, content: bytes) -> bytes:
    """Return a signature, 64 bytes: Ed25519's, or r and s of P-256."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(content)
    der = key.sign(content, ec.ECDSA(hashes.SHA256()))
    half = SIGNATURE_BYTES // 2
    return b"".join(
        number.to_bytes(half, "big") for number in utils.decode_dss_signature(der)
    )


def algorithm(key: PublicKey | PrivateKey) -> str:
    """Return the algorithm of a key's signatures; empty: a curve not taken here."""
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return ED25519
    return ECDSA_P256 if isinstance(key.curve, ec.SECP256R1) else ""
