"""What a device refuses, whatever a coordinator asks, and what it survives."""

import secrets
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.protocol.secagg import (
    cohort,
    device,
    keys,
    parameters,
    scrutiny,
    stages,
)
from coordinator.protocol.secagg.messages import (
    Inbox,
    Member,
    Neighbour,
    Roster,
    SealedShares,
    Survivors,
    hashed,
)
from coordinator.protocol.secagg.refusals import (
    ForeignCohort,
    KeysRefused,
    OutOfStep,
    SecAggRefused,
    WeakCohort,
    WrongRoster,
    WrongShares,
    WrongSurvivors,
    WrongVector,
)
from tests.support import secagg

DEVICE = 2


def gathered(devices: int = 8, **options: object) -> secagg.Gathering:
    return secagg.gather(devices, dropout=0.2, **options)  # type: ignore[arg-type]


def dealt(devices: int = 8) -> secagg.Gathering:
    gathering = gathered(devices)
    gathering.deal(gathering.everybody)
    return gathering


def masked(devices: int = 8, lost: frozenset[int] = frozenset()) -> secagg.Gathering:
    gathering = dealt(devices)
    gathering.mask(gathering.everybody - lost)
    return gathering


def inbox_of(gathering: secagg.Gathering, index: int = DEVICE) -> Inbox:
    return stages.inbox(gathering.cohort, gathering.sharers, gathering.packed, index)


def with_manifest(roster: Roster, **changes: object) -> Roster:
    manifest = roster.manifest.model_copy(update=changes)
    # What is cached of the old one is not of the new one.
    manifest = type(manifest).model_validate(manifest.model_dump())
    return roster.model_copy(update={"manifest": manifest})


def relisted(roster: Roster, digests: list[bytes]) -> Roster:
    """The roster with another list of keys, which its manifest names."""
    sha256 = hashed("roster", *digests).hex()
    changed = with_manifest(roster, roster_sha256=sha256, devices=len(digests))
    return changed.model_copy(update={"digests": tuple(digests)})


def stranger() -> Member:
    name = secrets.token_hex(16)
    announcement = device.join(secagg.SESSION, name, None).announcement
    return Member(device=name, identity=None, announcement=announcement)


# The roster


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "f" * 32),
        ("task", "letters"),
        ("round", 4),
        ("attempt", 1),
        ("model_sha256", "ac" * 32),
        ("plan_sha256", "ce" * 32),
    ],
)
def test_a_cohort_of_anything_else_than_was_trained_is_refused(
    field: str, value: object
) -> None:
    gathering = gathered()
    session = secagg.SESSION.model_copy(update={field: value})
    roster = with_manifest(gathering.roster(DEVICE), session=session)
    with pytest.raises(ForeignCohort, match=field):
        device.deal(gathering.states[DEVICE], roster, secagg.POLICY)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 4}, "threshold must lie between 5 and 7, got 4"),
        ({"threshold": 8}, "got 8"),
        ({"degree": 9}, "cannot have 9 neighbours"),
        ({"degree": 3}, "cannot have 3 neighbours"),
        ({"signed": True}, "are not signed"),
    ],
)
def test_a_cohort_that_is_easily_unmasked_is_refused(
    changes: dict[str, object], words: str
) -> None:
    gathering = gathered(collusion=0.2)
    policy = scrutiny.Policy(collusion=0.2)
    roster = with_manifest(gathering.roster(DEVICE), **changes)
    with pytest.raises((WeakCohort, KeysRefused), match=words):
        device.deal(gathering.states[DEVICE], roster, policy)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (scrutiny.Policy(min_devices=9), "9 to 200 devices, got 8"),
        (scrutiny.Policy(max_devices=7), "5 to 7 devices, got 8"),
        (scrutiny.Policy(insist_signed=True), "not signed"),
        (scrutiny.Policy(collusion=0.6), "threshold must lie between 6 and 7"),
    ],
)
def test_a_device_has_limits_of_its_own(policy: scrutiny.Policy, words: str) -> None:
    gathering = gathered()
    roster = gathering.roster(DEVICE)
    with pytest.raises(WeakCohort, match=words):
        device.deal(gathering.states[DEVICE], roster, policy)


