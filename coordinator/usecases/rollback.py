"""A task goes on from another of its versions.

What was published stays; only what comes next begins elsewhere. The state of the
server's optimizer lies with each version, so it goes back too.
"""

import datetime as dt

from coordinator.domain import gate
from coordinator.domain import tasks as task_policy
from coordinator.domain.events import Happening
from coordinator.domain.rounds import Event, noted
from coordinator.domain.tasks import Status, Task
from coordinator.protocol.vocabulary import Kind
from coordinator.store import events, models, registry, rounds, tasks
from coordinator.store.engine import StaleWrite, Transaction
from coordinator.usecases.phases import end_without_result, open_round


def continue_from(
    tx: Transaction, task: Task, number: int, reason: str, *, now: dt.datetime
) -> Task:
    """Make a version of the task its current one. Returns the task.

    Its open training round is abandoned and opened anew on that version, whatever its
    attempt: the devices did nothing wrong. So is an evaluation of a later version,
    which nobody waits for any more.

    Raises:
        StaleWrite: A round has ended since it was looked at.
    """
    attempt = 1
    for open_ in rounds.unfinished(tx, task.id):
        if open_.kind is Kind.TRAIN:
            attempt = open_.attempt + 1
        elif open_.base_version <= number:
            continue
        round_ = rounds.get(tx, open_.id)
        if round_.is_terminal:  # it ended while this transaction waited for it
            raise StaleWrite(tx.name)
        end_without_result(tx, round_, Event.CANCELLED, reason, now=now)
    changed = task.continued_from(number)
    tasks.replace(tx, changed)
    events.append(
        tx,
        Happening.TASK_ROLLED_BACK,
        now=now,
        task=task.id,
        version=number,
        before=task.version,
        reason=reason,
    )
    if changed.status is Status.RUNNING:
        open_round(
            tx, task_policy.next_training_round(changed, now=now, attempt=attempt)
        )
    return changed


def go_back_if_worse(
    tx: Transaction, task: Task, number: int, source: str, *, now: dt.datetime
) -> None:
    """Judge a version that was just scored; go back from it if the gate says so.

    A version that the task has gone back from already is not judged again.
    """
    rules = task.plan.gate
    if rules is None:
        return
    line = registry.scored_line(
        tx,
        task.plan.model,
        task.version,
        source=source,
        up_to=number,
        limit=rules.window + 1,
    )
    if not line or line[0].version != number:
        return
    scored, *before = line
    back = gate.retreat(rules, source, scored, before)
    if back is None:
        return
    version = models.get_version(tx, task.plan.model, number)
    if version.round_id is not None:
        round_ = rounds.get(tx, version.round_id)
        rounds.replace(tx, noted(round_, back.reason))
    continue_from(tx, task, back.version, back.reason, now=now)
