"""Which chains vouch for a key, and what is wrong with the others."""

import datetime as dt

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain import attestation, der
from coordinator.domain.attestation import AndroidKeyAttestor, Level
from coordinator.domain.errors import AttestationRefused
from tests.support import attestation as made
from tests.support.attestation import NOW, YEAR, authority, chain, issue

CHALLENGE = b"c" * 32
ROOT = authority("root")
MIDDLE = authority("middle", ROOT)
PHONE = made.new_key()
KEY = made.key_of(PHONE)
PUBLIC = PHONE.public_key()
GOOD = made.description(CHALLENGE)


def attestor(least: Level = Level.TEE) -> AndroidKeyAttestor:
    return AndroidKeyAttestor([ROOT.certificate], least=least)


def leaf(by: made.Authority = MIDDLE, description: bytes = GOOD, **details: object):
    details = {"ca": False, **details}
    return issue("leaf", PUBLIC, by, extension=description, **details)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "certificates",
    [
        chain(leaf(), MIDDLE.certificate, ROOT.certificate),
        chain(leaf(), MIDDLE.certificate),
        chain(leaf(ROOT)),
        chain(leaf(ROOT), ROOT.certificate),
    ],
)
def test_a_good_chain_vouches_for_its_key(certificates: list[bytes]) -> None:
    found = attestor().verify(certificates, KEY, now=NOW)

    assert (found.level, found.challenge) == ("tee", CHALLENGE)


def test_a_root_that_was_issued_anew_with_its_key_is_the_same_root() -> None:
    anew = issue("root", ROOT.private.public_key(), ROOT, ends=NOW + 2 * YEAR)

    found = attestor().verify(chain(leaf(), MIDDLE.certificate, anew), KEY, now=NOW)

    assert found.challenge == CHALLENGE


FOREIGN = authority("root")  # the same name, another key
FOREIGN_MIDDLE = authority("middle", FOREIGN)
EXPIRED = authority("middle", ROOT, ends=NOW - dt.timedelta(seconds=1))
FUTURE = authority("middle", ROOT, begins=NOW + dt.timedelta(seconds=1))
PLAIN = authority("middle", ROOT, ca=False)
NOT_ISSUING = authority("middle", ROOT, may_issue=False)
NARROW_ROOT = authority("narrow", ROOT, path_length=0)
UNDER_NARROW = authority("under", NARROW_ROOT)
ATTESTED = authority("attested", MIDDLE, extension=GOOD)


@pytest.mark.parametrize(
    ("certificates", "said"),
    [
        ([], "1 to 10"),
        (chain(*[leaf()] * 11), "1 to 10"),
        ([b""], "malformed"),
        ([b"x" * 10_000], "9000 bytes"),
        ([*chain(leaf()), b"\x30\x00"], "malformed"),
        (chain(leaf(FOREIGN)), "no root"),
        (chain(leaf(FOREIGN), FOREIGN.certificate), "no root"),
        (chain(leaf(FOREIGN_MIDDLE), FOREIGN_MIDDLE.certificate), "no root"),
        (chain(leaf(FOREIGN_MIDDLE), MIDDLE.certificate), "not issued by the next"),
        (chain(MIDDLE.certificate, leaf()), "no root"),
        (chain(leaf()), "no root"),
        (chain(leaf(EXPIRED), EXPIRED.certificate), "not valid now"),
        (chain(leaf(FUTURE), FUTURE.certificate), "not valid now"),
        (chain(leaf(ROOT, ends=NOW - YEAR / 2)), "not valid now"),
        (chain(leaf(PLAIN), PLAIN.certificate), "no certification authority"),
        (chain(leaf(NOT_ISSUING), NOT_ISSUING.certificate), "may not sign cert"),
        (
            chain(
                leaf(UNDER_NARROW), UNDER_NARROW.certificate, NARROW_ROOT.certificate
            ),
            "longer than an issuer allows",
        ),
        (
            chain(leaf(ATTESTED), ATTESTED.certificate, MIDDLE.certificate),
            "an attested key itself",
        ),
        (chain(leaf(signs=False), MIDDLE.certificate), "key usage"),
        (
            chain(issue("leaf", PUBLIC, ROOT, ca=False)),
            "does not describe its key",
        ),
        (
            chain(issue("leaf", made.new_key().public_key(), ROOT, extension=GOOD)),
            "another key",
        ),
    ],
)
def test_any_other_chain_is_refused(certificates: list[bytes], said: str) -> None:
    with pytest.raises(AttestationRefused, match=said):
        attestor().verify(certificates, KEY, now=NOW)


def test_a_certificate_that_the_library_cannot_read_is_refused() -> None:
    """Each of these makes it raise an error of its own, no ValueError."""
    content = chain(leaf())[0]
    version = content.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x22")
    usage, basic = b"\x06\x03\x55\x1d\x0f", b"\x06\x03\x55\x1d\x13"
    twice = chain(MIDDLE.certificate)[0].replace(basic, usage)
    for changed in (version, twice):
        assert changed not in {content, chain(MIDDLE.certificate)[0]}
        for certificates in ([changed], [content, changed], [changed, content]):
            with pytest.raises(AttestationRefused):
                attestor().verify(certificates, KEY, now=NOW)


