"""Fuzzers of what proves who calls: keys, signatures, attestations."""

import datetime as dt
import functools
import struct
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.domain import attestation, der
from coordinator.domain.errors import AttestationRefused
from coordinator.protocol import device_keys, digests, signatures
from tests.fuzz import mutations
from tests.fuzz.target import Target
from tests.support import attestation as made

_NOW = made.NOW
_SKEW = dt.timedelta(seconds=300)
_PATH = "/v1/check-ins"
_PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_KEY = device_keys.of(_PRIVATE.public_key())


def _check_signature(data: bytes) -> None:
    """A line a field, as it comes behind the request line."""
    lines = [line.partition(b": ") for line in data.split(b"\n") if line]
    headers = [
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, _, value in lines
    ]
    message = signatures.Message(method="POST", path=_PATH, headers=headers)
    try:
        name = signatures.key_id(message)
        _ = message.sha256
        signature = signatures.verify(message, _KEY, now=_NOW, skew=_SKEW)
    except (
        signatures.SignatureNeeded,
        signatures.SignatureInvalid,
        signatures.SignatureStale,
    ):
        return
    assert len(name) == 64
    assert abs(signature.created - _NOW) <= _SKEW


def _signed() -> Sequence[bytes]:
    requests = []
    for more in ({}, {"Idempotency-Key": "0123"}, {"Content-Encoding": "zstd"}):
        headers = {"Content-Digest": digests.content_digest("ab" * 32), **more}
        fields = signatures.sign(
            _PRIVATE,
            key_name=_KEY.id,
            method="POST",
            path=_PATH,
            headers=headers,
            created=_NOW,
            nonce="0123456789abcdef",
        )
        lines = [f"{name}: {value}" for name, value in {**headers, **fields}.items()]
        requests.append("\n".join(lines).encode())
    return requests


_FIELDS = mutations.text(
    [
        b";created=",
        b";expires=99999999999999999999",
        b";created=-99999999999999",
        b";created=1.5",
        b";created=?1",
        b';nonce=":AAAA:"',
        b";nonce=:AAAA:",
        b";keyid=",
        b';alg="ed25519"',
        b';alg="hmac-sha256"',
        b';tag="x"',
        b'"@query"',
        b'"@query-param";name="x"',
        b'"@target-uri"',
        b'"@status"',
        b'"content-digest";sf',
        b'"content-digest";key="sha-256"',
        b'"content-digest";bs',
        b'"signature";key="shoal"',
        b";req",
        b";tr",
        b"shoal=",
        b"shoal2=(",
        b"()",
        b"(",
        b")",
        b":",
        b"=",
        b", ",
        b'"',
        b"\\",
        b"%",
        b"@1659578233",
        b'%"%c3%bc"',
        b"\nSignature-Input: ",
        b"\nSignature: ",
        b"\nContent-Digest: ",
        b"\xff",
        b"\0",
    ]
)


def _parse_key(data: bytes) -> None:
    try:
        key = device_keys.parse(data.decode("latin-1"))
    except device_keys.DeviceKeyRefused:
        return
    assert device_keys.parse(key.spki) == key
    assert key.algorithm in {device_keys.ED25519, device_keys.ECDSA_P256}


def _keys() -> Sequence[bytes]:
    return [
        _KEY.spki.encode(),
        device_keys.of(made.new_key().public_key()).spki.encode(),
    ]


@functools.cache
def _authorities() -> tuple[made.Authority, made.Authority, made.Private]:
    root = made.authority("root")
    return root, made.authority("between", root), made.new_key()


@functools.cache
def _attestor() -> attestation.AndroidKeyAttestor:
    root, _, _ = _authorities()
    return attestation.AndroidKeyAttestor(
        [root.certificate], least=attestation.Level.SOFTWARE
    )


def _verify_chain(data: bytes) -> None:
    _, _, private = _authorities()
    try:
        attested = _attestor().verify(_split(data), made.key_of(private), now=_NOW)
    except AttestationRefused:
        return
    assert len(attested.challenge) <= attestation.MAX_CERTIFICATE_BYTES


def _chains() -> Sequence[bytes]:
    root, between, private = _authorities()
    described = made.description(b"challenge")
    leaves = [
        made.issue("leaf", private.public_key(), by, ca=False, extension=described)
        for by in (root, between)
    ]
    return [
        _join(made.chain(leaves[0], root.certificate)),
        _join(made.chain(leaves[1], between.certificate)),
    ]


def _split(data: bytes) -> list[bytes]:
    """Undo ``_join``: two bytes of length before each certificate."""
    parts = []
    while len(data) >= 2:
        (size,) = struct.unpack(">H", data[:2])
        parts.append(data[2 : 2 + size])
        data = data[2 + size :]
    return parts


def _join(parts: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(part)) + part for part in parts)


def _one_of_the_chain(data: bytes, rng: np.random.Generator) -> bytes:
    parts = _split(data)
    if not parts or rng.integers(8) == 0:
        return mutations.spoil(data, rng)
    place = int(rng.integers(len(parts)))
    if rng.integers(8) == 0:
        parts.insert(place, parts[int(rng.integers(len(parts)))])
    else:
        parts[place] = mutations.der(parts[place], rng)[:0xFFFF]
    return _join(parts)


def _read_description(data: bytes) -> None:
    try:
        found = attestation.read_description(data)
    except der.MalformedDer:
        return
    assert found.level in attestation.Level
    assert all(purpose >= 0 for purpose in found.purposes)


def _descriptions() -> Sequence[bytes]:
    return [
        made.description(b"challenge" * 20),
        made.description(b"", levels=(0, 0), software=[made.purposes(2)], hardware=()),
    ]


TARGETS = (
    Target(name="signatures", run=_check_signature, seeds=_signed, mutate=_FIELDS),
    Target(name="keys", run=_parse_key, seeds=_keys),
    Target(
        name="attestations",
        run=_verify_chain,
        seeds=_chains,
        mutate=_one_of_the_chain,
    ),
    Target(
        name="descriptions",
        run=_read_description,
        seeds=_descriptions,
        mutate=mutations.der,
    ),
)