def test_a_sparse_cohort_that_may_fall_apart_is_refused() -> None:
    gathering = gathered(60)
    roster = with_manifest(gathering.roster(DEVICE), degree=4, threshold=4)
    with pytest.raises(WeakCohort, match="in pieces"):
        device.deal(gathering.states[DEVICE], roster, scrutiny.Policy(collusion=0.15))


def test_more_devices_than_the_encoding_is_for_are_refused() -> None:
    gathering = gathered()
    encoding = secagg.encoding(max_devices=7)
    roster = with_manifest(gathering.roster(DEVICE), encoding=encoding)
    with pytest.raises(WeakCohort, match="for 7 devices, got 8"):
        device.deal(gathering.states[DEVICE], roster, secagg.POLICY)


def _without_me(roster: Roster) -> Roster:
    digests = [*roster.digests]
    own = digests[roster.index]
    digests[roster.index] = own[:-1] + bytes([own[-1] ^ 1])
    return relisted(roster, digests)


def _twice_me(roster: Roster) -> Roster:
    own, lost = roster.digests[roster.index], roster.digests[roster.index + 1]
    return relisted(
        roster, [own if digest == lost else digest for digest in roster.digests]
    )


def _unordered(roster: Roster) -> Roster:
    return relisted(roster, [*reversed(roster.digests)])


def _other_list(roster: Roster) -> Roster:
    digests = (*roster.digests[:-1], b"\xff" * 32)
    return roster.model_copy(update={"digests": digests})


def _short_list(roster: Roster) -> Roster:
    return roster.model_copy(update={"digests": roster.digests[:-1]})


def _other_place(roster: Roster) -> Roster:
    return roster.model_copy(update={"index": roster.index + 1})


def _no_place(roster: Roster) -> Roster:
    return roster.model_copy(update={"index": 100})


def _fewer_neighbours(roster: Roster) -> Roster:
    return roster.model_copy(update={"neighbours": roster.neighbours[:-1]})


def _repeated_neighbour(roster: Roster) -> Roster:
    first, _, *others = roster.neighbours
    return roster.model_copy(update={"neighbours": (first, first, *others)})


def _swapped_keys(roster: Roster) -> Roster:
    first, *others = roster.neighbours
    swapped = Neighbour(index=first.index, member=stranger())
    return roster.model_copy(update={"neighbours": (swapped, *others)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_me, "own keys are not where"),
        (_twice_me, "rising order"),
        (_unordered, "rising order"),
        (_other_list, "not the one that the manifest names"),
        (_short_list, "7 keys are listed for 8"),
        (_other_place, "not those that the list of keys gives"),
        (_no_place, "no device of 8 has index 100"),
        (_fewer_neighbours, "not those that the list of keys gives"),
        (_repeated_neighbour, "not those that the list of keys gives"),
        (_swapped_keys, "are not the listed ones"),
    ],
)
def test_a_roster_that_contradicts_itself_is_refused(
    change: Callable[[Roster], Roster], words: str
) -> None:
    gathering = gathered()
    with pytest.raises(WrongRoster, match=words):
        device.deal(
            gathering.states[DEVICE], change(gathering.roster(DEVICE)), secagg.POLICY
        )


def _formed(state: device.State, members: list[Member]) -> Roster:
    """A consistent roster of a coordinator that invents members."""
    me = Member(
        device=state.device, identity=state.identity, announcement=state.announcement
    )
    members = sorted([me, *members], key=lambda member: member.digest)
    chosen = parameters.choose(len(members), dropout=0.1, collusion=0.1)
    honest = cohort.form(
        "ab" * 16,
        secagg.SESSION,
        [me, *(stranger() for _ in members[1:])],
        parameters=chosen,
        encoding=secagg.encoding(),
        minimum=5,
    )
    sha256 = hashed("roster", *(member.digest for member in members)).hex()
    manifest = honest.manifest.model_copy(update={"roster_sha256": sha256})
    formed = cohort.Cohort(manifest=manifest, members=tuple(members))
    return secagg.over_the_wire(formed.roster(members.index(me)))


