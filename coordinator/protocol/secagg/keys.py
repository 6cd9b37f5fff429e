"""Keys of one session: made, signed by a device's identity, agreed on with a neighbour.

Two X25519 pairs a device and session: one agrees on what seals shares, the other on
masks, so that revealing the latter opens no share. Every derived key is bound to its
purpose, to the cohort's manifest and to the two indices.

Source: RFC 7748 (X25519); RFC 5869 (HKDF); RFC 8032 (Ed25519).
"""

from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.protocol import device_keys
from coordinator.protocol.device_keys import PrivateKey
from coordinator.protocol.secagg.messages import Announcement, Member, Session, hashed
from coordinator.protocol.secagg.refusals import KeysRefused

Private: TypeAlias = x25519.X25519PrivateKey
KEY_BYTES: Final = 32
_NUMBER_BYTES: Final = 32  # r and s of a P-256 signature
_SEALING: Final = b"shoal/secagg/1/sealing"
_PAIR_MASK: Final = b"shoal/secagg/1/pair-mask"
_OWN_MASK: Final = b"shoal/secagg/1/own-mask"


def generate() -> Private:
    """Return a fresh private key."""
    return x25519.X25519PrivateKey.generate()


def load(private: bytes) -> Private:
    """Return the private key of 32 bytes. Costs as much as an agreement: do it once."""
    return x25519.X25519PrivateKey.from_private_bytes(private)


def public_of(private: Private) -> bytes:
    """Return the public key of a private one, 32 bytes."""
    return private.public_key().public_bytes_raw()


def announce(
    session: Session,
    device: str,
    sharing_key: bytes,
    masking_key: bytes,
    identity: PrivateKey | None,
) -> Announcement:
    """Sign a device's public keys for a session. Run by the device.

    Args:
        session: What it joins.
        device: Its id.
        sharing_key: Public, 32 bytes.
        masking_key: Public, 32 bytes.
        identity: Its device key; absent where it has none.
    """
    signature = None
    if identity is not None:
        content = _signed(session, device, sharing_key, masking_key)
        signature = device_keys.sign(identity, content)
    return Announcement(
        sharing_key=sharing_key, masking_key=masking_key, signature=signature
    )


def insist_signed(session: Session, member: Member) -> None:
    """Check that a member's identity signed its keys for this session.

    Raises:
        KeysRefused: It has no identity or no signature, or it is another's.
    """
    announcement = member.announcement
    if member.identity is None or announcement.signature is None:
        raise KeysRefused(f"the keys of device {member.device} are not signed")
    content = _signed(
        session, member.device, announcement.sharing_key, announcement.masking_key
    )
    try:
        device_keys.parse(member.identity).verify(announcement.signature, content)
    except (InvalidSignature, device_keys.DeviceKeyRefused) as error:
        raise KeysRefused(
            f"the keys of device {member.device} are not signed by its identity"
        ) from error


def insist_usable(announcement: Announcement) -> None:
    """Check a device's keys where it joins. Run by the coordinator.

    Raises:
        KeysRefused: They are one and the same, or agree on nothing secret (points of
            low order): the device's neighbours would have to stop.
    """
    if announcement.sharing_key == announcement.masking_key:
        raise KeysRefused("the two keys of a device must differ")
    private = generate()
    for public in (announcement.sharing_key, announcement.masking_key):
        _exchange(private, public)


def sealing_key(
    private: Private, public: bytes, manifest: bytes, sender: int, receiver: int
) -> bytes:
    """Return what seals the shares that one device sends another.

    Args:
        private: This side's sharing key.
        public: The other side's, 32 bytes.
        manifest: The cohort manifest's digest.
        sender: Index of who seals.
        receiver: Index of who opens.

    Raises:
        KeysRefused: The public key is of low order.
    """
    info = _SEALING + manifest + route(sender, receiver)
    return _derive(_exchange(private, public), info)


def pair_mask_key(
    private: Private, public: bytes, manifest: bytes, one: int, other: int
) -> bytes:
    """Return the key of the mask that two devices have in common.

    Args:
        private: The masking key of either.
        public: The other's, 32 bytes.
        manifest: The cohort manifest's digest.
        one: Index of either.
        other: Index of the other.

    Raises:
        KeysRefused: The public key is of low order.
    """
    info = _PAIR_MASK + manifest + route(min(one, other), max(one, other))
    return _derive(_exchange(private, public), info)


def own_mask_key(secret: bytes, manifest: bytes) -> bytes:
    """Return the key of a device's own mask from its secret of 32 bytes."""
    return _derive(secret, _OWN_MASK + manifest)


def route(sender: int, receiver: int) -> bytes:
    """Return two indices as bytes."""
    return sender.to_bytes(4, "big") + receiver.to_bytes(4, "big")


def _signed(
    session: Session, device: str, sharing_key: bytes, masking_key: bytes
) -> bytes:
    fields = (*session.fields(), bytes.fromhex(device), sharing_key, masking_key)
    return hashed("keys", *fields)


def _exchange(private: Private, public: bytes) -> bytes:
    try:
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # RFC 7748, section 6.1: the shared secret is all zero
        raise KeysRefused("a key of low order agrees on nothing secret") from error


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)
