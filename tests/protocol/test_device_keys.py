"""Public keys as text: one form each, of two kinds."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from coordinator.protocol import device_keys, digests

SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
DER = serialization.Encoding.DER


def text_of(public: rsa.RSAPublicKey | device_keys.PublicKey) -> str:
    return base64.b64encode(public.public_bytes(DER, SPKI)).decode()


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (ec.generate_private_key(ec.SECP256R1()), "ecdsa-p256-sha256"),
    ],
    ids=["ed25519", "p256"],
)
def test_a_key_is_read_and_named_by_its_digest(
    private: device_keys.PrivateKey, algorithm: str
) -> None:
    text = text_of(private.public_key())

    key = device_keys.parse(text)

    assert (key.spki, key.algorithm) == (text, algorithm)
    assert key.id == digests.sha256_hex(base64.b64decode(text))
    assert device_keys.of(private.public_key()) == key


P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
POINT = P256.public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
)
HEADER = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        base64.b64encode(b"no key").decode(),
        text_of(P256)[:-4],
        text_of(P256) + "\n",
        text_of(P256).rstrip("="),
        base64.b64encode(base64.b64decode(text_of(P256)) + b"\0").decode(),
        base64.b64encode(HEADER + POINT).decode(),  # the same point, compressed
        text_of(ec.generate_private_key(ec.SECP384R1()).public_key()),
        text_of(ec.generate_private_key(ec.SECP256K1()).public_key()),
        text_of(rsa.generate_private_key(65537, 2048).public_key()),
        "A" * 10_000,
    ],
    ids=[str(number) for number in range(12)],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(device_keys.DeviceKeyRefused):
        device_keys.parse(text)
