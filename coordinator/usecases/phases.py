"""A round goes from phase to phase, and the next one opens."""

import datetime as dt
import secrets

from coordinator.domain import tasks as task_policy
from coordinator.domain.assignments import Assignment, State
from coordinator.domain.events import Happening
from coordinator.domain.rounds import (
    STEPS,
    Event,
    NewRound,
    Phase,
    Round,
    due_event,
    step_event,
)
from coordinator.domain.tasks import Status, Task
from coordinator.protocol.secagg.refusals import UnsuitableCohort
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, events, registry, rounds, tasks
from coordinator.store.engine import Transaction
from coordinator.usecases import cohorts, privacy

_ENTERED = {
    Phase.SHARING: Happening.ROUND_SHARING,
    Phase.MASKING: Happening.ROUND_MASKING,
    Phase.UNMASKING: Happening.ROUND_UNMASKING,
    Phase.AGGREGATING: Happening.ROUND_AGGREGATING,
}


def end_if_due(tx: Transaction, round_: Round, now: dt.datetime) -> bool:
    """End the phase of a round that waits for devices, if it waits no longer.

    Args:
        tx: A transaction that holds the round.
        round_: The round.
        now: The present moment.

    Returns:
        Whether the phase ended.
    """
    if round_.phase is Phase.COLLECTING:
        return _end_collecting(tx, round_, now)
    if round_.phase not in STEPS:
        return False
    left = cohorts.end_step(tx, round_, now)
    if left is None:
        return False
    event = step_event(round_, left=left)
    if event is Event.MINIMUM_MISSED:
        reason = (
            f"{left} devices are left of secure aggregation after {round_.phase}, the "
            f"minimum is {round_.policy.minimum}"
        )
        abandon(tx, round_, event, reason, now=now)
        return True
    _enter(tx, round_, event, left, now)
    return True


def _end_collecting(tx: Transaction, round_: Round, now: dt.datetime) -> bool:
    accepted = assignments.count_accepted(tx, round_.id)
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
    if event is Event.GATHERED:
        try:
            cohorts.form(tx, round_)
        except UnsuitableCohort as error:
            abandon(tx, round_, Event.MINIMUM_MISSED, str(error), now=now)
            return True
        lapse_rest(tx, round_, now)
    _enter(tx, round_, event, accepted, now)
    return True


def _enter(
    tx: Transaction, round_: Round, event: Event, accepted: int, now: dt.datetime
) -> None:
    entered = round_.after(event, now=now)
    rounds.replace(tx, entered)
    events.append_of(tx, _ENTERED[entered.phase], round_, now=now, accepted=accepted)


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
    session = secrets.token_hex(16) if new.policy.sums_unseen else None
    round_ = rounds.insert(tx, new, session=session)
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
