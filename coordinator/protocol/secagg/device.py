"""A device's side of a cohort: join, deal, mask, reveal, and what it refuses.

Each step is a function of a ``State`` that returns the next one and what to send:
**keep the new state on the disk before anything of it is sent**. Then a device may die
at any moment and take the step again: the state holds what it answered, and the same
question gets the same answer. Another question is refused, because two vectors under
one mask, or two different lists of survivors, would give the device's update away. The
state holds secret keys; ``forget`` leaves none.

What a device cannot check: that the others exist, and that a list of survivors is the
same for all. The first is assumed, the second needs no check at a threshold that
``parameters.least_threshold`` allows.
"""

import hashlib
import os
from typing import Final, NamedTuple

import pydantic
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field

from coordinator.protocol import device_keys
from coordinator.protocol.device_keys import PrivateKey
from coordinator.protocol.manifest import Record, Sha256
from coordinator.protocol.messages import Id
from coordinator.protocol.secagg import keys, masks, scrutiny, shamir
from coordinator.protocol.secagg.masks import Words
from coordinator.protocol.secagg.messages import (
    Announcement,
    Bytes32,
    Dealing,
    Inbox,
    Index,
    Member,
    Neighbour,
    Reveal,
    RevealedShare,
    Roster,
    SealedShares,
    Session,
    Share,
    Survivors,
)
from coordinator.protocol.secagg.refusals import (
    OutOfStep,
    WrongShares,
    WrongVector,
)

_NONCE_BYTES: Final = 12


class HeldShares(Record):
    """What this device keeps for another: a share of each of its secrets."""

    peer: Index
    own_mask: Share = Field(repr=False)
    masking_key: Share = Field(repr=False)


class State(Record):
    """All that a device keeps of a cohort, from joining to the end. Secret."""

    model_config = pydantic.ConfigDict(hide_input_in_errors=True)

    session: Session
    device: Id
    identity: str | None = Field(description="Its device key, public.")
    announcement: Announcement
    sharing_private: Bytes32 | None = Field(repr=False)
    masking_private: Bytes32 | None = Field(repr=False)
    own_mask: Bytes32 | None = Field(None, repr=False)
    roster: Roster | None = None
    dealing: Dealing | None = None
    inbox: Inbox | None = None
    held: tuple[HeldShares, ...] = Field((), repr=False)
    masked_sha256: Sha256 | None = None
    survivors: Survivors | None = None
    reveal: Reveal | None = Field(None, repr=False)


class _Cohort(NamedTuple):
    """What a state holds once shares were dealt."""

    roster: Roster
    sharing_private: bytes
    masking_private: bytes
    own_mask: bytes


def join(
    session: Session,
    device: str,
    identity: PrivateKey | None,
    *,
    earlier: State | None = None,
) -> State:
    """Make keys for a session, and the announcement of them. Post that one.

    Args:
        session: With the digests of the weights and the plan that the device has used,
            as it computed them itself.
        device: Its id.
        identity: Its device key, where it has one.
        earlier: What it kept of the last cohort, if it did.

    Raises:
        OutOfStep: The earlier state is of this session: keys are made once for each.
    """
    if earlier is not None and earlier.session.id == session.id:
        raise OutOfStep(f"keys for session {session.id} were given before")
    sharing, masking = keys.generate(), keys.generate()
    return State(
        session=session,
        device=device,
        identity=identity and device_keys.of(identity.public_key()).spki,
        announcement=keys.announce(
            session,
            device,
            keys.public_of(sharing),
            keys.public_of(masking),
            identity,
        ),
        sharing_private=sharing.private_bytes_raw(),
        masking_private=masking.private_bytes_raw(),
    )


def deal(
    state: State, roster: Roster, policy: scrutiny.Policy
) -> tuple[State, Dealing]:
    """Check the cohort, and split both secrets among the neighbours.

    Raises:
        ForeignCohort: It is of another session, round, attempt, model or plan.
        WeakCohort: It is too small or too large, its threshold too low.
        WrongRoster: The list of keys is not the manifest's, or the own keys are not
            once in it, or the neighbours are others than the list makes them.
        KeysRefused: A neighbour's keys are not signed, or unusable.
        OutOfStep: Shares were dealt before to another cohort.
    """
    if state.roster is not None and state.dealing is not None:
        if roster != state.roster:
            raise OutOfStep("shares were dealt to another cohort before")
        return state, state.dealing
    if state.sharing_private is None or state.masking_private is None:
        raise OutOfStep("the keys of this session are forgotten")
    me = Member(
        device=state.device, identity=state.identity, announcement=state.announcement
    )
    scrutiny.insist_acceptable(roster, state.session, me, policy)
    own_mask = os.urandom(shamir.SECRET_BYTES)
    peers = [neighbour.index for neighbour in roster.neighbours]
    threshold = roster.manifest.threshold
    private = keys.load(state.sharing_private)
    mask_shares = shamir.split(own_mask, threshold, peers)
    key_shares = shamir.split(state.masking_private, threshold, peers)
    dealing = Dealing(
        shares=tuple(
            _seal(
                private,
                roster,
                neighbour,
                mask_shares[neighbour.index] + key_shares[neighbour.index],
            )
            for neighbour in roster.neighbours
        )
    )
    dealt = state.model_copy(
        update={"own_mask": own_mask, "roster": roster, "dealing": dealing}
    )
    return dealt, dealing


