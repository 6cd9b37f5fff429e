"""Signed requests: what must be covered, and the vectors of RFC 9421."""

import base64
import dataclasses
import datetime as dt
from collections.abc import Mapping

import http_message_signatures as hms
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from http_message_signatures import algorithms

from coordinator.protocol import device_keys, digests, signatures
from coordinator.protocol.signatures import (
    Message,
    SignatureInvalid,
    SignatureNeeded,
    SignatureStale,
)

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SKEW = dt.timedelta(seconds=300)
DIGEST = digests.content_digest(digests.sha256_hex(b"{}"))
NONCE = "0123456789abcdef"
PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = device_keys.of(PRIVATE.public_key())
FIELDS = {"Content-Digest": DIGEST, "Idempotency-Key": "k1"}


def signed(
    private: device_keys.PrivateKey = PRIVATE,
    *,
    headers: Mapping[str, str] = FIELDS,
    created: dt.datetime = NOW,
    nonce: str = NONCE,
) -> Message:
    fields = signatures.sign(
        private,
        key_name=device_keys.of(private.public_key()).id,
        method="POST",
        path="/v1/check-ins",
        headers=headers,
        created=created,
        nonce=nonce,
    )
    return Message(
        method="POST", path="/v1/check-ins", headers=[*headers.items(), *fields.items()]
    )


def with_field(message: Message, name: str, value: str) -> Message:
    """The message with a field changed, added, or, empty, left out."""
    kept = [each for each in message.headers if each[0].lower() != name.lower()]
    added = [(name, value)] if value else []
    return dataclasses.replace(message, headers=[*kept, *added])


def input_of(message: Message) -> str:
    return dict(message.headers)["Signature-Input"]


def verify(message: Message, now: dt.datetime = NOW) -> signatures.Signature:
    return signatures.verify(message, KEY, now=now, skew=SKEW)


@pytest.mark.parametrize(
    "private", [ed25519.Ed25519PrivateKey.generate(), PRIVATE], ids=["ed25519", "p256"]
)
def test_what_a_device_signs_is_verified(private: device_keys.PrivateKey) -> None:
    message = signed(private)
    key = device_keys.of(private.public_key())

    signature = signatures.verify(message, key, now=NOW, skew=SKEW)

    assert signature == signatures.Signature(nonce=NONCE, created=NOW)
    assert signatures.key_id(message) == key.id
    assert message.sha256 == digests.sha256_hex(b"{}")
    assert input_of(message).startswith(
        'shoal=("@method" "@path" "content-digest" "idempotency-key");'
    )


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(signed(), method="PUT"),
        dataclasses.replace(signed(), path="/v1/check-ins/"),
        dataclasses.replace(signed(), path="/v1/devices"),
        with_field(signed(), "Content-Digest", DIGEST.replace("=:", "=:A", 1)),
        with_field(signed(), "Content-Digest", ""),
        with_field(signed(), "Idempotency-Key", "k2"),
        with_field(signed(), "Idempotency-Key", ""),
        with_field(signed(), "Content-Encoding", "gzip"),  # present, not covered
        with_field(signed(), "Signature", ""),
        with_field(signed(), "Signature", "shoal=:AAAA:"),
        with_field(signed(), "Signature", f"shoal=:{base64.b64encode(bytes(64))!r}:"),
        with_field(
            signed(), "Signature-Input", input_of(signed()).replace("0123", "0124")
        ),
        with_field(
            signed(), "Signature-Input", input_of(signed()).replace(' "@path"', "")
        ),
        with_field(
            signed(),
            "Signature-Input",
            input_of(signed()).replace("ecdsa-p256-sha256", "hmac-sha256"),
        ),
        dataclasses.replace(
            signed(), headers=[*signed().headers, ("Content-Digest", DIGEST)]
        ),
        dataclasses.replace(
            signed(), headers=[*signed().headers, ("Signature", "b=:AAAA:")]
        ),
        signed(ec.generate_private_key(ec.SECP256R1())),
        signed(nonce="tooshort"),
        signed(nonce="n" * 65),
        signed(nonce="a nonce of blanks"),
    ],
)
def test_what_was_changed_or_is_not_covered_is_refused(changed: Message) -> None:
    with pytest.raises(SignatureInvalid):
        verify(changed)


@pytest.mark.parametrize(
    "covered",
    [
        ("@method", "@path"),
        ("@method", "content-digest"),
        ("@path", "content-digest"),
    ],
)
def test_a_good_signature_that_covers_too_little_is_refused(
    covered: tuple[str, ...],
) -> None:
    request = signatures._Request("POST", "http://shoal/p", {"Content-Digest": DIGEST})
    hms.HTTPMessageSigner(
        signature_algorithm=algorithms.ECDSA_P256_SHA256,
        key_resolver=hms.MappingKeyResolver(
            public_keys={}, private_keys={KEY.id: PRIVATE}
        ),
    ).sign(
        request,
        key_id=KEY.id,
        created=NOW,
        nonce=NONCE,
        covered_component_ids=covered,
        use_existing_digest=True,
    )
    message = Message(method="POST", path="/p", headers=list(request.headers.items()))

    with pytest.raises(SignatureInvalid):
        verify(message)