def test_a_neighbour_with_the_devices_own_keys_is_refused() -> None:
    state = device.join(secagg.SESSION, "1" * 32, None)
    mirrored = Member(device="2" * 32, identity=None, announcement=state.announcement)
    roster = _formed(state, [mirrored, *(stranger() for _ in range(6))])
    with pytest.raises(WrongRoster, match="one and the same"):
        device.deal(state, roster, secagg.POLICY)


def test_two_neighbours_with_one_key_are_refused() -> None:
    state = device.join(secagg.SESSION, "1" * 32, None)
    one = stranger()
    other = one.model_copy(update={"device": "3" * 32})
    other = Member.model_validate(other.model_dump())
    roster = _formed(state, [one, other, *(stranger() for _ in range(5))])
    with pytest.raises(WrongRoster, match="one and the same"):
        device.deal(state, roster, secagg.POLICY)


def test_the_device_as_its_own_neighbour_is_refused() -> None:
    state = device.join(secagg.SESSION, "1" * 32, None)
    again = stranger().model_copy(update={"device": state.device})
    again = Member.model_validate(again.model_dump())
    roster = _formed(state, [again, *(stranger() for _ in range(6))])
    with pytest.raises(WrongRoster, match="own neighbour"):
        device.deal(state, roster, secagg.POLICY)


def test_a_neighbour_whose_key_agrees_on_nothing_is_refused() -> None:
    state = device.join(secagg.SESSION, "1" * 32, None)
    low = stranger()
    low = low.model_copy(
        update={
            "announcement": low.announcement.model_copy(
                update={"sharing_key": bytes(32)}
            )
        }
    )
    low = Member.model_validate(low.model_dump())
    roster = _formed(state, [low, *(stranger() for _ in range(6))])
    with pytest.raises(KeysRefused, match="low order"):
        device.deal(state, roster, secagg.POLICY)


def test_keys_that_their_device_signed_for_another_session_are_refused() -> None:
    gathering = gathered(signed=True)
    roster = gathering.roster(DEVICE)
    first, *others = roster.neighbours
    old = secagg.SESSION.model_copy(update={"attempt": 1})
    stale = keys.announce(
        old,
        first.member.device,
        first.member.announcement.sharing_key,
        first.member.announcement.masking_key,
        ed25519.Ed25519PrivateKey.generate(),
    )
    changed = first.member.model_copy(update={"announcement": stale})
    forged = roster.model_copy(
        update={"neighbours": (Neighbour(index=first.index, member=changed), *others)}
    )
    with pytest.raises(KeysRefused, match="not signed by its identity"):
        device.deal(gathering.states[DEVICE], forged, secagg.POLICY)
    device.deal(gathering.states[DEVICE], roster, secagg.POLICY)


def test_the_signature_of_a_neighbour_with_an_identity_counts_in_any_cohort() -> None:
    """Also where a coordinator says that not all have one."""
    gathering = gathered(signed=True)
    roster = with_manifest(gathering.roster(DEVICE), signed=False)
    device.deal(gathering.states[DEVICE], roster, secagg.POLICY)
    first, *others = roster.neighbours
    announcement = first.member.announcement.model_copy(update={"signature": None})
    unsigned = first.member.model_copy(update={"announcement": announcement})
    forged = (Neighbour(index=first.index, member=unsigned), *others)
    with pytest.raises(KeysRefused, match="not signed"):
        device.deal(
            gathering.states[DEVICE],
            roster.model_copy(update={"neighbours": forged}),
            secagg.POLICY,
        )


def test_keys_are_made_once_for_a_session() -> None:
    first = device.join(secagg.SESSION, "1" * 32, None)
    with pytest.raises(OutOfStep, match="were given before"):
        device.join(secagg.SESSION, "1" * 32, None, earlier=device.forget(first))
    again = secagg.SESSION.model_copy(update={"id": "e" * 32})
    second = device.join(again, "1" * 32, None, earlier=first)
    assert second.masking_private != first.masking_private
    assert second.sharing_private != first.sharing_private


# Shares


def test_shares_for_another_cohort_are_not_dealt_from_the_same_keys() -> None:
    gathering = dealt()
    roster = gathering.roster(DEVICE)
    state, again = device.deal(gathering.states[DEVICE], roster, secagg.POLICY)
    assert again == gathering.dealings[DEVICE]
    assert state == gathering.states[DEVICE]
    with pytest.raises(OutOfStep, match="another cohort"):
        device.deal(state, with_manifest(roster, cohort="0" * 32), secagg.POLICY)


