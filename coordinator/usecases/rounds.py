"""The worker keeps rounds moving: deadlines, lapsed leases, claims."""

import dataclasses
import datetime as dt
from collections.abc import Callable

from coordinator.domain import tasks as task_policy
from coordinator.domain.aggregation import AcceptedUpdate, in_fold_order
from coordinator.domain.assignments import Assignment, State
from coordinator.domain.events import Happening
from coordinator.domain.models import Model, Version
from coordinator.domain.rounds import (
    FOLD_LEASE,
    MAX_CLAIMS,
    Event,
    NewRound,
    Phase,
    Round,
    due_event,
)
from coordinator.domain.tasks import Status, Task
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, events, models, registry, rounds, tasks
from coordinator.store import privacy as stored_privacy
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.rounds import Outlook
from coordinator.usecases import privacy


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
        closed = sum(_end_if_due(tx, open_.id, now) for open_ in rounds.unfinished(tx))
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

    That is the bodies of updates, and the sums of evaluations.
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
        task = tasks.get(tx, rounds.peek(tx, round_id).task)
        if task.status is not Status.RUNNING:
            stored_privacy.forget_secret(tx, task.id)
        rounds.mark_blobs_deleted(tx, round_id)

    store.run("clean_up", body)


def abandon(
    tx: Transaction, round_: Round, event: Event, reason: str, *, now: dt.datetime
) -> None:
    """End a round without a result; try it again, or stop the task, saying why."""
    _end_abandoned(tx, round_, event, reason, now=now)
    if not round_.policy.is_asynchronous:
        lapse_rest(tx, round_, now)
    task = tasks.get(tx, round_.task)
    if round_.kind is not Kind.TRAIN or task.status is not Status.RUNNING:
        lapse_rest(tx, round_, now)
        return
    if round_.attempt < task.plan.round.max_attempts:
        following = open_round(
            tx,
            task_policy.next_training_round(task, now=now, attempt=round_.attempt + 1),
        )
        hand_leases_on(tx, round_, following, task, now)
        return
    lapse_rest(tx, round_, now)
    stopped = task.stopped(
        f"round {round_.number} was abandoned {round_.attempt} times, at last because "
        f"{reason}"
    )
    tasks.replace(tx, stopped)
    note_end(tx, stopped, now=now)


def stop_task(tx: Transaction, task: Task, reason: str, *, now: dt.datetime) -> Task:
    """Stop a running task and abandon its open rounds; what it published stays."""
    stopped = task.stopped(reason)
    tasks.replace(tx, stopped)
    for open_ in rounds.unfinished(tx, task.id):
        abandon(
            tx,
            rounds.get(tx, open_.id),
            Event.CANCELLED,
            "the task was stopped",
            now=now,
        )
    note_end(tx, stopped, now=now)
    return stopped


def note_end(tx: Transaction, task: Task, *, now: dt.datetime) -> None:
    """Note that a task has ended, and why if it did not finish."""
    if task.status is Status.FINISHED:
        events.append(tx, Happening.TASK_FINISHED, now=now, task=task.id)
    else:
        events.append(
            tx, Happening.TASK_STOPPED, now=now, task=task.id, reason=task.reason
        )


def end_without_result(
    tx: Transaction, round_: Round, event: Event, reason: str, *, now: dt.datetime
) -> None:
    """Abandon a round and the leases in it, and nothing more."""
    _end_abandoned(tx, round_, event, reason, now=now)
    lapse_rest(tx, round_, now)


def _end_abandoned(
    tx: Transaction, round_: Round, event: Event, reason: str, *, now: dt.datetime
) -> None:
    rounds.replace(tx, round_.after(event, now=now, reason=reason))
    events.append_of(
        tx,
        Happening.ROUND_ABANDONED,
        round_,
        now=now,
        reason=reason,
    )


def open_round(tx: Transaction, new: NewRound) -> Round:
    """Open a round and note it."""
    round_ = rounds.insert(tx, new)
    if new.policy.chooses_in_secret:
        privacy.choose(tx, tasks.get(tx, new.task), round_)
    events.append(
        tx,
        Happening.ROUND_OPENED,
        now=new.opened_at,
        task=new.task,
        round_id=round_.id,
        kind=new.kind,
        number=new.number,
        attempt=new.attempt,
        base_version=new.base_version,
    )
    return round_


def _is_claimable(round_: Round, now: dt.datetime) -> bool:
    return round_.phase is Phase.AGGREGATING and round_.deadline <= now


def _anything_due(tx: Transaction, now: dt.datetime) -> bool:
    if assignments.expired(tx, now):
        return True
    return any(
        r.phase is Phase.COLLECTING and r.deadline <= now for r in rounds.unfinished(tx)
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


def lapse_rest(tx: Transaction, round_: Round, now: dt.datetime) -> None:
    """End the leases that a round leaves behind when it ends."""
    for assignment in assignments.leased_in(tx, round_.id):
        assignments.end(tx, assignment.ended(State.LAPSED, now=now))


def hand_leases_on(
    tx: Transaction, ended: Round, following: Round, task: Task, now: dt.datetime
) -> None:
    """Let devices of an asynchronous task go on in its next round.

    Those that would be too stale there lose their places instead. A synchronous
    task has no leases left to hand on.
    """
    plan = task.plan.asynchronous
    if plan is None:
        return
    for assignment in assignments.leased_in(tx, ended.id):
        if staleness(tx, assignment, following) > plan.max_staleness:
            assignments.end(tx, assignment.ended(State.LAPSED, now=now))
            events.append_of(
                tx,
                Happening.LEASE_LAPSED,
                ended,
                now=now,
                device=assignment.device_id,
                assignment=assignment.id,
                reason="too stale",
            )
    assignments.move_leases(tx, ended.id, following.id)


def staleness(tx: Transaction, assignment: Assignment, round_: Round) -> int:
    """Return how many rounds an assignment's version is behind ``round_``'s."""
    base = assignment.base_version
    if base is None or base == round_.base_version:
        return 0
    return registry.versions_since(tx, round_.model, base, head=round_.base_version)


def _end_if_due(tx: Transaction, round_id: int, now: dt.datetime) -> bool:
    round_ = rounds.get(tx, round_id)
    accepted = assignments.counts(tx, round_id, now).accepted
    event = due_event(
        round_, now=now, accepted=accepted, goal=privacy.goal_of(tx, round_)
    )
    if event is None:
        return False
    if event is Event.MINIMUM_MISSED:
        reason = (
            f"{accepted} results were accepted by the deadline, "
            f"the minimum is {round_.policy.minimum}"
        )
        abandon(tx, round_, event, reason, now=now)
        return True
    rounds.replace(tx, round_.after(event, now=now))
    events.append_of(
        tx,
        Happening.ROUND_AGGREGATING,
        round_,
        now=now,
        accepted=accepted,
    )
    return True
