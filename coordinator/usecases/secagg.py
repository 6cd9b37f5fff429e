"""A device's steps in secure aggregation: join, deal, send its vector, reveal.

The vector itself comes in as any update does: see ``participation``. What a device asks
for at a step is there once the step has begun; until then it waits.
"""

import datetime as dt

from coordinator.domain.aggregation import AcceptedUpdate
from coordinator.domain.assignments import Assignment, State
from coordinator.domain.errors import (
    AlreadyReported,
    CohortEnded,
    LeftOut,
    NotSecure,
    RoundClosed,
)
from coordinator.domain.events import Happening
from coordinator.domain.rounds import STEPS, Phase, Round
from coordinator.protocol.secagg import cohort as formation
from coordinator.protocol.secagg import stages
from coordinator.protocol.secagg.messages import (
    Announcement,
    Dealing,
    Inbox,
    Reveal,
    Roster,
    Survivors,
)
from coordinator.protocol.secagg.summands import Encoding
from coordinator.store import assignments, devices, secagg, tasks
from coordinator.store.engine import Store, Transaction
from coordinator.store.secagg import StoredCohort, StoredMember
from coordinator.usecases import cohorts, reporting
from coordinator.usecases.phases import end_if_due


def join(
    store: Store,
    announcement: Announcement,
    *,
    device_id: str,
    assignment_id: str,
    now: dt.datetime,
) -> dt.datetime:
    """Let a device join that has trained. Returns when; the same keys again: no change.

    Raises:
        NotSecure: The round takes updates in the clear.
        AlreadyReported: It joined with other keys before.
        KeysRefused: The keys are unusable, or not signed by its device key.
        AssignmentUnknown, ForeignAssignment, LeaseLapsed, AssignmentEnded,
        RoundClosed: As their names say.
    """

    def body(tx: Transaction) -> dt.datetime:
        assignment, round_ = reporting.own(
            tx, device_id, assignment_id, None, lock=True
        )
        _insist_secure(round_)
        known = secagg.member(tx, assignment_id)
        if known is not None and assignment.ended_at is not None:
            if known.announcement != announcement:
                raise AlreadyReported(assignment_id)
            return assignment.ended_at
        reporting.insist_open(assignment, round_, now)
        formation.admit(
            cohorts.session_of(tx, round_, tasks.get(tx, round_.task)),
            device_id,
            devices.public_key_of(tx, device_id),
            announcement,
        )
        assignments.end(tx, assignment.ended(State.ACCEPTED, now=now))
        secagg.insert_member(tx, assignment_id, round_.id, announcement)
        reporting.note(tx, Happening.DEVICE_JOINED, round_, assignment, now)
        end_if_due(tx, round_, now)
        return now

    return store.run("join_cohort", body)


def roster(store: Store, *, device_id: str, assignment_id: str) -> Roster | None:
    """Return what a device is told of its cohort; none: it is not formed yet.

    Raises:
        NotSecure, RoundClosed, CohortEnded: There is none, or none any more.
        AssignmentUnknown, ForeignAssignment: As their names say.
    """

    def body(tx: Transaction) -> Roster | None:
        found = _at_step(tx, device_id, assignment_id, Phase.SHARING)
        return None if found is None else found[0].cohort.roster(found[1])

    return store.read(body)


def deal(
    store: Store,
    dealing: Dealing,
    *,
    device_id: str,
    assignment_id: str,
    now: dt.datetime,
) -> None:
    """Take the shares that a device deals to its neighbours. Again: no change.

    Raises:
        AlreadyReported: It dealt others before.
        WrongShares: They are not one for each neighbour.
        NotSecure, RoundClosed, CohortEnded: The step is over, or not begun.
        AssignmentUnknown, ForeignAssignment: As their names say.
    """

    def body(tx: Transaction) -> None:
        _, round_ = reporting.own(tx, device_id, assignment_id, None, lock=True)
        stored, place, member = _in_cohort(tx, round_, assignment_id, "shares")
        if member.dealing is not None:
            if member.dealing != dealing.packed():
                raise AlreadyReported(assignment_id)
            return
        _insist_step(round_, Phase.SHARING, now, "shares")
        stages.check_dealing(stored.cohort, place, dealing)
        secagg.put_dealing(tx, assignment_id, dealing.packed())
        end_if_due(tx, round_, now)

    store.run("deal_shares", body)


def inbox(store: Store, *, device_id: str, assignment_id: str) -> Inbox | None:
    """Return what a device's neighbours dealt to it; none: they still may.

    Raises:
        LeftOut: Too few of them did, or it did not itself.
        NotSecure, RoundClosed, CohortEnded: There is none, or none any more.
        AssignmentUnknown, ForeignAssignment: As their names say.
    """

    def body(tx: Transaction) -> Inbox | None:
        found = _at_step(tx, device_id, assignment_id, Phase.MASKING)
        if found is None:
            return None
        stored, place = found
        sharers = _insist_in(stored.sharers, place, assignment_id)
        around = sharers.intersection(stored.cohort.neighbours[place])
        return stages.inbox(
            stored.cohort, sharers, secagg.dealings(tx, stored.id, around), place
        )

    return store.read(body)


