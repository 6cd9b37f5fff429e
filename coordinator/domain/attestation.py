"""Attestation of device keys: does a chain of certificates vouch for a key?

Decided here, for Android: each certificate is issued by the next and the last by a
configured root; all are valid now; who issues is a certification authority, may sign
certificates, and stays within its path length; only the leaf states how its key is
kept; that key is the device's; it was generated there, may sign, and is kept at the
level that is asked for. Whether the challenge is one of ours is the caller's to check.

NOTE: Lists of revoked attestation keys are not fetched.

Source: Android Open Source Project, "Key and ID attestation" (schema versions 1 to 4
and 100 to 400); RFC 5280, section 6.1.
"""

import dataclasses
import datetime as dt
import enum
import itertools
from collections.abc import Sequence
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from coordinator.domain import der
from coordinator.domain.errors import AttestationRefused
from coordinator.protocol.device_keys import DeviceKey

EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.17")
E = TypeVar("E", bound=x509.ExtensionType)
MAX_CHAIN: Final = 10
MAX_CERTIFICATE_BYTES: Final = 9_000
_FIELDS: Final = (
    der.INTEGER,  # attestationVersion
    der.ENUMERATED,  # attestationSecurityLevel
    der.INTEGER,  # keyMintVersion
    der.ENUMERATED,  # keyMintSecurityLevel
    der.OCTET_STRING,  # attestationChallenge
    der.OCTET_STRING,  # uniqueId
    der.SEQUENCE,  # softwareEnforced
    der.SEQUENCE,  # hardwareEnforced
)
#: What the library raises of a certificate, when it is parsed or looked into.
_MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_PURPOSE: Final = 1
_ORIGIN: Final = 702
_PURPOSE_SIGN: Final = 2
_ORIGIN_GENERATED: Final = 0