@pytest.mark.parametrize(
    ("description", "least", "said"),
    [
        (made.description(CHALLENGE, levels=(0, 0)), Level.TEE, "level software"),
        (made.description(CHALLENGE, levels=(1, 0)), Level.TEE, "level software"),
        (made.description(CHALLENGE, levels=(2, 1)), Level.STRONGBOX, "level tee"),
        (made.description(CHALLENGE, hardware=[made.origin(0)]), Level.TEE, "not sign"),
        (
            made.description(CHALLENGE, hardware=[made.purposes(3), made.origin(0)]),
            Level.TEE,
            "not sign",
        ),
        (
            made.description(CHALLENGE, hardware=[made.purposes(2), made.origin(2)]),
            Level.TEE,
            "not generated",
        ),
        (
            made.description(CHALLENGE, hardware=[made.purposes(2)]),
            Level.TEE,
            "not gen",
        ),
        (  # what software promises of a key in hardware is worth nothing
            made.description(
                CHALLENGE, hardware=[], software=[made.purposes(2), made.origin(0)]
            ),
            Level.TEE,
            "not sign",
        ),
        (made.description(CHALLENGE, levels=(3, 3)), Level.TEE, "malformed"),
    ],
)
def test_a_key_that_is_not_kept_well_is_refused(
    description: bytes, least: Level, said: str
) -> None:
    certificates = chain(leaf(ROOT, description))

    with pytest.raises(AttestationRefused, match=said):
        attestor(least).verify(certificates, KEY, now=NOW)


@pytest.mark.parametrize(
    ("levels", "least", "level"),
    [((0, 0), Level.SOFTWARE, "software"), ((2, 2), Level.STRONGBOX, "strongbox")],
)
def test_the_level_is_said(levels: tuple[int, int], least: Level, level: str) -> None:
    certificates = chain(leaf(ROOT, made.description(CHALLENGE, levels=levels)))

    assert attestor(least).verify(certificates, KEY, now=NOW).level == level


def test_an_expired_root_vouches_for_nothing() -> None:
    with pytest.raises(AttestationRefused, match="not valid now"):
        attestor().verify(
            chain(leaf(ROOT, ends=NOW + 9 * YEAR)), KEY, now=NOW + 2 * YEAR
        )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\0",
        made.der(b"\x30"),
        made.der(b"\x31", GOOD[2:]),
        made.description(CHALLENGE, more=made.integer(1)),
        made.description(CHALLENGE, version=made.enumerated(1)),
        made.description(CHALLENGE, hardware=[made.origin(0), made.purposes(2)]),
        made.description(CHALLENGE, hardware=[made.purposes(2), made.purposes(2)]),
        made.description(CHALLENGE, hardware=[made.integer(1)]),
        made.description(CHALLENGE, hardware=[made.der(b"\xa1", made.integer(2))]),
        made.description(
            CHALLENGE, hardware=[made.der(b"\xa1", made.der(b"\x31", b"\x05\x00"))]
        ),
        made.description(CHALLENGE, hardware=[b"\xbf\x85\x3e\x81\x03\x02\x01\x00"]),
    ],
)
def test_a_description_of_another_shape_is_refused(content: bytes) -> None:
    with pytest.raises(der.MalformedDer):
        attestation.read_description(content)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_description_is_refused_or_read(position: int, byte: int) -> None:
    changed = bytearray(GOOD)
    changed[position] = byte
    try:
        found = attestation.read_description(bytes(changed))
    except der.MalformedDer:
        return
    assert len(found.challenge) <= len(GOOD)


@pytest.mark.parametrize(
    "content",
    [
        b"\x30",
        b"\x30\x80\x00\x00",  # indefinite
        b"\x30\x81\x01\x00",  # longer than need be
        b"\x30\x82\x00\x80" + bytes(128),
        b"\x30\x84\x00\x00\x00\x00",
        b"\x02\x02\x00\x7f",  # a number longer than need be
        b"\x02\x01\x80",  # a negative one
        b"\x02\x00",
        b"\xbf\x80\x01\x00",
        b"\xbf\x01\x00",
        b"\xbf\xff\xff\xff\x01\x00",
        b"\xbf\x85",
    ],
)
def test_der_has_one_form(content: bytes) -> None:
    with pytest.raises(der.MalformedDer):
        [each.whole() for each in der.elements(content)]


def test_roots_are_read_from_pem() -> None:
    pem = ROOT.certificate.public_bytes(Encoding.PEM)

    assert attestation.read_roots(pem + pem) == [ROOT.certificate] * 2
    with pytest.raises(ValueError, match="PEM"):
        attestation.read_roots(b"nothing")
