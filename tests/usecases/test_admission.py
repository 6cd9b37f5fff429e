"""Who may enrol and call: tokens, keys, roles, and the audit log."""

import datetime as dt
import functools

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.domain.audit import Decision, Refusals
from coordinator.domain.devices import Role
from coordinator.domain.errors import (
    DeviceKeyNeeded,
    DeviceRevoked,
    DeviceUnknown,
    DomainError,
    EnrolmentTokenNeeded,
    EnrolmentTokenRefused,
    Forbidden,
    LeaseLapsed,
    SignatureReplayed,
    TokenUnknown,
    TooManySignatures,
    Unauthenticated,
)
from coordinator.protocol import device_keys
from coordinator.protocol.signatures import Signature
from coordinator.store import audit
from coordinator.usecases import access, devices, tokens
from coordinator.usecases.devices import Admission, Applicant
from tests.support.federation import Federation, dump
from tests.support.models import update_body
from tests.support.races import THREADS, at_once

BY_TOKEN = Admission(needs_token=True)
HOUR = dt.timedelta(hours=1)
SKEW = dt.timedelta(seconds=300)


def enrolment_token(federation: Federation, *, uses: int = 1) -> tuple[str, str]:
    """The id and the text of a new one, good for an hour."""
    token, text = tokens.make_enrolment_token(
        federation.store,
        name="test",
        max_uses=uses,
        valid_for=HOUR,
        by="admin",
        now=federation.clock.now(),
    )
    return token.id, text


def enrol(
    federation: Federation, applicant: Applicant, admission: Admission = BY_TOKEN
) -> str:
    device, _ = devices.enrol(
        federation.store, applicant, admission=admission, now=federation.clock.now()
    )
    return device.id


def note(federation: Federation, reason: str, subject: str) -> None:
    now = federation.clock.now()
    refused = Refusals(
        reason=reason, subject=subject, times=1, first_at=now, last_at=now
    )
    access.note_refusals(federation.store, [refused])


def decisions(federation: Federation) -> list[tuple[str, str, str | None, int]]:
    entries = tokens.list_audit(federation.store, after=0, limit=10_000)
    return [(e.decision, e.subject, e.reason, e.times) for e in entries]


def test_a_one_time_token_admits_one_device_whoever_is_first(
    federation: Federation,
) -> None:
    _, text = enrolment_token(federation)

    answers = at_once(
        [
            functools.partial(enrol, federation, Applicant(enrolment_token=text))
            for _ in range(THREADS)
        ]
    )

    admitted = [answer for answer in answers if isinstance(answer, str)]
    assert len(admitted) == 1
    assert len(federation.rows()["devices"]) == 1
    refused = [answer for answer in answers if isinstance(answer, DomainError)]
    assert {type(answer) for answer in refused} == {EnrolmentTokenRefused}
    assert text not in repr(dump(federation.store))


def test_a_fleet_token_admits_as_many_as_it_says(federation: Federation) -> None:
    token_id, text = enrolment_token(federation, uses=2)

    for _ in range(2):
        enrol(federation, Applicant(enrolment_token=text))
    with pytest.raises(EnrolmentTokenRefused, match=f"{token_id} is used up"):
        enrol(federation, Applicant(enrolment_token=text))

    (listed,) = tokens.list_enrolment_tokens(federation.store)
    assert (listed.uses, listed.max_uses) == (2, 2)


def test_a_token_that_ended_admits_nobody_and_its_devices_stay(
    federation: Federation,
) -> None:
    token_id, text = enrolment_token(federation, uses=9)
    _, later = enrolment_token(federation, uses=9)
    enrol(federation, Applicant(enrolment_token=text))
    now = federation.clock.now()

    for _ in range(2):
        tokens.revoke_enrolment_token(federation.store, token_id, by="admin", now=now)

    with pytest.raises(EnrolmentTokenRefused, match="is revoked"):
        enrol(federation, Applicant(enrolment_token=text))
    federation.clock.advance(3600)
    with pytest.raises(EnrolmentTokenRefused, match="has expired"):
        enrol(federation, Applicant(enrolment_token=later))
    with pytest.raises(EnrolmentTokenRefused, match="no enrolment token"):
        enrol(federation, Applicant(enrolment_token="unknown"))  # noqa: S106 - none
    with pytest.raises(EnrolmentTokenNeeded):
        enrol(federation, Applicant())
    with pytest.raises(TokenUnknown):
        tokens.revoke_enrolment_token(federation.store, "none", by="a", now=now)
    assert len(federation.rows()["devices"]) == 1
    revoked = [each for each in decisions(federation) if "revoked" in each[0]]
    assert revoked == [(Decision.ENROLMENT_TOKEN_REVOKED, token_id, None, 1)]


def key() -> device_keys.DeviceKey:
    return device_keys.of(ec.generate_private_key(ec.SECP256R1()).public_key())


def test_the_same_key_again_is_the_same_device_and_costs_no_token(
    federation: Federation,
) -> None:
    _, text = enrolment_token(federation)
    applicant = Applicant(enrolment_token=text, key=key())
    store, now = federation.store, federation.clock.now()

    first, old = devices.enrol(store, applicant, admission=BY_TOKEN, now=now)
    again, new = devices.enrol(store, applicant, admission=BY_TOKEN, now=now)

    assert again.id == first.id
    assert access.authenticate_device(store, new) == first.id
    with pytest.raises(Unauthenticated):
        access.authenticate_device(store, old)
    devices.revoke(store, first.id, by="admin", now=now)
    with pytest.raises(DeviceRevoked):
        devices.enrol(store, applicant, admission=BY_TOKEN, now=now)
    with pytest.raises(DeviceKeyNeeded):
        enrol(federation, Applicant(), Admission(needs_key=True))