@pytest.mark.parametrize("left_out", ["nonce", "created", "alg", "more"])
def test_every_parameter_is_needed_and_no_other_taken(left_out: str) -> None:
    request = signatures._Request("POST", "http://shoal/p", {"Content-Digest": DIGEST})
    signer = hms.HTTPMessageSigner(
        signature_algorithm=algorithms.ECDSA_P256_SHA256,
        key_resolver=hms.MappingKeyResolver(
            public_keys={}, private_keys={KEY.id: PRIVATE}
        ),
    )
    signer.sign(
        request,
        key_id=KEY.id,
        created=NOW,
        nonce=None if left_out == "nonce" else NONCE,
        include_alg=left_out != "alg",
        tag="more" if left_out == "more" else None,
        covered_component_ids=signatures.ALWAYS,
        use_existing_digest=True,
    )
    headers = dict(request.headers.items())
    if left_out == "created":
        headers["Signature-Input"] = headers["Signature-Input"].replace(
            f";created={int(NOW.timestamp())}", ""
        )
    message = Message(method="POST", path="/p", headers=list(headers.items()))

    with pytest.raises(SignatureInvalid):
        verify(message)


@pytest.mark.parametrize(("seconds", "taken"), [(300, True), (301, False)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_clock_may_be_off_by_the_skew(
    seconds: int, sign: int, *, taken: bool
) -> None:
    now = NOW + sign * dt.timedelta(seconds=seconds)
    if taken:
        assert verify(signed(), now).created == NOW
        return
    with pytest.raises(SignatureStale, match="created is 2026-01-01T12:00:00Z"):
        verify(signed(), now)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "no structure",
        "shoal=1",
        "shoal=()",
        'shoal=("@method");keyid="ann"',
        "shoal=();keyid=1",
        'a=();keyid="a", b=();keyid="b"',
        "x" * 5000,
    ],
)
def test_a_signature_that_names_no_key_is_refused(value: str) -> None:
    message = Message(method="GET", path="/", headers=[("signature-input", value)])

    with pytest.raises(SignatureInvalid):
        signatures.key_id(message)


def test_a_request_without_a_signature_is_told_so() -> None:
    with pytest.raises(SignatureNeeded):
        signatures.key_id(Message(method="GET", path="/", headers=[]))


# RFC 9421, appendix B: test-key-ed25519 (B.1.4), test-key-ecc-p256 (B.1.3).
RFC_ED25519 = "MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="
RFC_P256 = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf"
    "w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ=="
)


@dataclasses.dataclass
class Response:
    headers: dict[str, str]
    status_code: int = 200
    request: None = None


def rfc_request(**changes: str) -> signatures._Request:
    """B.2: the request, signed as in B.2.6."""
    headers = {
        "Host": "example.com",
        "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
        "Content-Type": "application/json",
        "Content-Length": "18",
        "Signature-Input": 'sig-b26=("date" "@method" "@path" "@authority" '
        '"content-type" "content-length");created=1618884473;'
        'keyid="test-key-ed25519"',
        "Signature": "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9"
        "EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    }
    return signatures._Request(
        "POST", "https://example.com/foo?param=Value&Pet=dog", headers | changes
    )


def rfc_response(**changes: str) -> Response:
    """B.2: the response, signed as in B.2.4."""
    headers = {
        "Date": "Tue, 20 Apr 2021 02:07:56 GMT",
        "Content-Type": "application/json",
        "Content-Digest": "sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTs"
        "Pp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:",
        "Content-Length": "23",
        "Signature-Input": 'sig-b24=("@status" "content-type" "content-digest" '
        '"content-length");created=1618884473;keyid="test-key-ecc-p256"',
        "Signature": "sig-b24=:wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgy"
        "ahnzDnDAUy5eCdlYUEkLIj+32oiasw==:",
    }
    return Response(headers | changes)


@pytest.mark.parametrize(
    ("message", "changed", "key", "name"),
    [
        (
            rfc_request(),
            rfc_request(Date="Tue, 20 Apr 2021 02:07:56 GMT"),
            RFC_ED25519,
            "test-key-ed25519",
        ),
        (
            rfc_response(),
            rfc_response(**{"Content-Length": "24"}),
            RFC_P256,
            "test-key-ecc-p256",
        ),
    ],
    ids=["B.2.6", "B.2.4"],
)
def test_the_vectors_of_the_rfc(
    message: object, changed: object, key: str, name: str
) -> None:
    parsed = device_keys.parse(key)
    verifier = signatures.Verifier(
        signature_algorithm=signatures._ALGORITHMS[parsed.algorithm],
        key_resolver=hms.MappingKeyResolver(
            public_keys={name: parsed.public}, private_keys={}
        ),
    )

    (result,) = verifier.verify(message, max_age=None)

    assert result.parameters["created"] == 1618884473
    with pytest.raises(hms.InvalidSignature):
        verifier.verify(changed, max_age=None)


def test_a_key_of_the_rfc_signs_what_it_signs_there() -> None:
    private = serialization.load_der_private_key(
        base64.b64decode(
            "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF"
        ),
        None,
    )
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    base = (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@method": POST\n"@path": /foo\n'
        '"@authority": example.com\n"content-type": application/json\n'
        '"content-length": 18\n"@signature-params": ("date" "@method" "@path" '
        '"@authority" "content-type" "content-length");created=1618884473;'
        'keyid="test-key-ed25519"'
    )

    signature = base64.b64encode(private.sign(base.encode())).decode()

    assert f":{signature}:" in dict(rfc_request().headers.items())["Signature"]
