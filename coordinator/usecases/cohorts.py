"""What the coordinator decides of cohorts: who is in one, and who goes on at each step.

A decision is kept before anybody is told of it, and never taken again.
"""

import datetime as dt
import secrets

from coordinator.domain import privacy as domain_privacy
from coordinator.domain import schedules
from coordinator.domain.events import Happening
from coordinator.domain.rounds import Phase, Round
from coordinator.domain.tasks import Task
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.secagg import cohort as formation
from coordinator.protocol.secagg import parameters, stages, summands
from coordinator.protocol.secagg.messages import Session
from coordinator.protocol.secagg.refusals import CohortAborted
from coordinator.protocol.secagg.session import plan_sha256
from coordinator.protocol.secagg.summands import Encoding
from coordinator.protocol.vocabulary import Kind
from coordinator.store import events, models, secagg, tasks
from coordinator.store.engine import Transaction
from coordinator.store.secagg import StoredCohort


def session_of(tx: Transaction, round_: Round, task: Task) -> Session:
    """Return what devices of a round join.

    Raises:
        ValueError: The round sums in the clear.
    """
    if round_.session is None:
        raise ValueError(f"round {round_.id} has no session")
    is_training = round_.kind is Kind.TRAIN
    training = task.plan.training if is_training else None
    base = models.get_version(tx, round_.model, round_.base_version)
    return Session(
        id=round_.session,
        task=task.id,
        round=round_.number,
        attempt=round_.attempt,
        model_sha256=base.weights_sha256,
        plan_sha256=plan_sha256(
            training and schedules.training_of_round(training, round_.number)
        ),
    )


def plan_of(task: Task) -> SecAggPlan:
    """Return how a task aggregates securely.

    Raises:
        ValueError: It does not.
    """
    if task.plan.secagg is None:
        raise ValueError(f"task {task.id} sums in the clear")
    return task.plan.secagg


def form(tx: Transaction, round_: Round) -> None:
    """Split those who joined a round into cohorts, by lot."""
    task = tasks.get(tx, round_.task)
    plan = plan_of(task)
    session = session_of(tx, round_, task)
    encoding = _encoding(tx, round_, task)
    joined = list(secagg.gathered(tx, round_.id).items())
    secrets.SystemRandom().shuffle(joined)
    start = 0
    for size in plan.sizes(len(joined)):
        group = dict(joined[start : start + size])
        start += size
        cohort = formation.form(
            secrets.token_hex(16),
            session,
            group.values(),
            parameters=parameters.choose(
                size, dropout=plan.dropout, collusion=plan.collusion
            ),
            encoding=encoding,
            minimum=plan.cohort_minimum,
        )
        places = {
            assignment: cohort.indices[member.device]
            for assignment, member in group.items()
        }
        secagg.insert_cohort(tx, cohort, round_.id, places)


def _encoding(tx: Transaction, round_: Round, task: Task) -> Encoding:
    plan, privacy = plan_of(task), task.plan.privacy
    clip_norm = plan.clip_norm if privacy is None else privacy.clip_norm
    is_training = round_.kind is Kind.TRAIN
    manifest = models.get(tx, round_.model).manifest
    size = summands.update_size(manifest.trainable_size, is_training=is_training)
    if not is_training:
        privacy = None

    def noise_of(bits: int) -> float:
        if privacy is None:
            return 0.0
        honest = plan.honest(task.plan.round.goal)
        return domain_privacy.device_stddev(privacy, bits, size, honest=honest)

    bits = summands.most_bits(plan.cohort_size, noise_of=noise_of)
    return Encoding(
        size=size,
        clip_norm=clip_norm or 1.0,
        bits=bits,
        max_devices=plan.cohort_size,
        weighting="examples" if privacy is None else "uniform",
        max_examples=plan.max_examples,
        noise_stddev=noise_of(bits),
    )


def end_step(tx: Transaction, round_: Round, now: dt.datetime) -> int | None:
    """Decide who goes on, if the round's step is over: all have come, or it is time.

    Returns:
        How many devices are left in all cohorts; none: the step goes on.
    """
    is_over = now >= round_.deadline
    found = secagg.cohorts(tx, round_.id)
    if round_.phase is Phase.SHARING:
        come = {each.id: secagg.dealt(tx, each.id) for each in found}
        if not is_over and any(
            len(come[each.id]) < each.cohort.manifest.devices for each in found
        ):
            return None
    elif round_.phase is Phase.MASKING:
        come = {each.id: frozenset(secagg.vectors(tx, each.id)) for each in found}
        if not is_over and any(come[each.id] != each.sharers for each in found):
            return None
    else:
        come = {each.id: secagg.revealed(tx, each.id) for each in found}
        if not is_over and any(_waiting(each, come[each.id]) for each in found):
            return None
    return sum(_go_on(tx, round_, each, come[each.id], now) for each in found)


def _waiting(stored: StoredCohort, revealed: frozenset[int]) -> frozenset[int]:
    return stages.waiting_for(stored.cohort, stored.sharers or frozenset(), revealed)


def _go_on(
    tx: Transaction,
    round_: Round,
    stored: StoredCohort,
    come: frozenset[int],
    now: dt.datetime,
) -> int:
    """Decide who of a cohort goes on. Returns how many; 0: it has come to nothing."""
    sharers = stored.sharers or frozenset()
    try:
        if round_.phase is Phase.SHARING:
            left = stages.choose_sharers(stored.cohort, come)
            secagg.put_sharers(tx, stored.id, left)
        elif round_.phase is Phase.MASKING:
            left = come
            stages.insist_survivors(stored.cohort, sharers, left)
            secagg.put_survivors(tx, stored.id, left)
        else:
            left = stored.survivors or frozenset()
            stages.insist_revealed(stored.cohort, sharers, come)
    except CohortAborted as error:
        end(tx, round_, stored, str(error), now=now)
        return 0
    return len(left)


def end(
    tx: Transaction, round_: Round, stored: StoredCohort, why: str, *, now: dt.datetime
) -> None:
    """Note that the sum of a cohort cannot be had."""
    secagg.end_cohort(tx, stored.id, why)
    events.append_of(
        tx,
        Happening.COHORT_ENDED,
        round_,
        now=now,
        cohort=stored.id,
        devices=stored.cohort.manifest.devices,
        reason=why,
    )
