"""What devices of a cohort and the coordinator tell each other. Bytes are base64.

In the order in which they travel: a device's ``Announcement``; the ``Roster`` back;
its ``Dealing`` of shares; the ``Inbox`` with those of others; its masked vector, which
is no JSON but raw little-endian uint32; the ``Survivors`` back; its ``Reveal``.
"""

import base64
import binascii
import functools
import hashlib
import struct
from typing import Annotated, Final, Literal

import pydantic
from pydantic import AwareDatetime, Field

from coordinator.protocol.device_keys import MAX_CHARACTERS
from coordinator.protocol.manifest import Name, Record, Request, Sha256, example
from coordinator.protocol.messages import Id
from coordinator.protocol.secagg.parameters import MAX_DEVICES, MIN_DEVICES
from coordinator.protocol.secagg.summands import Encoding

SEALED_BYTES: Final = 94  #: nonce, two shares, tag
_DOMAIN: Final = b"shoal/secagg/1/"


def _decode(size: int, value: object) -> object:
    if not isinstance(value, str):
        return value  # bytes, from this side; anything else is refused below
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"must be the base64 of {size} bytes") from error
    if len(content) != size or base64.b64encode(content).decode() != value:
        raise ValueError(f"must be the base64 of {size} bytes, in canonical form")
    return content


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _schema(pattern: str) -> pydantic.WithJsonSchema:
    return pydantic.WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


# The last character of base64 that is not full may be one of few.
Bytes32 = Annotated[
    bytes,
    Field(min_length=32, max_length=32),
    pydantic.BeforeValidator(functools.partial(_decode, 32)),
    pydantic.PlainSerializer(_encode),
    _schema("[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="),
]
Share = Annotated[
    bytes,
    Field(min_length=33, max_length=33),
    pydantic.BeforeValidator(functools.partial(_decode, 33)),
    pydantic.PlainSerializer(_encode),
    _schema("[A-Za-z0-9+/]{44}"),
]
Signature = Annotated[
    bytes,
    Field(min_length=64, max_length=64),
    pydantic.BeforeValidator(functools.partial(_decode, 64)),
    pydantic.PlainSerializer(_encode),
    _schema("[A-Za-z0-9+/]{85}[AQgw]=="),
]
Sealed = Annotated[
    bytes,
    Field(min_length=SEALED_BYTES, max_length=SEALED_BYTES),
    pydantic.BeforeValidator(functools.partial(_decode, SEALED_BYTES)),
    pydantic.PlainSerializer(_encode),
    _schema("[A-Za-z0-9+/]{125}[AQgw]=="),
]
Index = Annotated[int, Field(ge=0, lt=MAX_DEVICES, description="Place in the cohort.")]


def hashed(purpose: str, *fields: bytes) -> bytes:
    """Return SHA-256 of fields, each behind its length, for one purpose."""
    digest = hashlib.sha256(_DOMAIN + purpose.encode())
    for field in fields:
        digest.update(struct.pack(">I", len(field)) + field)
    return digest.digest()


class Session(Record):
    """One gathering of devices, and what they trained. Another try has another id."""

    id: Id = Field(description="A device gives its keys once for each.")
    task: Name
    round: int = Field(ge=1, lt=2**31, description="Number within the task.")
    attempt: int = Field(ge=1, lt=2**31, description="Attempt at that round.")
    model_sha256: Sha256 = Field(description="Of the weights that they started from.")
    plan_sha256: Sha256 = Field(description="Of the plan that they followed.")

    def fields(self) -> tuple[bytes, ...]:
        """Return what is hashed of it."""
        return (
            bytes.fromhex(self.id),
            self.task.encode(),
            struct.pack(">II", self.round, self.attempt),
            bytes.fromhex(self.model_sha256),
            bytes.fromhex(self.plan_sha256),
        )


class Announcement(Request):
    """A device joins: two fresh X25519 keys, signed where it has a device key."""

    model_config = example(
        sharing_key="CwX2bG0dZoGZb9bVt2BvJS4C9vQWCAgH3LhVv0EqV3o=",
        masking_key="3n2jb9cXkQYVw9U2c6Yw0gVx4pGZ9HqDgI1mJ1c7yGQ=",
        signature=None,
    )

    sharing_key: Bytes32 = Field(description="Agrees on keys that seal shares.")
    masking_key: Bytes32 = Field(description="Agrees on masks.")
    signature: Signature | None = Field(
        None,
        description="Of session, device and both keys by the device key: Ed25519, or "
        "P-256 as r and s.",
    )


class Member(Record):
    """A device of a cohort, as it announced itself."""

    device: Id = Field(description="Names the device.")
    identity: str | None = Field(
        max_length=MAX_CHARACTERS,
        description="Its device key: base64 of the DER SubjectPublicKeyInfo.",
    )
    announcement: Announcement

    @functools.cached_property
    def digest(self) -> bytes:
        """What stands for it in the list of keys; members are in its order.

        The signature is not in it: of one content, P-256 has many.
        """
        return hashed(
            "member",
            bytes.fromhex(self.device),
            (self.identity or "").encode(),
            self.announcement.sharing_key,
            self.announcement.masking_key,
        )


