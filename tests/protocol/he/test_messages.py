"""What a device checks before it encrypts, and what binds a result to its key."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coordinator.protocol import device_keys
from coordinator.protocol.he import framing, parameters
from coordinator.protocol.he.messages import (
    ForgedKey,
    KeyStatement,
    MalformedEnvelope,
    SignedKey,
    digest,
    open_envelope,
    seal,
)
from coordinator.protocol.secagg.messages import Session
from coordinator.protocol.secagg.summands import Encoding

AUTHORITY = ed25519.Ed25519PrivateKey.generate()
TRUSTED = AUTHORITY.public_key().public_bytes_raw()
SESSION = Session(
    id="0" * 32,
    task="digits",
    round=1,
    attempt=1,
    model_sha256="1" * 64,
    plan_sha256="2" * 64,
)
ENCODING = Encoding(
    size=3,
    clip_norm=1.0,
    bits=20,
    max_devices=10,
    weighting="examples",
    max_examples=10,
)
STATEMENT = KeyStatement(
    key_id="3" * 32,
    session=digest(SESSION),
    public_sha256="4" * 64,
    degree=parameters.DEGREE,
    modulus=parameters.MODULUS,
    length=8,
    minimum=2,
    noisy=3,
    noise_stddev=1.0,
)
BODY = framing.join([b"a ciphertext"])


def signed(statement: KeyStatement = STATEMENT) -> SignedKey:
    return SignedKey(
        statement=statement, signature=AUTHORITY.sign(statement.signed_bytes())
    )


def test_the_right_key_is_taken() -> None:
    assert signed().insist_for(SESSION, ENCODING, TRUSTED) == STATEMENT


@pytest.mark.parametrize(
    "change",
    [
        {"session": "5" * 64},
        {"degree": 4096},
        {"modulus": 65537},
        {"length": 9},
        {"minimum": 1},
        {"noisy": 2},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_a_key_for_something_else_is_refused(change: dict[str, object]) -> None:
    key = signed(STATEMENT.model_copy(update=change))
    with pytest.raises(ForgedKey):
        key.insist_for(SESSION, ENCODING, TRUSTED)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "6" * 32},
        {"task": "other"},
        {"round": 2},
        {"attempt": 2},
        {"model_sha256": "7" * 64},
        {"plan_sha256": "8" * 64},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_a_key_is_for_one_round_model_and_plan(change: dict[str, object]) -> None:
    with pytest.raises(ForgedKey, match="another round, model or plan"):
        signed().insist_for(SESSION.model_copy(update=change), ENCODING, TRUSTED)


def test_nobody_elses_signature_is_taken() -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    forged = SignedKey(
        statement=STATEMENT, signature=other.sign(STATEMENT.signed_bytes())
    )
    changed = signed().model_copy(
        update={"statement": STATEMENT.model_copy(update={"public_sha256": "9" * 64})}
    )
    for wrong in (forged, changed):
        with pytest.raises(ForgedKey, match="not signed by the trusted authority"):
            wrong.insist_for(SESSION, ENCODING, TRUSTED)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["P-256", "Ed25519"],
)
def test_a_result_is_bound_to_device_key_session_and_bytes(
    key: device_keys.PrivateKey,
) -> None:
    spki = device_keys.of(key.public_key()).spki
    body = seal(BODY, STATEMENT, key)
    found = open_envelope(memoryview(body), spki, STATEMENT)
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()
    found.insist_signed(STATEMENT.key_id, STATEMENT.session)

    other = device_keys.of(ed25519.Ed25519PrivateKey.generate().public_key()).spki
    for wrong in (
        (body[:-1] + b"x", spki, STATEMENT),
        (b"x" + body[1:], spki, STATEMENT),
        (body[:72], spki, STATEMENT),
        (body, other, STATEMENT),
        (body, spki, STATEMENT.model_copy(update={"key_id": "a" * 32})),
        (body, spki, STATEMENT.model_copy(update={"session": "b" * 64})),
        (seal(BODY + b"x", STATEMENT, key), spki, STATEMENT),
    ):
        with pytest.raises(MalformedEnvelope):
            open_envelope(memoryview(wrong[0]), wrong[1], wrong[2])
