import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.digests import (
    FIELD,
    content_digest,
    parse_content_digest,
    sha256_hex,
)

# RFC 9530, appendices A and B: the content, and its sha-256 member.
EXAMPLES = [
    (b'{"hello": "world"}\n', "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"),
    (b'{"hello": "world"}', "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
    (b"", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
]
MEMBER = EXAMPLES[0][1]
HEX = sha256_hex(EXAMPLES[0][0])
SHA_512 = (
    "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCs"
    "yRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:"
)


def test_the_field_has_its_name() -> None:
    assert FIELD == "Content-Digest"


@pytest.mark.parametrize(("content", "member"), EXAMPLES)
def test_the_examples_of_the_rfc_come_out(content: bytes, member: str) -> None:
    assert content_digest(sha256_hex(content)) == member
    assert parse_content_digest(member) == sha256_hex(content)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_digest_is_64_digits_whatever_holds_the_bytes(kind: type) -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(kind(b"abc")) == expected


@given(st.binary(min_size=32, max_size=32))
def test_parsing_undoes_writing(digest: bytes) -> None:
    assert parse_content_digest(content_digest(digest.hex())) == digest.hex()


@pytest.mark.parametrize(
    "value",
    [
        f"{SHA_512}, {MEMBER}",
        f"{MEMBER},{SHA_512}",
        f"  {MEMBER}\t",
        f"md5=:sQqNsWTgdUEFt6mb5y4/5Q==:, {MEMBER}",
        f"sha-256=:AAAA:, {MEMBER}",
        f"sha-256=:!:, {MEMBER}",
        f"sha-256=RK/0qy18, {MEMBER}",
        f"sha-256=:\u00e9:, {MEMBER}",
    ],
)
def test_members_that_cannot_be_used_are_passed_over(value: str) -> None:
    assert parse_content_digest(value) == HEX


@pytest.mark.parametrize(
    "value",
    [
        "",
        SHA_512,
        HEX,
        f"sha-256={HEX}",
        "sha-256=::",
        "sha-256=:",
        MEMBER[:-1],
        MEMBER.replace("sha-256", "SHA256"),
        "sha-256=:AAAA:",
        f"sha-256=:{'A' * 44}:",
        f"sha-256=:{'A' * 42}==:",
        "sha-256=:" + "\u00e9" * 44 + ":",
        "sha-256=:RK/0qy18MlBSVnWgjwz6 lZEWjP/lF5HF9bvEF8FabDg=:",
        "sha-256=:RK_0qy18MlBSVnWgjwz6lZEWjP_lF5HF9bvEF8FabDg=:",
    ],
)
def test_a_field_without_a_usable_member_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must hold sha-256"):
        parse_content_digest(value)


@given(st.text(max_size=80))
def test_any_field_is_parsed_or_refused(value: str) -> None:
    for candidate in (value, f"sha-256=:{value}:"):
        try:
            digest = parse_content_digest(candidate)
        except ValueError:
            continue
        assert len(digest) == 64
