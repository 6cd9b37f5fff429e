"""Chains of Android key attestation, good ones and others, under roots of our own."""

import dataclasses
import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.domain.attestation import EXTENSION
from coordinator.protocol import device_keys

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
YEAR = dt.timedelta(days=365)
Private = ec.EllipticCurvePrivateKey


def der(identifier: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 128:
        return identifier + bytes([len(content)]) + content
    return identifier + b"\x82" + len(content).to_bytes(2, "big") + content


def integer(value: int) -> bytes:
    return der(b"\x02", value.to_bytes(value.bit_length() // 8 + 1, "big"))


def enumerated(value: int) -> bytes:
    return der(b"\x0a", bytes([value]))


def octets(content: bytes) -> bytes:
    return der(b"\x04", content)


def purposes(*values: int) -> bytes:
    return der(b"\xa1", der(b"\x31", *map(integer, values)))


def origin(value: int) -> bytes:
    return der(b"\xbf\x85\x3e", integer(value))  # [702]


def description(
    challenge: bytes,
    *,
    levels: tuple[int, int] = (1, 1),
    software: Sequence[bytes] = (),
    hardware: Sequence[bytes] = (purposes(2, 3), origin(0)),
    version: bytes = integer(200),
    more: bytes = b"",
) -> bytes:
    """What the leaf says of its key, KeyDescription of the schema."""
    return der(
        b"\x30",
        version,
        enumerated(levels[0]),
        integer(200),
        enumerated(levels[1]),
        octets(challenge),
        octets(b""),
        der(b"\x30", *software),
        der(b"\x30", *hardware),
        more,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate that may issue others, and its key."""

    certificate: x509.Certificate
    private: Private


def issue(
    subject: str,
    public: ec.EllipticCurvePublicKey,
    by: Authority | Private,
    *,
    issuer: str | None = None,
    ca: bool = True,
    path_length: int | None = None,
    may_issue: bool = True,
    signs: bool = True,
    extension: bytes | None = None,
    begins: dt.datetime = NOW - YEAR,
    ends: dt.datetime = NOW + YEAR,
) -> x509.Certificate:
    """Issue a certificate."""
    private = by.private if isinstance(by, Authority) else by
    names = by.certificate.subject if isinstance(by, Authority) else name(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(names if issuer is None else name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs,
                key_cert_sign=ca and may_issue,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=not signs,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if ca:
        basic = x509.BasicConstraints(ca=True, path_length=path_length)
        builder = builder.add_extension(basic, critical=True)
    if extension is not None:
        unknown = x509.UnrecognizedExtension(EXTENSION, extension)
        builder = builder.add_extension(unknown, critical=False)
    return builder.sign(private, hashes.SHA256())


def authority(
    subject: str, by: Authority | None = None, **details: object
) -> Authority:
    """Make a root, or what another authority lets issue."""
    private = new_key()
    certificate = issue(subject, private.public_key(), by or private, **details)  # type: ignore[arg-type]
    return Authority(certificate=certificate, private=private)


def new_key() -> Private:
    return ec.generate_private_key(ec.SECP256R1())


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def chain(*certificates: x509.Certificate) -> list[bytes]:
    return [each.public_bytes(serialization.Encoding.DER) for each in certificates]


def key_of(private: Private) -> device_keys.DeviceKey:
    return device_keys.of(private.public_key())
