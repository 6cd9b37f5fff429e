"""The worker keeps rounds moving: deadlines, lapsed leases, claims."""

import dataclasses
import datetime as dt
from collections.abc import Callable

from coordinator.domain.aggregation import AcceptedUpdate, in_fold_order
from coordinator.domain.assignments import State
from coordinator.domain.events import Happening
from coordinator.domain.models import Model, Version
from coordinator.domain.rounds import (
    FOLD_LEASE,
    MAX_CLAIMS,
    Event,
    Phase,
    Round,
)
from coordinator.domain.tasks import Status, Task
from coordinator.store import (
    assignments,
    events,
    he,
    models,
    rounds,
    secagg,
    subjects,
    tasks,
)
from coordinator.store import privacy as stored_privacy
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.rounds import Outlook
from coordinator.usecases import phases
from coordinator.usecases.phases import abandon, stop_task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A round that this worker folds, and what it needs to."""

    round: Round
    task: Task
    model: Model
    base: Version
    updates: tuple[AcceptedUpdate, ...]  #: in the order in which they are summed
    results: int  #: accepted, updates or evaluations


def look(store: Store, *, now: dt.datetime) -> Outlook:
    """Say by one short query whether a worker has anything to do."""
    return store.read(lambda tx: rounds.outlook(tx, now))


def advance(store: Store, *, now: dt.datetime) -> int:
    """Lapse leases and end phases whose time has come.

    Returns:
        How many leases and rounds were changed.
    """
    due = store.read(lambda tx: _anything_due(tx, now))
    if not due:
        return 0

    def body(tx: Transaction) -> int:
        lapsed = _lapse_leases(tx, now)
        closed = sum(
            phases.end_if_due(tx, rounds.get(tx, open_.id), now)
            for open_ in rounds.unfinished(tx)
        )
        return lapsed + closed

    return store.run("advance", body)


def claim(store: Store, *, worker: str, now: dt.datetime) -> Claim | None:
    """Take a round that waits to be folded; none if there is none.

    A round that was claimed too often is given up: whatever it holds kills workers.
    """
    if not store.read(
        lambda tx: any(_is_claimable(r, now) for r in rounds.unfinished(tx))
    ):
        return None

    def body(tx: Transaction) -> Claim | None:
        round_id = rounds.claimable(tx, now)
        if round_id is None:
            return None
        round_ = rounds.get(tx, round_id)
        if round_.claims >= MAX_CLAIMS:
            abandon(
                tx,
                round_,
                Event.GIVEN_UP,
                f"{MAX_CLAIMS} workers did not get to the end of folding it",
                now=now,
            )
            return None
        claimed = round_.after(Event.CLAIMED, now=now, owner=worker)
        rounds.replace(tx, claimed)
        events.append_of(
            tx,
            Happening.ROUND_CLAIMED,
            round_,
            now=now,
            worker=worker,
        )
        return Claim(
            round=claimed,
            task=tasks.get(tx, round_.task),
            model=models.get(tx, round_.model),
            base=models.get_version(tx, round_.model, round_.base_version),
            updates=tuple(in_fold_order(assignments.updates_of_round(tx, round_.id))),
            results=assignments.count_accepted(tx, round_.id),
        )

    return store.run("claim", body)


def renew(store: Store, claim_: Claim, *, worker: str, now: dt.datetime) -> None:
    """Hold on to a claimed round for longer.

    Raises:
        StaleWrite: Another worker has taken it over.
    """
    store.run(
        "renew", lambda tx: rounds.renew(tx, claim_.round.id, worker, now + FOLD_LEASE)
    )


def free_claims(
    store: Store, *, is_gone: Callable[[str], bool], now: dt.datetime
) -> int:
    """Let others take the rounds that a dead worker holds, before its lease ends.

    A mistake about who is dead costs time only: a round is released by whoever wrote
    its last claim, and by nobody else.

    Args:
        store: The database.
        is_gone: Says of a worker's name whether that worker has died.
        now: The present moment.

    Returns:
        How many rounds were freed.
    """

    def body(tx: Transaction) -> int:
        freed = 0
        for round_ in rounds.unfinished(tx):
            if round_.owner is None or round_.deadline <= now:
                continue
            if is_gone(round_.owner):
                rounds.renew(tx, round_.id, round_.owner, now)
                freed += 1
        return freed

    return store.run("free_claims", body)


def give_up(store: Store, claim_: Claim, reason: str, *, now: dt.datetime) -> None:
    """Abandon a claimed round whose result is unusable."""

    def body(tx: Transaction) -> None:
        round_ = rounds.get(tx, claim_.round.id)
        if round_.revision == claim_.round.revision:
            abandon(tx, round_, Event.GIVEN_UP, reason, now=now)

    store.run("give_up", body)


def stop_spent(store: Store, claim_: Claim, reason: str, *, now: dt.datetime) -> None:
    """Stop a task whose claimed round may not be released any more."""

    def body(tx: Transaction) -> None:
        round_ = rounds.get(tx, claim_.round.id)
        if round_.revision == claim_.round.revision:
            stop_task(tx, tasks.get(tx, round_.task), reason, now=now)

    store.run("stop_spent", body)


def hand_back(store: Store, claim_: Claim, reason: str, *, now: dt.datetime) -> None:
    """Leave a claimed round to a later try, because it cannot be folded now.

    Such a claim does not count towards those after which a round is given up.
    """

    def body(tx: Transaction) -> None:
        round_ = rounds.get(tx, claim_.round.id)
        if round_.revision != claim_.round.revision:
            return
        rounds.replace(tx, round_.after(Event.HANDED_BACK, now=now))
        events.append_of(
            tx, Happening.ROUND_HANDED_BACK, round_, now=now, reason=reason
        )

    store.run("hand_back", body)


def clean_up(store: Store, blobs: BlobStore) -> int:
    """Delete what devices sent to rounds that have ended. Returns how many rounds.

    That is the bodies of updates, the sums of evaluations, and what secure aggregation
    needed beside its vectors.
    """
    ended = store.read(rounds.with_undeleted_blobs)
    for round_id in ended:
        delete_results(store, blobs, round_id)
    return len(ended)


def delete_results(store: Store, blobs: BlobStore, round_id: int) -> None:
    """Delete what devices sent to a round that has ended, and note it."""
    blobs.delete_updates(round_id)

    def body(tx: Transaction) -> None:
        assignments.delete_evaluations(tx, round_id)
        stored_privacy.forget_chosen(tx, round_id)
        secagg.forget(tx, round_id)
        he.forget(tx, round_id)
        subjects.forget_figures(tx, round_id)
        task = tasks.get(tx, rounds.peek(tx, round_id).task)
        if task.status is not Status.RUNNING:
            stored_privacy.forget_secret(tx, task.id)
        rounds.mark_blobs_deleted(tx, round_id)

    store.run("clean_up", body)


def _is_claimable(round_: Round, now: dt.datetime) -> bool:
    return round_.phase is Phase.AGGREGATING and round_.deadline <= now


def _anything_due(tx: Transaction, now: dt.datetime) -> bool:
    if assignments.expired(tx, now):
        return True
    return any(
        r.phase is not Phase.AGGREGATING and r.deadline <= now
        for r in rounds.unfinished(tx)
    )


def _lapse_leases(tx: Transaction, now: dt.datetime) -> int:
    expired = assignments.expired(tx, now)
    for assignment in expired:
        assignments.end(tx, assignment.ended(State.LAPSED, now=now))
        round_ = rounds.peek(tx, assignment.round_id)
        events.append_of(
            tx,
            Happening.LEASE_LAPSED,
            round_,
            now=now,
            device=assignment.device_id,
            assignment=assignment.id,
        )
    return len(expired)
