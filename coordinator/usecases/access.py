"""Who calls, and whether they may: devices by token or by signature, operators."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Final

from coordinator.domain.audit import Refusals
from coordinator.domain.devices import Device, Operator, Role
from coordinator.domain.errors import (
    BodyNotSigned,
    DeviceRevoked,
    Forbidden,
    SignatureReplayed,
    TooManySignatures,
    Unauthenticated,
)
from coordinator.protocol import device_keys, digests, signatures
from coordinator.protocol.device_keys import DeviceKey
from coordinator.protocol.signatures import Signature, SignatureInvalid
from coordinator.store import audit, devices, enrolment
from coordinator.store.engine import Store, Transaction

MAX_NONCES: Final = 5_000  #: of one device, within the time that they are remembered


def token_hash(token: str) -> str:
    """Return what is stored of a token: its SHA-256, 64 hex digits.

    Tokens are 32 uniform bytes, so a plain hash cannot be searched backwards.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def authenticate_device(store: Store, token: str | None) -> str:
    """Return the id of the device that bears ``token``.

    Raises:
        Unauthenticated: The token is missing or unknown.
        DeviceRevoked: It is that of a device that is revoked.
    """
    if token is None:
        raise Unauthenticated("no bearer token was sent")
    hashed = token_hash(token)
    found = store.read(lambda tx: devices.with_token(tx, hashed))
    if found is None:
        raise Unauthenticated("no device has this token")
    device_id, is_revoked = found
    if is_revoked:
        raise DeviceRevoked(device_id)
    return device_id


def is_of_a_device(store: Store, token: str) -> bool:
    """Return whether a token is a device's, revoked or not."""
    hashed = token_hash(token)
    return store.read(lambda tx: devices.with_token(tx, hashed)) is not None


def find_signer(store: Store, message: signatures.Message) -> Device:
    """Return the device whose key a request says it was signed with.

    Raises:
        SignatureNeeded, SignatureInvalid: There is no signature that says so.
        Unauthenticated: No device has this key.
    """
    key_id = signatures.key_id(message)
    device = store.read(lambda tx: devices.with_key(tx, key_id))
    if device is None or device.erased_at is not None:
        raise Unauthenticated("no device has this key")
    return device


def authenticate_signature(
    store: Store,
    device: Device,
    message: signatures.Message,
    *,
    body: bytes | None,
    now: dt.datetime,
    skew: dt.timedelta,
) -> None:
    """Insist that a device signed a request, and let the signature count once.

    Args:
        store: The database.
        device: Whose key it names.
        message: What the signature covers.
        body: The request's body; None: it is compared with its digest as it comes.
        now: The present moment.
        skew: How far the device's clock may be off.

    Raises:
        SignatureInvalid, SignatureStale, BodyNotSigned: As their names say.
        DeviceRevoked: The device is revoked.
        SignatureReplayed: The request came before.
        TooManySignatures: More came than may be remembered.
    """
    if device.public_key is None:
        raise AssertionError("a signer has a key")
    key = device_keys.parse(device.public_key)
    signature = check_signature(message, key, body=body, now=now, skew=skew)
    if device.revoked_at is not None:
        raise DeviceRevoked(device.id)
    store.run(
        "spend_nonce",
        lambda tx: spend_nonce(tx, device.id, signature, now=now, skew=skew),
    )


def check_signature(
    message: signatures.Message,
    key: DeviceKey,
    *,
    body: bytes | None,
    now: dt.datetime,
    skew: dt.timedelta,
) -> Signature:
    """Return the signature of a request and its body.

    Raises:
        SignatureNeeded, SignatureInvalid, SignatureStale, BodyNotSigned: As their
            names say.
    """
    if signatures.key_id(message) != key.id:
        raise SignatureInvalid("keyid is another key's")
    signature = signatures.verify(message, key, now=now, skew=skew)
    if body is not None and digests.sha256_hex(body) != message.sha256:
        raise BodyNotSigned("the body has another digest than was signed")
    return signature


def spend_nonce(
    tx: Transaction,
    device_id: str,
    signature: Signature,
    *,
    now: dt.datetime,
    skew: dt.timedelta,
) -> None:
    """Let a signature of a device count, once.

    Its nonce is kept for longer than it can be used, even where the clocks of several
    API processes differ.

    Raises:
        SignatureReplayed: It has counted before.
        TooManySignatures: As many are remembered of the device as may be.
    """
    kept, is_known = enrolment.nonces_of(tx, device_id, signature.nonce, now=now)
    if is_known:
        raise SignatureReplayed("the nonce was used before")
    if kept >= MAX_NONCES:
        raise TooManySignatures(f"{kept} nonces of the device are remembered")
    enrolment.spend_nonce(
        tx, device_id, signature.nonce, forget_at=signature.created + 2 * skew
    )


def authorize(store: Store, token: str | None, role: Role) -> Operator:
    """Return the operator that bears ``token``, who may do what needs ``role``.

    Raises:
        Unauthenticated: The token is missing, unknown or revoked.
        Forbidden: It is a device's, or that of an operator with a lesser role.
    """
    if token is None:
        raise Unauthenticated("no bearer token was sent")
    hashed = token_hash(token)

    def body(tx: Transaction) -> tuple[Operator | None, tuple[str, bool] | None]:
        operator = devices.operator_with_token(tx, hashed)
        return operator, devices.with_token(tx, hashed)

    operator, device = store.read(body)
    if device is not None:
        raise Forbidden("a device may not operate the coordinator", device[0])
    if operator is None or operator.revoked_at is not None:
        raise Unauthenticated("no operator has this token")
    if not operator.may(role):
        raise Forbidden(
            f"this needs role {role}, the operator has {operator.role}", operator.id
        )
    return operator


def note_refusals(store: Store, refusals: Sequence[Refusals]) -> None:
    """Keep in the audit log who was refused."""

    def body(tx: Transaction) -> None:
        # In one order, whichever process writes: two never wait for each other.
        for each in sorted(refusals, key=lambda r: (r.minute, r.reason, r.subject)):
            audit.refuse(tx, each)

    store.run("note_refusals", body)


def forget_nonces(store: Store, *, now: dt.datetime) -> None:
    """Forget nonces that no signature can use any more."""
    store.run("forget_nonces", lambda tx: enrolment.forget_nonces(tx, now))
