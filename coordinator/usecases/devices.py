"""Enrol devices, list them, revoke them."""

import dataclasses
import datetime as dt
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from coordinator.domain.assignments import State
from coordinator.domain.attestation import Attested
from coordinator.domain.audit import Decision
from coordinator.domain.challenges import DRAWN_BYTES, Challenges
from coordinator.domain.devices import Device
from coordinator.domain.errors import (
    AttestationNeeded,
    AttestationNotAsked,
    ChallengeUnknown,
    DeviceKeyNeeded,
    DeviceRevoked,
    EnrolmentTokenNeeded,
    EnrolmentTokenRefused,
)
from coordinator.domain.events import Happening
from coordinator.protocol.device_keys import DeviceKey
from coordinator.protocol.signatures import Signature
from coordinator.store import assignments, audit, devices, enrolment, events, rounds
from coordinator.store.engine import Store, Transaction
from coordinator.usecases import access
from coordinator.usecases.access import token_hash

CHALLENGE_VALID: Final = dt.timedelta(minutes=10)


class Attestor(Protocol):
    """Judges the attestation that comes with a device's key."""

    def verify(
        self, chain: Sequence[bytes], key: DeviceKey, *, now: dt.datetime
    ) -> Attested:
        """Return what a chain, leaf first, vouches for.

        Raises:
            AttestationRefused: It does not vouch for ``key``.
        """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Who may enrol. The default is anyone."""

    needs_token: bool = False
    needs_key: bool = False
    attestor: Attestor | None = None
    challenges: Challenges | None = None  #: that attestations answer

    def __post_init__(self) -> None:
        """Insist that who judges attestations can tell what they answer."""
        if (self.attestor is None) != (self.challenges is None):
            raise ValueError("an attestor and its challenges come together")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A device that wants to enrol."""

    name: str | None = None
    capabilities: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    enrolment_token: str | None = dataclasses.field(default=None, repr=False)
    key: DeviceKey | None = None
    signature: Signature | None = None  #: with that key, checked
    skew: dt.timedelta = dt.timedelta()  #: allowed between the two clocks
    attestation: Sequence[bytes] = ()  #: DER certificates, leaf first


ANYONE: Final = Admission()


def enrol(
    store: Store,
    applicant: Applicant,
    *,
    now: dt.datetime,
    admission: Admission = ANYONE,
) -> tuple[Device, str]:
    """Enrol a device. Returns it and its token, which is shown this once.

    A device whose key is enrolled already is the same device again, with a new token:
    the answer to its first enrolment was lost. That costs no use of its enrolment
    token.

    Raises:
        DeviceKeyNeeded, AttestationNeeded, EnrolmentTokenNeeded: It comes without.
        AttestationRefused, ChallengeUnknown, EnrolmentTokenRefused: With a wrong one.
        DeviceRevoked: Its key is that of a device that is revoked.
        SignatureReplayed: The request came before.
    """
    key = applicant.key
    if key is None and admission.needs_key:
        raise DeviceKeyNeeded("public_key must be sent")
    token = secrets.token_urlsafe(32)

    def body(tx: Transaction) -> Device:
        known = None if key is None else devices.with_key(tx, key.id)
        if known is not None:
            if known.revoked_at is not None:
                raise DeviceRevoked(known.id)
            _spend(tx, known.id, applicant, now)
            devices.replace_token(tx, known.id, token_hash=token_hash(token))
            audit.append(tx, Decision.DEVICE_ENROLLED_AGAIN, now=now, subject=known.id)
            return known
        by = _admit(tx, applicant, now) if admission.needs_token else None
        level = None if key is None else _attest(tx, applicant, key, admission, now)
        device = Device(
            id=secrets.token_hex(16),
            name=applicant.name,
            capabilities=applicant.capabilities,
            enrolled_at=now,
            public_key=None if key is None else key.spki,
            attestation=level,
        )
        devices.insert(tx, device, token_hash=token_hash(token))
        _spend(tx, device.id, applicant, now)
        events.append(tx, Happening.DEVICE_ENROLLED, now=now, device=device.id)
        audit.append(tx, Decision.DEVICE_ENROLLED, now=now, subject=device.id, by=by)
        if level is not None:
            audit.append(
                tx, Decision.KEY_ATTESTED, now=now, subject=device.id, reason=level
            )
        return device

    return store.run("enrol", body), token