def test_an_enrolment_cannot_be_replayed_for_another_token(
    federation: Federation,
) -> None:
    signature = Signature(nonce="n" * 16, created=federation.clock.now())
    applicant = Applicant(key=key(), signature=signature, skew=SKEW)
    enrol(federation, applicant, Admission())
    before = federation.state()

    with pytest.raises(SignatureReplayed):
        enrol(federation, applicant, Admission())

    assert federation.state() == before


def test_a_nonce_counts_once_and_is_forgotten_when_it_is_of_no_use(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, store = federation.enrol(), federation.store
    signature = Signature(nonce="n" * 16, created=federation.clock.now())

    def spend(signature: Signature) -> bool:
        store.run(
            "spend",
            lambda tx: access.spend_nonce(
                tx, device, signature, now=federation.clock.now(), skew=SKEW
            ),
        )
        return True

    answers = at_once([functools.partial(spend, signature) for _ in range(THREADS)])

    assert answers.count(True) == 1
    assert sum(isinstance(each, SignatureReplayed) for each in answers) == THREADS - 1
    monkeypatch.setattr(access, "MAX_NONCES", 1)
    other = Signature(nonce="m" * 16, created=federation.clock.now())
    with pytest.raises(TooManySignatures):
        spend(other)
    federation.clock.advance(600)
    with pytest.raises(SignatureReplayed):
        spend(signature)
    federation.clock.advance(1)
    access.forget_nonces(store, now=federation.clock.now())
    assert dump(store)["nonces"] == []
    assert spend(other)


def test_a_revoked_device_is_shut_out_and_its_place_is_free(
    federation: Federation,
) -> None:
    federation.start()
    device, token = devices.enrol(
        federation.store, Applicant(), now=federation.clock.now()
    )
    work = federation.lease(device.id)

    for _ in range(2):
        devices.revoke(
            federation.store, device.id, by="admin", now=federation.clock.now()
        )

    assert federation.counts(work.round.id) == (0, 0, 0, 1)
    with pytest.raises(DeviceRevoked):
        access.authenticate_device(federation.store, token)
    with pytest.raises(DeviceRevoked):
        federation.check_in(device.id)
    with pytest.raises(LeaseLapsed):
        federation.submit(work, update_body([1.0] * 10))
    with pytest.raises(DeviceUnknown):
        devices.revoke(federation.store, "none", by="a", now=federation.clock.now())
    found = [each for each in decisions(federation) if each[0] == "device_revoked"]
    assert found == [(Decision.DEVICE_REVOKED, device.id, None, 1)]


def test_no_place_is_leased_to_a_device_that_is_revoked_meanwhile(
    federation: Federation,
) -> None:
    federation.start()
    for _ in range(8):
        device = federation.enrol()

        def revoke(device: str = device) -> None:
            devices.revoke(
                federation.store, device, by="admin", now=federation.clock.now()
            )

        at_once([functools.partial(federation.check_in, device), revoke])
    (round_,) = federation.attempts()
    assert federation.counts(round_.id)[0] == 0


@pytest.mark.parametrize("role", Role)
def test_a_role_may_do_what_lesser_ones_may(federation: Federation, role: Role) -> None:
    store, now = federation.store, federation.clock.now()
    operator, token = tokens.make_operator(
        store, name="ann", role=role, by="admin", now=now
    )

    for needed in Role:
        if list(Role).index(needed) <= list(Role).index(role):
            assert access.authorize(store, token, needed) == operator
            continue
        with pytest.raises(Forbidden) as refusal:
            access.authorize(store, token, needed)
        assert refusal.value.subject == operator.id

    for _ in range(2):
        tokens.revoke_operator(store, operator.id, by="admin", now=now)
    with pytest.raises(Unauthenticated):
        access.authorize(store, token, Role.READ)
    with pytest.raises(TokenUnknown):
        tokens.revoke_operator(store, "none", by="admin", now=now)
    assert token not in repr(dump(store))
    assert decisions(federation) == [
        (Decision.OPERATOR_ADMITTED, operator.id, role, 1),
        (Decision.OPERATOR_REVOKED, operator.id, None, 1),
    ]


def test_refusals_alike_are_one_entry_a_minute_and_all_are_bounded(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_SUBJECTS_A_MINUTE", 5)

    def refuse(reason: str, subject: str) -> None:
        note(federation, reason, subject)

    at_once([functools.partial(refuse, "forbidden", "ann") for _ in range(THREADS)])
    for number in range(20):
        refuse("unauthenticated", f"device {number}")
    refuse("forbidden", "bob")  # whom another reason's crowd does not hide
    federation.clock.advance(60)
    refuse("forbidden", "ann")

    found = decisions(federation)
    assert found[0] == ("refused", "ann", "forbidden", THREADS)
    assert found[-1] == ("refused", "ann", "forbidden", 1)
    assert found[-2] == ("refused", "bob", "forbidden", 1)
    assert found[-3] == ("refused", "", "unauthenticated", 15)
    assert len(found) == 9
    assert sum(times for *_, times in found) == THREADS + 22


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit",
        "UPDATE audit SET subject = 'nobody'",
        "UPDATE audit SET reason = NULL",
        "UPDATE audit SET times = 1",
        "UPDATE audit SET decision = 'device_enrolled'",
    ],
)
def test_the_database_keeps_the_audit_log_as_it_is(
    federation: Federation, statement: str
) -> None:
    for _ in range(2):
        note(federation, "forbidden", "ann")
    before = dump(federation.store)

    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        federation.store.engine.begin() as connection,
    ):
        connection.execute(sa.text(statement))

    assert dump(federation.store) == before
