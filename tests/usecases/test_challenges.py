"""Challenges that attestations answer: once, in time, and kept only when answered."""

import dataclasses

import pytest

from coordinator.domain.attestation import AndroidKeyAttestor, Level
from coordinator.domain.audit import Decision
from coordinator.domain.challenges import Challenges
from coordinator.domain.errors import (
    AttestationNeeded,
    AttestationNotAsked,
    ChallengeUnknown,
)
from coordinator.usecases import devices, tokens
from coordinator.usecases.devices import Admission, Applicant
from tests.support import attestation as made
from tests.support.federation import Federation, dump
from tests.support.races import THREADS, at_once

KEY = b"k" * 32


class Attesting:
    """A coordinator that asks for attestations, and devices that answer."""

    def __init__(self, federation: Federation) -> None:
        clock = federation.clock
        clock.advance((made.NOW - clock.now()).total_seconds())
        self.federation = federation
        self.root = made.authority("root")
        self.admission = Admission(
            needs_key=True,
            attestor=AndroidKeyAttestor([self.root.certificate], least=Level.TEE),
            challenges=Challenges(KEY),
        )

    def challenge(self, key: bytes = KEY) -> bytes:
        admission = dataclasses.replace(self.admission, challenges=Challenges(key))
        text, _ = devices.open_challenge(admission, now=self.federation.clock.now())
        return text

    def enrol(self, challenge: bytes) -> str:
        private = made.new_key()
        leaf = made.issue(
            "leaf",
            private.public_key(),
            self.root,
            ca=False,
            extension=made.description(challenge),
        )
        return self.enrol_as(
            Applicant(key=made.key_of(private), attestation=made.chain(leaf))
        )

    def enrol_as(self, applicant: Applicant) -> str:
        device, _ = devices.enrol(
            self.federation.store,
            applicant,
            admission=self.admission,
            now=self.federation.clock.now(),
        )
        return device.id


@pytest.fixture
def attesting(federation: Federation) -> Attesting:
    return Attesting(federation)


def test_a_challenge_is_answered_once_and_in_time(attesting: Attesting) -> None:
    federation = attesting.federation
    used, expired = attesting.challenge(), attesting.challenge()
    device = attesting.enrol(used)
    log = tokens.list_audit(federation.store, after=0, limit=9)
    assert (Decision.KEY_ATTESTED, device, "tee") in [
        (entry.decision, entry.subject, entry.reason) for entry in log
    ]
    (row,) = devices.list_devices(federation.store, limit=9)
    assert row[0].attestation == "tee"
    before = federation.state()
    changed = bytes([expired[0] ^ 1]) + expired[1:]
    foreign = attesting.challenge(b"K" * 32)
    for text in (used, changed, foreign, expired[:-1], expired + b"x", b"none", b""):
        with pytest.raises(ChallengeUnknown):
            attesting.enrol(text)
    with pytest.raises(AttestationNeeded):
        attesting.enrol_as(Applicant(key=made.key_of(made.new_key())))
    assert federation.state() == before
    federation.clock.advance(600)
    with pytest.raises(ChallengeUnknown):
        attesting.enrol(expired)


def test_what_was_answered_is_kept_for_longer_than_it_might_be_used(
    attesting: Attesting,
) -> None:
    for seconds, kept in ((0, 1), (600, 2), (601, 2), (599, 3), (2000, 1)):
        attesting.federation.clock.advance(seconds)
        attesting.enrol(attesting.challenge())
        assert len(dump(attesting.federation.store)["challenges"]) == kept


def test_a_challenge_that_many_answer_at_once_enrols_one(attesting: Attesting) -> None:
    challenge = attesting.challenge()

    answers = at_once([lambda: attesting.enrol(challenge)] * THREADS)

    enrolled = [answer for answer in answers if isinstance(answer, str)]
    assert len(enrolled) == 1
    assert len(devices.list_devices(attesting.federation.store, limit=99)) == 1


def test_asking_for_challenges_writes_nothing(attesting: Attesting) -> None:
    before = dump(attesting.federation.store)

    texts = {attesting.challenge() for _ in range(100)}

    assert len(texts) == 100
    assert dump(attesting.federation.store) == before


def test_a_challenge_that_nobody_would_judge_is_not_made(
    federation: Federation,
) -> None:
    with pytest.raises(AttestationNotAsked):
        devices.open_challenge(Admission(), now=federation.clock.now())
    with pytest.raises(ValueError, match="come together"):
        Admission(challenges=Challenges(KEY))
    with pytest.raises(ValueError, match="32 bytes"):
        Challenges(b"short")