def mask(state: State, inbox: Inbox, vector: Words) -> tuple[State, bytes]:
    """Open what neighbours dealt, and mask the vector for them. Send the bytes.

    Args:
        state: Shares were dealt.
        inbox: Of those neighbours that dealt theirs.
        vector: shape (encoding.length,), uint32; the same at every call.

    Raises:
        WrongShares: They are too few, doubled, of strangers, or cannot be opened.
        WrongVector: The vector is not of the manifest's length.
        OutOfStep: No shares were dealt, or another vector or another inbox was masked.
    """
    cohort = _cohort(state)
    manifest = cohort.roster.manifest
    if vector.shape != (manifest.encoding.length,) or vector.dtype.str != "<u4":
        raise WrongVector(
            f"a vector must be uint32 of shape ({manifest.encoding.length},), got "
            f"{vector.dtype} of {vector.shape}"
        )
    if state.inbox is not None and inbox != state.inbox:
        raise OutOfStep("the vector was masked for other neighbours before")
    held = _open(cohort, inbox)
    members = {each.index: each.member for each in cohort.roster.neighbours}
    own = cohort.roster.index
    private = keys.load(cohort.masking_private)
    masked = vector.copy()
    masks.add(masked, keys.own_mask_key(cohort.own_mask, manifest.digest), 1)
    for each in held:
        key = keys.pair_mask_key(
            private,
            members[each.peer].announcement.masking_key,
            manifest.digest,
            own,
            each.peer,
        )
        masks.add(masked, key, 1 if own < each.peer else -1)
    body = masked.tobytes()
    sha256 = hashlib.sha256(body).hexdigest()
    if state.masked_sha256 is not None and sha256 != state.masked_sha256:
        raise OutOfStep("another vector was masked with these keys before")
    sent = state.model_copy(
        update={"inbox": inbox, "held": held, "masked_sha256": sha256}
    )
    return sent, body


def reveal(
    state: State, survivors: Survivors, policy: scrutiny.Policy
) -> tuple[State, Reveal]:
    """Give one share of each neighbour: of its own mask if it survived, else its key.

    Which one follows from the list of survivors and from what the device holds, so no
    request can ask for both, or for a neighbour that never dealt.

    Raises:
        WrongSurvivors: They are too few, doubled, unknown, or without this device.
        OutOfStep: Nothing was masked, or shares were given for another list.
    """
    if state.reveal is not None:
        if survivors != state.survivors:
            raise OutOfStep("shares were given for another list of survivors before")
        return state, state.reveal
    if state.masked_sha256 is None:
        raise OutOfStep("this device has masked no vector")
    roster = _cohort(state).roster
    held = [each.peer for each in state.held]
    alive = scrutiny.insist_survived(roster, held, survivors, policy)
    answer = Reveal(
        shares=tuple(
            RevealedShare(peer=each.peer, of="own_mask", share=each.own_mask)
            if each.peer in alive
            else RevealedShare(peer=each.peer, of="masking_key", share=each.masking_key)
            for each in state.held
        )
    )
    # From here on the other share of each could only do harm.
    return forget(state).model_copy(
        update={"survivors": survivors, "reveal": answer}
    ), answer


def forget(state: State) -> State:
    """Return a state without secrets, which no step can go on from.

    What was announced stays, so that the session is not joined twice.
    """
    return State(
        session=state.session,
        device=state.device,
        identity=state.identity,
        announcement=state.announcement,
        sharing_private=None,
        masking_private=None,
        masked_sha256=state.masked_sha256,
    )


def _cohort(state: State) -> _Cohort:
    if (
        state.roster is None
        or state.sharing_private is None
        or state.masking_private is None
        or state.own_mask is None
    ):
        raise OutOfStep("this device has dealt no shares, or has forgotten its keys")
    return _Cohort(
        state.roster, state.sharing_private, state.masking_private, state.own_mask
    )


def _seal(
    private: keys.Private, roster: Roster, neighbour: Neighbour, shares: bytes
) -> SealedShares:
    manifest, own, peer = roster.manifest.digest, roster.index, neighbour.index
    public = neighbour.member.announcement.sharing_key
    key = keys.sealing_key(private, public, manifest, own, peer)
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, shares, manifest + keys.route(own, peer))
    return SealedShares(peer=peer, sealed=nonce + sealed)


def _open(cohort: _Cohort, inbox: Inbox) -> tuple[HeldShares, ...]:
    """Open the shares of an inbox, or refuse all of it."""
    roster = cohort.roster
    members = {each.index: each.member for each in roster.neighbours}
    peers = [each.peer for each in inbox.shares]
    if not scrutiny.is_rising(peers) or not members.keys() >= {*peers}:
        raise WrongShares("the inbox holds shares of strangers, or twice of one")
    if len(peers) < roster.manifest.threshold:
        raise WrongShares(
            f"{len(peers)} neighbours dealt shares, {roster.manifest.threshold} must"
        )
    manifest, own = roster.manifest.digest, roster.index
    private = keys.load(cohort.sharing_private)
    held = []
    for each in inbox.shares:
        public = members[each.peer].announcement.sharing_key
        key = keys.sealing_key(private, public, manifest, each.peer, own)
        nonce, sealed = each.sealed[:_NONCE_BYTES], each.sealed[_NONCE_BYTES:]
        context = manifest + keys.route(each.peer, own)
        try:
            shares = AESGCM(key).decrypt(nonce, sealed, context)
        except InvalidTag as error:
            raise WrongShares(
                f"the shares of index {each.peer} cannot be opened: altered, or its "
                "device was told of another cohort"
            ) from error
        held.append(
            HeldShares(
                peer=each.peer,
                own_mask=shares[: shamir.SHARE_BYTES],
                masking_key=shares[shamir.SHARE_BYTES :],
            )
        )
    return tuple(held)