class Level(enum.IntEnum):
    """How well a key is kept. The value is the schema's."""

    SOFTWARE = 0
    TEE = 1
    STRONGBOX = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What a chain of certificates vouches for."""

    level: str  #: how well the key is kept
    challenge: bytes  #: that it was made in answer to


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyDescription:
    """What the leaf states of its key."""

    level: Level  #: the lower one of the attestation's and the key's
    challenge: bytes
    purposes: frozenset[int]
    origin: int | None


class AndroidKeyAttestor:
    """Judges chains of Android key attestation."""

    def __init__(self, roots: Sequence[x509.Certificate], *, least: Level) -> None:
        """Trust ``roots``, and keys that are kept at ``least`` or better."""
        self._roots = {_spki(root): root for root in roots}
        self._least = least

    def verify(
        self, chain: Sequence[bytes], key: DeviceKey, *, now: dt.datetime
    ) -> Attested:
        """Return what a chain, leaf first, vouches for.

        Raises:
            AttestationRefused: It does not vouch for ``key``.
        """
        certificates = _parse(chain)
        try:
            self._insist_trusted(certificates, now)
            described = _describe(certificates)
            attested_key = _spki(certificates[0])
        except _MALFORMED as error:
            raise AttestationRefused("a certificate is malformed") from error
        if attested_key != _spki_of(key):
            raise AttestationRefused("the leaf is of another key")
        if described.level < self._least:
            raise AttestationRefused(
                f"the key is kept at level {described.level.name.lower()}"
            )
        if _PURPOSE_SIGN not in described.purposes:
            raise AttestationRefused("the key may not sign")
        if described.origin != _ORIGIN_GENERATED:
            raise AttestationRefused("the key was not generated where it is kept")
        return Attested(
            level=described.level.name.lower(), challenge=described.challenge
        )

    def _insist_trusted(
        self, certificates: Sequence[x509.Certificate], now: dt.datetime
    ) -> None:
        """Insist that the chain leads to a root, each link being allowed to."""
        leaf, *issuers = certificates
        if issuers and _spki(issuers[-1]) in self._roots:
            issuers.pop()  # the root itself, possibly issued anew with the same key
        last = issuers[-1] if issuers else leaf
        root = next(
            (
                root
                for root in self._roots.values()
                if root.subject == last.issuer and _is_issued_by(last, root)
            ),
            None,
        )
        if root is None:
            raise AttestationRefused("the chain ends at no root that is trusted here")
        path = [leaf, *issuers, root]
        for place, (certificate, issuer) in enumerate(itertools.pairwise(path)):
            if not _is_issued_by(certificate, issuer):
                raise AttestationRefused("a certificate is not issued by the next")
            _insist_may_issue(issuer, below=place)
        for certificate in path:
            if not (
                certificate.not_valid_before_utc
                <= now
                <= certificate.not_valid_after_utc
            ):
                raise AttestationRefused("a certificate is not valid now")
        usage = _extension(leaf, x509.KeyUsage)
        if usage is None or not usage.digital_signature:
            raise AttestationRefused("the leaf's key usage is not to sign")


def read_roots(pem: bytes) -> list[x509.Certificate]:
    """Read root certificates.

    Raises:
        ValueError: There is none, or one is malformed.
    """
    return x509.load_pem_x509_certificates(pem)


def read_description(content: bytes) -> KeyDescription:
    """Read the extension that describes an attested key.

    Raises:
        MalformedDer: It is not of the schema.
    """
    fields = der.read(content, der.SEQUENCE).children()
    if tuple(field.identifier for field in fields) != _FIELDS:
        raise der.MalformedDer("the description's fields are not the schema's")
    levels = [fields[1].whole(), fields[3].whole()]
    if not all(level in set(Level) for level in levels):
        raise der.MalformedDer(f"security levels must be 0 to 2, got {levels}")
    level = Level(min(levels))
    # What software merely promises counts only where software is good enough.
    enforced = [fields[7]] if level else [fields[6], fields[7]]
    tagged = [each for list_ in enforced for each in _authorizations(list_)]
    origins = [
        each.only_child(der.INTEGER).whole()
        for each in tagged
        if each.number == _ORIGIN
    ]
    if len(origins) > 1:
        raise der.MalformedDer("a key has one origin")
    return KeyDescription(
        level=level,
        challenge=fields[4].content,
        purposes=frozenset(
            purpose
            for each in tagged
            if each.number == _PURPOSE
            for purpose in _whole_numbers(each.only_child(der.SET))
        ),
        origin=origins[0] if origins else None,
    )


def _authorizations(list_: der.Element) -> list[der.Element]:
    tagged = list_.children()
    numbers = [each.number for each in tagged]
    if not all(map(der.is_explicit, tagged)) or numbers != sorted(set(numbers)):
        raise der.MalformedDer(
            "authorizations must have explicit tags, each once and in order"
        )
    return tagged


def _whole_numbers(set_: der.Element) -> list[int]:
    values = set_.children()
    if any(value.identifier != der.INTEGER for value in values):
        raise der.MalformedDer("purposes must be whole numbers")
    return [value.whole() for value in values]


def _parse(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise AttestationRefused(f"a chain has 1 to {MAX_CHAIN} certificates")
    if any(len(content) > MAX_CERTIFICATE_BYTES for content in chain):
        raise AttestationRefused(
            f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes"
        )
    try:
        return [x509.load_der_x509_certificate(content) for content in chain]
    except _MALFORMED as error:
        raise AttestationRefused("a certificate is malformed") from error


def _describe(certificates: Sequence[x509.Certificate]) -> KeyDescription:
    """Read the leaf's description; an issuer's would let its key vouch for others."""
    leaf, *issuers = certificates
    for issuer in issuers:
        if any(extension.oid == EXTENSION for extension in issuer.extensions):
            raise AttestationRefused("an issuer is an attested key itself")
    try:
        extension = leaf.extensions.get_extension_for_oid(EXTENSION).value
    except x509.ExtensionNotFound as error:
        raise AttestationRefused("the leaf does not describe its key") from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise TypeError(type(extension))
    return read_description(extension.value)


def _insist_may_issue(issuer: x509.Certificate, *, below: int) -> None:
    """Insist that a certificate may issue others, ``below`` authorities among them."""
    basic = _extension(issuer, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise AttestationRefused("an issuer is no certification authority")
    if basic.path_length is not None and below > basic.path_length:
        raise AttestationRefused("the chain is longer than an issuer allows")
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise AttestationRefused("an issuer may not sign certificates")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_MALFORMED, InvalidSignature):
        return False
    return True


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _spki_of(key: DeviceKey) -> bytes:
    return key.public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