def _too_few(inbox: Inbox) -> list[SealedShares]:
    return [*inbox.shares[:3]]


def _one_twice(inbox: Inbox) -> list[SealedShares]:
    return [inbox.shares[0], *inbox.shares]


def _of_itself(inbox: Inbox) -> list[SealedShares]:
    own = inbox.shares[0].model_copy(update={"peer": DEVICE})
    return sorted([*inbox.shares, own], key=lambda each: each.peer)


def _of_a_stranger(inbox: Inbox) -> list[SealedShares]:
    return [*inbox.shares, inbox.shares[0].model_copy(update={"peer": 99})]


def _altered(inbox: Inbox) -> list[SealedShares]:
    first, *others = inbox.shares
    sealed = first.sealed[:-1] + bytes([first.sealed[-1] ^ 1])
    return [first.model_copy(update={"sealed": sealed}), *others]


def _exchanged(inbox: Inbox) -> list[SealedShares]:
    first, second, *others = inbox.shares
    return [
        first.model_copy(update={"sealed": second.sealed}),
        second.model_copy(update={"sealed": first.sealed}),
        *others,
    ]


@pytest.mark.parametrize(
    "change", [_too_few, _one_twice, _of_itself, _of_a_stranger, _altered, _exchanged]
)
def test_an_inbox_that_is_wrong_masks_nothing(
    change: Callable[[Inbox], list[SealedShares]],
) -> None:
    gathering = secagg.gather(8, dropout=0.2, collusion=0.1)
    gathering.deal(gathering.everybody)
    inbox = Inbox(shares=tuple(change(inbox_of(gathering))))
    with pytest.raises(WrongShares):
        device.mask(gathering.states[DEVICE], inbox, gathering.vectors[DEVICE])


def test_a_share_sent_back_to_its_sender_opens_nothing() -> None:
    gathering = dealt()
    first, *others = inbox_of(gathering).shares
    own = next(
        each for each in gathering.dealings[DEVICE].shares if each.peer == first.peer
    )
    reflected = first.model_copy(update={"sealed": own.sealed})
    with pytest.raises(WrongShares, match="cannot be opened"):
        device.mask(
            gathering.states[DEVICE],
            Inbox(shares=(reflected, *others)),
            gathering.vectors[DEVICE],
        )


def insist_nobody_opens_shares(gathering: secagg.Gathering, told: Roster) -> None:
    """One device was told otherwise than all others."""
    gathering.states[DEVICE], dealing = device.deal(
        gathering.states[DEVICE], told, secagg.POLICY
    )
    gathering.dealings[DEVICE] = dealing
    gathering.deal(gathering.everybody - {DEVICE})
    for index in gathering.everybody:
        with pytest.raises(WrongShares, match="told of another cohort"):
            device.mask(
                gathering.states[index],
                inbox_of(gathering, index),
                gathering.vectors[index],
            )


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 6},
        {"minimum": 6},
        {"cohort": "0" * 32},
        {"encoding": secagg.encoding(bits=21)},
        {"encoding": secagg.encoding(clip_norm=2.5)},
        {"encoding": secagg.encoding(max_devices=199)},
        {"encoding": secagg.encoding(weighting="uniform")},
        {"encoding": secagg.encoding(max_examples=99)},
        {"encoding": secagg.encoding(noise_stddev=1.0)},
    ],
    ids=str,
)
def test_devices_that_were_told_of_different_cohorts_open_no_shares(
    changes: dict[str, object],
) -> None:
    """Also where each of the two manifests is fine by itself."""
    gathering = gathered()
    insist_nobody_opens_shares(
        gathering, with_manifest(gathering.roster(DEVICE), **changes)
    )


@pytest.mark.parametrize(
    ("field", "value"), [("model_sha256", "ac" * 32), ("plan_sha256", "ce" * 32)]
)
def test_devices_that_trained_from_different_models_open_no_shares(
    field: str, value: str
) -> None:
    """Each is told of the model that it had, as a coordinator that singles one out."""
    gathering = gathered()
    session = secagg.SESSION.model_copy(update={field: value})
    state = gathering.states[DEVICE].model_copy(update={"session": session})
    gathering.states[DEVICE] = state
    insist_nobody_opens_shares(
        gathering, with_manifest(gathering.roster(DEVICE), session=session)
    )


