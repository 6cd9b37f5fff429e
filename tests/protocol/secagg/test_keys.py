"""Keys: signed by either kind of identity, agreed on, bound to all that they are of."""

import itertools
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coordinator.protocol import device_keys
from coordinator.protocol.device_keys import PrivateKey
from coordinator.protocol.secagg import cohort, device, keys, parameters
from coordinator.protocol.secagg.refusals import KeysRefused, UnsuitableCohort
from tests.support import secagg

ME = "5" * 32
KINDS: list[Callable[[], PrivateKey]] = [
    ed25519.Ed25519PrivateKey.generate,
    lambda: ec.generate_private_key(ec.SECP256R1()),
]
MANIFEST = b"\7" * 32


def spki(identity: PrivateKey) -> str:
    return device_keys.of(identity.public_key()).spki


@pytest.mark.parametrize("make", KINDS, ids=["ed25519", "p256"])
def test_a_signature_is_of_session_device_and_both_keys(
    make: Callable[[], PrivateKey],
) -> None:
    identity = make()
    state = device.join(secagg.SESSION, ME, identity)
    announcement = secagg.over_the_wire(state.announcement)
    member = cohort.admit(secagg.SESSION, ME, spki(identity), announcement)
    assert member.identity == state.identity == spki(identity)
    signature = announcement.signature
    assert signature is not None
    for session, name, shown, changes in (
        (secagg.SESSION.model_copy(update={"attempt": 3}), ME, identity, {}),
        (secagg.SESSION.model_copy(update={"id": "0" * 32}), ME, identity, {}),
        (secagg.SESSION.model_copy(update={"plan_sha256": "0" * 64}), ME, identity, {}),
        (secagg.SESSION, "6" * 32, identity, {}),
        (secagg.SESSION, ME, make(), {}),
        (secagg.SESSION, ME, identity, {"sharing_key": b"\1" * 32}),
        (secagg.SESSION, ME, identity, {"masking_key": b"\1" * 32}),
        (secagg.SESSION, ME, identity, {"signature": bytes(64)}),
        (secagg.SESSION, ME, identity, {"signature": None}),
    ):
        with pytest.raises(KeysRefused):
            cohort.admit(
                session, name, spki(shown), announcement.model_copy(update=changes)
            )


def test_an_identity_that_is_no_key_signs_nothing() -> None:
    state = device.join(secagg.SESSION, ME, ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(KeysRefused, match="not signed by its identity"):
        cohort.admit(secagg.SESSION, ME, "AAAA", state.announcement)


def test_a_device_without_identity_joins_unsigned() -> None:
    state = device.join(secagg.SESSION, ME, None)
    member = cohort.admit(secagg.SESSION, ME, None, state.announcement)
    assert member.announcement.signature is None
    with pytest.raises(KeysRefused, match="not signed"):
        keys.insist_signed(secagg.SESSION, member)


def test_a_derived_key_is_another_for_anything_else() -> None:
    one, other = keys.generate(), keys.generate()
    public = keys.public_of(other)
    secret = one.private_bytes_raw()
    found = [
        keys.sealing_key(one, public, MANIFEST, 0, 1),
        keys.sealing_key(one, public, MANIFEST, 1, 0),
        keys.sealing_key(one, public, bytes(32), 0, 1),
        keys.sealing_key(one, public, MANIFEST, 0, 2),
        keys.pair_mask_key(one, public, MANIFEST, 0, 1),
        keys.pair_mask_key(one, public, MANIFEST, 0, 2),
        keys.pair_mask_key(one, public, bytes(32), 0, 1),
        keys.own_mask_key(secret, MANIFEST),
        keys.own_mask_key(secret, bytes(32)),
        keys.own_mask_key(bytes(32), MANIFEST),
    ]
    assert len({*found}) == len(found)
    assert all(len(key) == 32 for key in found)


def test_both_sides_derive_the_same() -> None:
    one, other = keys.generate(), keys.generate()
    for derive in (keys.sealing_key, keys.pair_mask_key):
        assert derive(one, keys.public_of(other), MANIFEST, 4, 9) == derive(
            other, keys.public_of(one), MANIFEST, 4, 9
        )
    assert keys.pair_mask_key(
        one, keys.public_of(other), MANIFEST, 4, 9
    ) == keys.pair_mask_key(other, keys.public_of(one), MANIFEST, 9, 4)


def test_a_cohorts_order_and_digest_are_its_devices_keys() -> None:
    members = [
        cohort.admit(
            secagg.SESSION,
            f"{number:032x}",
            None,
            device.join(secagg.SESSION, f"{number:032x}", None).announcement,
        )
        for number in range(5)
    ]
    formed = [
        cohort.form(
            "a" * 32,
            secagg.SESSION,
            order,
            parameters=parameters.choose(5, dropout=0, collusion=0),
            encoding=secagg.encoding(),
            minimum=5,
        )
        for order in itertools.islice(itertools.permutations(members), 0, 120, 17)
    ]
    assert len({one.manifest.digest for one in formed}) == 1
    assert all(one.members == formed[0].members for one in formed)


@pytest.mark.parametrize(
    ("twin", "words"),
    [("device", "a device is in the cohort twice"), ("key", "a key is in the cohort")],
)
def test_nobody_is_in_a_cohort_twice(twin: str, words: str) -> None:
    states = [
        device.join(secagg.SESSION, f"{number:032x}", None) for number in range(5)
    ]
    members = [
        cohort.admit(secagg.SESSION, state.device, None, state.announcement)
        for state in states
    ]
    if twin == "device":
        again = device.join(secagg.SESSION, states[0].device, None)
        extra = cohort.admit(secagg.SESSION, again.device, None, again.announcement)
    else:
        extra = cohort.admit(secagg.SESSION, "f" * 32, None, states[0].announcement)
    with pytest.raises(UnsuitableCohort, match=words):
        cohort.form(
            "a" * 32,
            secagg.SESSION,
            [*members, extra],
            parameters=parameters.choose(6, dropout=0, collusion=0),
            encoding=secagg.encoding(),
            minimum=5,
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minimum": 9}, "9 of 8 devices cannot"),
        ({"written": secagg.encoding(max_devices=7)}, "for 7 devices, got 8"),
    ],
)
def test_a_cohort_that_its_settings_are_not_for_is_not_formed(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UnsuitableCohort, match=words):
        secagg.gather(8, **changes)  # type: ignore[arg-type]