def expect_vector(
    tx: Transaction, assignment: Assignment, round_: Round, now: dt.datetime
) -> tuple[Encoding, AcceptedUpdate | None]:
    """Say what the masked vector of an assignment must be.

    Returns:
        Its encoding, and the vector that was accepted before, if one was.

    Raises:
        LeftOut: It is not among those that go on.
        RoundClosed, CohortEnded: The step is over, or not begun.
    """
    stored, place, _ = _in_cohort(tx, round_, assignment.id, "vector")
    known = assignments.update_of(tx, assignment.id)
    if known is None:
        _insist_step(round_, Phase.MASKING, now, "vector")
        _insist_in(stored.sharers, place, assignment.id)
    return stored.cohort.manifest.encoding, known and known[0]


def survivors(store: Store, *, device_id: str, assignment_id: str) -> Survivors | None:
    """Return whose vectors are in the sum; none: others still may come.

    Raises:
        LeftOut: The device's own is not.
        NotSecure, RoundClosed, CohortEnded: There is nothing to reveal any more.
        AssignmentUnknown, ForeignAssignment: As their names say.
    """

    def body(tx: Transaction) -> Survivors | None:
        found = _at_step(tx, device_id, assignment_id, Phase.UNMASKING)
        if found is None:
            return None
        stored, place = found
        alive = _insist_in(stored.survivors, place, assignment_id)
        return Survivors(indices=tuple(sorted(alive)))

    return store.read(body)


def reveal(
    store: Store,
    revealed: Reveal,
    *,
    device_id: str,
    assignment_id: str,
    now: dt.datetime,
) -> None:
    """Take the shares that unmask the sum. Again: no change.

    Raises:
        AlreadyReported: It revealed others before.
        LeftOut: Its vector is not in the sum.
        WrongShares: They are not the right one of each neighbour.
        NotSecure, RoundClosed, CohortEnded: The step is over, or not begun.
        AssignmentUnknown, ForeignAssignment: As their names say.
    """

    def body(tx: Transaction) -> None:
        _, round_ = reporting.own(tx, device_id, assignment_id, None, lock=True)
        stored, place, member = _in_cohort(tx, round_, assignment_id, "reveal")
        if member.reveal is not None:
            if member.reveal != revealed:
                raise AlreadyReported(assignment_id)
            return
        _insist_step(round_, Phase.UNMASKING, now, "reveal")
        alive = _insist_in(stored.survivors, place, assignment_id)
        stages.check_reveal(
            stored.cohort, stored.sharers or frozenset(), alive, place, revealed
        )
        secagg.put_reveal(tx, assignment_id, revealed)
        end_if_due(tx, round_, now)

    store.run("reveal_shares", body)


def _insist_secure(round_: Round) -> None:
    if not round_.policy.is_secure:
        raise NotSecure(round_.id)


def _insist_step(round_: Round, phase: Phase, now: dt.datetime, what: str) -> None:
    if round_.phase is not phase or now >= round_.deadline:
        raise RoundClosed(round_.id, round_.phase, what)


def _insist_in(
    places: frozenset[int] | None, place: int, assignment_id: str
) -> frozenset[int]:
    if places is None or place not in places:
        raise LeftOut(assignment_id)
    return places


def _in_cohort(
    tx: Transaction, round_: Round, assignment_id: str, what: str
) -> tuple[StoredCohort, int, StoredMember]:
    """Return the cohort that a device is in, its place there, and what it sent."""
    _insist_secure(round_)
    member = secagg.member(tx, assignment_id)
    if (
        round_.is_terminal
        or member is None
        or member.cohort_id is None
        or member.place is None
    ):
        raise RoundClosed(round_.id, round_.phase, what)
    stored = secagg.cohort(tx, member.cohort_id)
    if stored.ended is not None:
        raise CohortEnded(stored.id, stored.ended)
    return stored, member.place, member


def _at_step(
    tx: Transaction, device_id: str, assignment_id: str, phase: Phase
) -> tuple[StoredCohort, int] | None:
    """Return a device's cohort and place where ``phase`` is on; none: it is to come."""
    _, round_ = reporting.own(tx, device_id, assignment_id, None)
    _insist_secure(round_)
    joined = secagg.member(tx, assignment_id) is not None
    if joined and round_.phase is Phase.COLLECTING:
        return None
    stored, place, _ = _in_cohort(tx, round_, assignment_id, "question of that step")
    if round_.phase in STEPS[: STEPS.index(phase)]:
        return None
    if round_.phase is not phase:
        raise RoundClosed(round_.id, round_.phase, "question of that step")
    return stored, place