# The vector


def test_a_second_vector_is_never_masked_with_the_same_keys() -> None:
    gathering = masked()
    state, inbox = gathering.states[DEVICE], inbox_of(gathering)
    vector = gathering.vectors[DEVICE]
    assert device.mask(state, inbox, vector) == (state, gathering.bodies[DEVICE])
    with pytest.raises(OutOfStep, match="another vector"):
        device.mask(state, inbox, vector + np.uint32(1))


def test_a_vector_is_never_masked_for_other_neighbours_again() -> None:
    gathering = masked()
    inbox = inbox_of(gathering)
    fewer = Inbox(shares=inbox.shares[:-1])
    with pytest.raises(OutOfStep, match="other neighbours"):
        device.mask(gathering.states[DEVICE], fewer, gathering.vectors[DEVICE])


@pytest.mark.parametrize(
    "vector",
    [np.zeros(16, np.uint32), np.zeros(18, np.uint32), np.zeros(17, np.int32)],
    ids=["short", "long", "signed"],
)
def test_a_vector_of_another_form_is_refused(vector: np.ndarray) -> None:
    gathering = dealt()
    with pytest.raises(WrongVector, match=r"uint32 of shape \(17,\)"):
        device.mask(gathering.states[DEVICE], inbox_of(gathering), vector)


def test_masking_leaves_the_vector_as_it_was() -> None:
    gathering = dealt()
    vector = gathering.vectors[DEVICE]
    before = vector.copy()
    device.mask(gathering.states[DEVICE], inbox_of(gathering), vector)
    assert np.array_equal(vector, before)


# The survivors


def survivors(*indices: int) -> Survivors:
    return Survivors(indices=indices)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([0, 1, 2, 3], "4 devices survived, 5 must"),
        ([], "0 devices survived"),
        ([0, 1, 1, 2, 3, 4, 5], "one twice"),
        ([5, 4, 3, 2, 1, 0], "one twice"),
        ([0, 1, 3, 4, 5, 6], "this device is not listed"),
        ([0, 1, 2, 3, 4, 5, 8], "strangers"),
        ([0, 1, 2, 3, 4, 199], "strangers"),
    ],
)
def test_a_list_of_survivors_that_is_wrong_reveals_nothing(
    listed: list[int], words: str
) -> None:
    gathering = masked()
    with pytest.raises(WrongSurvivors, match=words):
        device.reveal(gathering.states[DEVICE], survivors(*listed), secagg.POLICY)


def test_the_devices_own_floor_holds_for_survivors() -> None:
    gathering = masked()
    policy = scrutiny.Policy(min_devices=7)
    with pytest.raises(WrongSurvivors, match="6 devices survived, 7 must"):
        device.reveal(gathering.states[DEVICE], survivors(*range(6)), policy)


def test_the_cohorts_floor_holds_for_survivors() -> None:
    gathering = secagg.gather(8, dropout=0.1, minimum=7)
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody)
    with pytest.raises(WrongSurvivors, match="6 devices survived, 7 must"):
        device.reveal(gathering.states[DEVICE], survivors(*range(6)), secagg.POLICY)


def test_fewer_surviving_neighbours_than_the_threshold_reveal_nothing() -> None:
    gathering = secagg.gather(60, dropout=0.1)
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody)
    others = [
        index for index in range(60) if index not in gathering.cohort.neighbours[DEVICE]
    ]
    assert len(others) == 60 - gathering.cohort.manifest.degree
    with pytest.raises(WrongSurvivors, match="0 neighbours survived"):
        device.reveal(gathering.states[DEVICE], survivors(*others), secagg.POLICY)


def test_a_neighbour_that_never_dealt_cannot_have_survived() -> None:
    gathering = gathered()
    gathering.deal(gathering.everybody - {7})
    gathering.mask(gathering.everybody)
    with pytest.raises(WrongSurvivors, match=r"\[7\] dealt no shares"):
        device.reveal(gathering.states[DEVICE], survivors(*range(8)), secagg.POLICY)