def _spend(
    tx: Transaction, device_id: str, applicant: Applicant, now: dt.datetime
) -> None:
    """Let the enrolment's signature count once: a copy would get the next token."""
    if applicant.signature is not None:
        access.spend_nonce(
            tx, device_id, applicant.signature, now=now, skew=applicant.skew
        )


def _admit(tx: Transaction, applicant: Applicant, now: dt.datetime) -> str:
    """Use the enrolment token up by one device. Returns its id."""
    if applicant.enrolment_token is None:
        raise EnrolmentTokenNeeded("enrolment_token must be sent")
    found = enrolment.token_with_hash(tx, token_hash(applicant.enrolment_token))
    if found is None:
        raise EnrolmentTokenRefused("no enrolment token is this one")
    fault = found.fault(now)
    if fault is not None:
        raise EnrolmentTokenRefused(f"enrolment token {found.id} {fault}")
    enrolment.use_token(tx, found)
    return found.id


def _attest(
    tx: Transaction,
    applicant: Applicant,
    key: DeviceKey,
    admission: Admission,
    now: dt.datetime,
) -> str | None:
    """Judge the attestation and use its challenge up.

    Returns:
        The security level, or none where no attestation is asked for.
    """
    if admission.attestor is None or admission.challenges is None:
        return None
    if not applicant.attestation:
        raise AttestationNeeded("attestation must be sent")
    attested = admission.attestor.verify(applicant.attestation, key, now=now)
    expires_at = admission.challenges.expiry(attested.challenge)
    if expires_at is None or expires_at <= now:
        raise ChallengeUnknown("the challenge is unknown or expired")
    # Kept for longer than it can be used, even where the clocks of processes differ.
    enrolment.forget_challenges(tx, expired_by=now - CHALLENGE_VALID)
    sha256 = hashlib.sha256(attested.challenge).hexdigest()
    if not enrolment.spend_challenge(tx, sha256, expires_at=expires_at):
        raise ChallengeUnknown("the challenge was used before")
    return attested.level


def open_challenge(
    admission: Admission, *, now: dt.datetime
) -> tuple[bytes, dt.datetime]:
    """Draw what an attestation has to answer. Returns it and when it expires.

    Raises:
        AttestationNotAsked: Nobody would judge the answer.
    """
    if admission.challenges is None:
        raise AttestationNotAsked("this coordinator asks for no attestation")
    expires_at = (now + CHALLENGE_VALID).replace(microsecond=0)
    drawn = secrets.token_bytes(DRAWN_BYTES)
    return admission.challenges.make(drawn, expires_at=expires_at), expires_at


def revoke(store: Store, device_id: str, *, by: str, now: dt.datetime) -> dt.datetime:
    """Shut a device out and free its place; again is no change. Returns when.

    Raises:
        DeviceUnknown: No device has this id.
    """
    return store.run(
        "revoke_device", lambda tx: shut_out(tx, device_id, by=by, now=now)
    )


def shut_out(
    tx: Transaction, device_id: str, *, by: str, now: dt.datetime
) -> dt.datetime:
    """Do what ``revoke`` does, within a transaction."""
    revoked_at = devices.revoked_at(tx, device_id)
    if revoked_at is not None:
        return revoked_at
    devices.revoke(tx, device_id, now=now)
    audit.append(tx, Decision.DEVICE_REVOKED, now=now, subject=device_id, by=by)
    held = assignments.leased_by(tx, device_id)
    if held is not None:
        assignments.end(tx, held.ended(State.LAPSED, now=now))
        events.append_of(
            tx,
            Happening.LEASE_LAPSED,
            rounds.peek(tx, held.round_id),
            now=now,
            device=device_id,
            assignment=held.id,
        )
    return now


def list_devices(store: Store, *, limit: int) -> list[tuple[Device, int]]:
    """Return devices, newest first, each with its number of accepted results."""
    return store.read(lambda tx: devices.newest(tx, limit=limit))