class CohortManifest(Record):
    """What all devices of a cohort must have been told alike.

    Its digest goes into every key that they derive: who was told otherwise can open no
    share, and its masks do not cancel.
    """

    cohort: Id = Field(description="Names it in the history.")
    session: Session
    devices: int = Field(
        ge=MIN_DEVICES, le=MAX_DEVICES, description="How many are in it."
    )
    minimum: int = Field(
        ge=MIN_DEVICES, le=MAX_DEVICES, description="Survivors that a sum is made of."
    )
    degree: int = Field(ge=2, lt=MAX_DEVICES, description="Neighbours of each device.")
    threshold: int = Field(
        ge=2, lt=MAX_DEVICES, description="Shares that rebuild a secret."
    )
    signed: bool = Field(description="Whether every device's keys are signed.")
    encoding: Encoding
    roster_sha256: Sha256 = Field(description="Of the digests of all members.")

    @functools.cached_property
    def digest(self) -> bytes:
        """What keys are bound to."""
        return hashed(
            "manifest",
            bytes.fromhex(self.cohort),
            *self.session.fields(),
            struct.pack(
                ">IIII?",
                self.devices,
                self.minimum,
                self.degree,
                self.threshold,
                self.signed,
            ),
            self.encoding.packed(),
            bytes.fromhex(self.roster_sha256),
        )


class Neighbour(Record):
    """A member that a device shares masks with."""

    index: Index
    member: Member


class Roster(Record):
    """The cohort, as one of its devices is told of it."""

    manifest: CohortManifest
    index: Index
    digests: tuple[Bytes32, ...] = Field(
        max_length=MAX_DEVICES,
        description="Of every member, by index, in rising order.",
    )
    neighbours: tuple[Neighbour, ...] = Field(
        max_length=MAX_DEVICES, description="In rising order of their indices."
    )


class SealedShares(Request):
    """A share of both secrets of one device for one other, which alone can open it."""

    peer: Index = Field(description="In a dealing, whom it is for; in an inbox, whose.")
    sealed: Sealed = Field(
        repr=False, description="AES-256-GCM: nonce, ciphertext of 66 bytes, tag."
    )


class Dealing(Request):
    """A device's shares for all of its neighbours."""

    model_config = example(
        shares=[
            {
                "peer": 3,
                "sealed": "A" * 126 + "==",
            }
        ]
    )

    shares: tuple[SealedShares, ...] = Field(
        max_length=MAX_DEVICES,
        strict=False,  # JSON has lists and no tuples
        description="In rising order of peers.",
    )

    def packed(self) -> bytes:
        """Return the sealed shares one after the other, as the coordinator keeps them.

        For whom they are follows from who dealt them.
        """
        return b"".join(each.sealed for each in self.shares)


class Inbox(Record):
    """The shares of those neighbours that dealt: mask with these and no others."""

    shares: tuple[SealedShares, ...] = Field(
        max_length=MAX_DEVICES, description="In rising order of peers."
    )


class Survivors(Record):
    """Whose masked vectors are in the sum. All others of an inbox vanished."""

    indices: tuple[Index, ...] = Field(
        max_length=MAX_DEVICES, description="Of the whole cohort, in rising order."
    )


Secret = Literal["own_mask", "masking_key"]


class RevealedShare(Request):
    """A share of one secret of one device."""

    peer: Index
    of: Secret = Field(description="Which of its secrets this is a share of.")
    share: Share = Field(repr=False, description="Big-endian, modulo 2**256 + 297.")


class Reveal(Request):
    """Of each survivor the share of its own mask, of each other that of its key."""

    model_config = example(
        shares=[
            {
                "peer": 3,
                "of": "own_mask",
                "share": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            }
        ]
    )

    shares: tuple[RevealedShare, ...] = Field(
        max_length=MAX_DEVICES,
        strict=False,  # JSON has lists and no tuples
        description="In rising order of peers.",
    )


class Joined(Record):
    """The device is in the round. Its keys count; it must not make others for it."""

    assignment: Id
    joined_at: AwareDatetime = Field(description="From then on it has no lease.")


class _Answer(Record):
    """What was asked for, or how long to wait."""

    retry_after_s: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="Seconds to the next question; absent with an answer.",
    )


class RosterAnswer(_Answer):
    """The device's cohort, once it is formed."""

    roster: Roster | None


class InboxAnswer(_Answer):
    """The neighbours' shares, once all have dealt that will."""

    inbox: Inbox | None


class SurvivorsAnswer(_Answer):
    """Whose vectors are summed, once all have come that will."""

    survivors: Survivors | None
