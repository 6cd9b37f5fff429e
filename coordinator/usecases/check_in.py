"""A device asks for work."""

import dataclasses
import datetime as dt
from collections.abc import Sequence

from coordinator.domain import selection
from coordinator.domain.assignments import Assignment, State
from coordinator.domain.errors import DeviceRevoked, IdempotencyKeyReused
from coordinator.domain.events import Happening
from coordinator.domain.models import Model, Version
from coordinator.domain.rounds import Phase, Round
from coordinator.domain.tasks import Task
from coordinator.protocol.vocabulary import Kind, WaitReason
from coordinator.store import (
    assignments,
    privacy,
    rounds,
    tasks,
    work,
)
from coordinator.store.engine import Store, Transaction
from coordinator.usecases import reporting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An assignment and all that the device must know to do it."""

    assignment: Assignment
    round: Round
    task: Task
    model: Model
    version: Version


def check_in(
    store: Store,
    *,
    device_id: str,
    idempotency_key: str,
    assignment_id: str,
    now: dt.datetime,
) -> Work | WaitReason:
    """Lease a place in an open round to a device, or say why there is none.

    The same key again returns the same assignment; so does any key while the device
    holds a live one, because a device works on one thing at a time.

    Args:
        store: The database.
        device_id: Who asks.
        idempotency_key: Drawn by the device for this wish for work.
        assignment_id: Fresh id for the assignment that may be made.
        now: The present moment.

    Raises:
        DeviceRevoked: The device is revoked.
        IdempotencyKeyReused: The key's assignment has ended.
    """

    def body(tx: Transaction) -> Work | WaitReason:
        revoked_at, own = work.of_device(tx, device_id, idempotency_key)
        if revoked_at is not None:  # while it waited
            raise DeviceRevoked(device_id)
        held = _held(tx, own, idempotency_key, now)
        if held is not None:
            return _work(tx, *held)
        reasons: list[WaitReason] = []
        for round_ in rounds.collecting(tx):
            reason = _reason_to_wait(tx, round_, own, device_id, now)
            if reason is None:
                assignment = Assignment(
                    id=assignment_id,
                    round_id=round_.id,
                    base_version=round_.base_version,
                    device_id=device_id,
                    idempotency_key=idempotency_key,
                    state=State.LEASED,
                    leased_at=now,
                    lease_expires_at=round_.lease_end(now),
                    ended_at=None,
                    failure=None,
                )
                assignments.insert(tx, assignment)
                _note(tx, Happening.PLACE_LEASED, assignment, round_, now)
                return _work(tx, assignment, round_)
            reasons.append(reason)
        if reasons:
            return reasons[0]
        if rounds.unfinished(tx) or tasks.any_running(tx) or not tasks.any_at_all(tx):
            return WaitReason.NO_OPEN_ROUND
        return WaitReason.TASKS_ENDED

    return store.run("check_in", body)


def places_wanted(store: Store) -> int:
    """Return how many places there are in all unfinished rounds together.

    Those of a round that is being folded count: the next one will have as many.
    """
    return store.read(
        lambda tx: sum(round_.policy.places for round_ in rounds.unfinished(tx))
    )


def _held(
    tx: Transaction, own: Sequence[Assignment], key: str, now: dt.datetime
) -> tuple[Assignment, Round] | None:
    """Return the device's live assignment; end one that is of no use any more.

    Raises:
        IdempotencyKeyReused: The key is that of an assignment that has ended.
    """
    held = next((each for each in own if each.state is State.LEASED), None)
    if held is not None:
        held, round_ = _with_round(tx, held)
        if held.is_live(now) and round_.keeps_leases(now):
            return held, round_
        _lapse(tx, held, round_, now)
    for each in own:
        if each.idempotency_key == key:
            raise IdempotencyKeyReused(each.id)
    return None


def _reason_to_wait(
    tx: Transaction,
    round_: Round,
    own: Sequence[Assignment],
    device_id: str,
    now: dt.datetime,
) -> WaitReason | None:
    reason = selection.reason_to_wait(
        round_,
        assignments.counts(tx, round_.id, now),
        [each for each in own if each.round_id == round_.id],
        now=now,
    )
    if round_.policy.chooses_in_secret and not privacy.is_chosen(
        tx, round_.id, device_id
    ):
        return WaitReason.NO_OPEN_ROUND  # as if there was no round: nobody may learn
    if reason is not None or not round_.policy.limits_participation:
        return reason
    # Read while the round is locked: what another call of this device has brought in
    # meanwhile counts.
    took_part = assignments.participation(tx, device_id, round_.task)
    return selection.reason_to_rest(round_, took_part)


def _with_round(tx: Transaction, held: Assignment) -> tuple[Assignment, Round]:
    round_ = rounds.peek(tx, held.round_id)
    if round_.policy.is_asynchronous and round_.is_terminal:
        # It was moved to the next round, or ended, between the two reads.
        held = assignments.get(tx, held.id)
        round_ = rounds.peek(tx, held.round_id)
    return held, round_


def _work(tx: Transaction, assignment: Assignment, round_: Round) -> Work:
    base = assignment.base_version
    number = round_.base_version if base is None else base
    task, model, version = work.of_round(tx, round_, number)
    return Work(
        assignment=assignment, round=round_, task=task, model=model, version=version
    )


def _lapse(tx: Transaction, held: Assignment, round_: Round, now: dt.datetime) -> None:
    """End a lease that is of no use any more, so that the device may take another."""
    assignments.end(tx, held.ended(State.LAPSED, now=now))
    if round_.phase is Phase.COLLECTING:
        _note(tx, Happening.LEASE_LAPSED, held, round_, now)


def _note(
    tx: Transaction,
    happening: Happening,
    assignment: Assignment,
    round_: Round,
    now: dt.datetime,
) -> None:
    kind = {"kind": round_.kind} if round_.kind is Kind.EVALUATE else {}
    reporting.note(tx, happening, round_, assignment, now, **kind)