def test_of_a_neighbour_that_never_dealt_nothing_is_revealed() -> None:
    gathering = gathered()
    gathering.deal(gathering.everybody - {7})
    gathering.mask(gathering.everybody - {6})
    gathering.reveal(gathering.everybody)
    given = {(each.peer, each.of) for each in gathering.reveals[DEVICE].shares}
    assert given == {
        *((peer, "own_mask") for peer in (0, 1, 3, 4, 5)),
        (6, "masking_key"),
    }
    gathering.unmask()


def test_both_shares_of_one_device_are_never_had_from_another() -> None:
    """Neither in two requests, nor after a restart, nor from what is left behind."""
    gathering = masked()
    victim = 5
    state, first = device.reveal(
        gathering.states[DEVICE], survivors(*range(8)), secagg.POLICY
    )
    without = survivors(*(index for index in range(8) if index != victim))
    for kept in (state, secagg.restored(state)):
        with pytest.raises(OutOfStep, match="another list of survivors"):
            device.reveal(kept, without, secagg.POLICY)
        assert device.reveal(kept, survivors(*range(8)), secagg.POLICY)[1] == first
    assert [each.of for each in first.shares if each.peer == victim] == ["own_mask"]
    assert not state.held
    assert state.masking_private is state.sharing_private is state.own_mask is None


def test_devices_that_hear_two_stories_give_too_few_shares_of_either_secret() -> None:
    """The threshold's whole point: b and s of one device are never both rebuilt."""
    gathering = masked(20)
    victim, threshold = 7, gathering.cohort.manifest.threshold
    everybody = survivors(*range(20))
    without = survivors(*(index for index in range(20) if index != victim))
    others = sorted(gathering.cohort.neighbours[victim])
    for count in range(len(others) + 1):
        given = {"own_mask": 0, "masking_key": 0}
        for place, index in enumerate(others):
            told = everybody if place < count else without
            _, answer = device.reveal(gathering.states[index], told, secagg.POLICY)
            given[next(s.of for s in answer.shares if s.peer == victim)] += 1
        assert min(given.values()) < threshold


def test_nothing_is_revealed_before_the_vector_is_masked() -> None:
    gathering = dealt()
    with pytest.raises(OutOfStep, match="masked no vector"):
        device.reveal(gathering.states[DEVICE], survivors(*range(8)), secagg.POLICY)


# Steps and what is kept


def test_no_step_goes_on_from_a_forgotten_state() -> None:
    gathering = masked()
    gone = device.forget(gathering.states[DEVICE])
    with pytest.raises(OutOfStep):
        device.deal(gone, gathering.roster(DEVICE), secagg.POLICY)
    with pytest.raises(OutOfStep):
        device.mask(gone, inbox_of(gathering), gathering.vectors[DEVICE])
    with pytest.raises(OutOfStep):
        device.reveal(gone, survivors(*range(8)), secagg.POLICY)


def test_no_vector_is_masked_before_shares_are_dealt() -> None:
    gathering = gathered()
    with pytest.raises(OutOfStep, match="dealt no shares"):
        device.mask(
            gathering.states[DEVICE], Inbox(shares=()), gathering.vectors[DEVICE]
        )


def test_a_state_reads_back_as_it_was_and_shows_no_secret() -> None:
    gathering = masked()
    state = gathering.states[DEVICE]
    assert secagg.restored(state) == state
    shown = repr(state)
    for secret in (state.sharing_private, state.masking_private, state.own_mask):
        assert secret is not None
        assert repr(secret)[2:-1] not in shown
    assert all(repr(each.own_mask)[2:-1] not in shown for each in state.held)
    with pytest.raises(ValueError, match="own_mask") as caught:
        device.State.model_validate(
            state.model_dump() | {"own_mask": "tell nobody this"}
        )
    assert "tell nobody this" not in str(caught.value)


def test_every_refusal_of_a_device_is_one_kind_of_error() -> None:
    kinds = (ForeignCohort, KeysRefused, OutOfStep, WeakCohort, WrongRoster)
    assert all(issubclass(kind, SecAggRefused) for kind in kinds)
