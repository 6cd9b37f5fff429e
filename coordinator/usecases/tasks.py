"""Tasks: start one, see where it is, say how good its versions are."""

import dataclasses
import datetime as dt
import secrets

from coordinator.domain import tasks as task_policy
from coordinator.domain.aggregation import AcceptedUpdate, Score, train_score
from coordinator.domain.assignments import Counts
from coordinator.domain.errors import (
    TaskEnded,
    TaskExists,
    UnsuitablePlan,
    VersionUnknown,
)
from coordinator.domain.evaluation import Metrics, pooled
from coordinator.domain.events import Happening, Recorded
from coordinator.domain.initialization import draw_weights
from coordinator.domain.models import Version
from coordinator.domain.privacy import insist_candidates
from coordinator.domain.rounds import Phase, Round
from coordinator.domain.tasks import Status, Task
from coordinator.protocol import encodings
from coordinator.protocol.keystream import KEY_BYTES
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, events, models, rounds, tasks
from coordinator.store import privacy as stored_privacy
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.usecases.models import first_values
from coordinator.usecases.phases import open_round, stop_task
from coordinator.usecases.rollback import continue_from, go_back_if_worse


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """A round and what came in."""

    round: Round
    counts: Counts
    bytes_up: int  #: of accepted updates, as sent
    score: Score | None  #: of training or evaluation so far; none if abandoned
    staleness_mean: float | None = None  #: of an asynchronous task's updates
    staleness_max: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task and its open rounds."""

    task: Task
    open_rounds: tuple[RoundView, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version and what each source says of it."""

    version: Version
    round_number: int | None
    train: Score | None
    federated: Metrics | None
    held_out: Score | None


def create(
    store: Store,
    blobs: BlobStore,
    *,
    task_id: str,
    plan: Plan,
    has_authority: bool = False,
    now: dt.datetime,
) -> TaskView:
    """Publish first weights, given or drawn, and open the first round.

    Args:
        store: The database.
        blobs: Where weights lie.
        task_id: Name of the task.
        plan: Its settings.
        has_authority: Whether there is a key authority, for plans that encrypt.
        now: The present moment.

    Raises:
        ModelUnknown: The plan names a model that is not registered.
        TaskExists: The id is taken.
        UnsuitablePlan: The plan asks for what the model cannot do, for coins among
            too few devices, or for keys that there is no authority for.
    """
    if plan.he is not None and not has_authority:
        raise UnsuitablePlan(
            "he needs a key authority: set SHOAL_AUTHORITY_URL and "
            "SHOAL_AUTHORITY_TOKEN"
        )
    model = store.read(lambda tx: models.get(tx, plan.model))
    task_policy.insist_suitable(plan, model.manifest)
    given = first_values(blobs, model)
    weights = draw_weights(model.manifest, plan.seed, given)
    secret = secrets.token_bytes(KEY_BYTES)
    body_bytes = encodings.encode_weights(model.manifest, weights)
    weights_sha256 = blobs.put(body_bytes)

    def body(tx: Transaction) -> TaskView:
        if tasks.find(tx, task_id) is not None:
            raise TaskExists(task_id)
        newest = models.newest_version(tx, model.id)
        version = Version(
            model=model.id,
            number=0 if newest is None else newest + 1,
            task=task_id,
            round_id=None,
            weights_sha256=weights_sha256,
            size_bytes=len(body_bytes),
            optimizer_sha256=None,
            aggregate_norm=None,
            published_at=now,
        )
        models.insert_version(tx, version)
        task = Task(
            id=task_id,
            plan=plan,
            status=Status.RUNNING,
            reason=None,
            version=version.number,
            rounds_committed=0,
            created_at=now,
            revision=0,
        )
        tasks.insert(tx, task)
        if plan.privacy is not None:
            enrolled = stored_privacy.candidates(tx, most=plan.privacy.population)
            insist_candidates(plan, len(enrolled))
            stored_privacy.insert_secret(tx, task_id, secret)
        events.append(
            tx,
            Happening.TASK_CREATED,
            now=now,
            task=task_id,
            model=model.id,
            version=version.number,
        )
        open_round(tx, task_policy.next_training_round(task, now=now))
        return _view(tx, task, now)

    return store.run("create_task", body)


def stop(store: Store, *, task_id: str, now: dt.datetime) -> TaskView:
    """Stop a task and abandon its open rounds; what it published stays.

    Raises:
        TaskUnknown: There is none.
        TaskEnded: It has finished or stopped already.
    """

    def body(tx: Transaction) -> TaskView:
        task = tasks.get(tx, task_id)
        if task.status is not Status.RUNNING:
            raise TaskEnded(task_id, task.status)
        stopped = stop_task(tx, task, "an operator stopped it", now=now)
        return _view(tx, stopped, now)

    return store.run("stop_task", body)


def roll_back(store: Store, *, task_id: str, number: int, now: dt.datetime) -> TaskView:
    """Let a running task go on from another of its versions, mostly an older one.

    Raises:
        TaskUnknown: There is none.
        VersionUnknown: The task did not publish it.
        TaskEnded: It has finished or stopped.
    """

    def body(tx: Transaction) -> TaskView:
        task = tasks.get(tx, task_id)
        version = _own_version(tx, task, number)
        if task.status is not Status.RUNNING:
            raise TaskEnded(task_id, task.status)
        if version.number != task.version:
            reason = f"an operator let the task go on from version {number}"
            task = continue_from(tx, task, number, reason, now=now)
        return _view(tx, task, now)

    return store.run("roll_back", body)


def list_tasks(store: Store, *, now: dt.datetime) -> list[TaskView]:
    """Return every task, newest first."""
    return store.read(
        lambda tx: [_view(tx, task, now) for task in tasks.newest_first(tx)]
    )


def look(store: Store, *, task_id: str, now: dt.datetime) -> TaskView:
    """Return a task.

    Raises:
        TaskUnknown: There is none.
    """
    return store.read(lambda tx: _view(tx, tasks.get(tx, task_id), now))


def list_rounds(store: Store, *, task_id: str, now: dt.datetime) -> list[RoundView]:
    """Return every attempt at every round of a task, oldest first.

    Raises:
        TaskUnknown: There is none.
    """

    def body(tx: Transaction) -> list[RoundView]:
        tasks.get(tx, task_id)
        return [_round_view(tx, r, now) for r in rounds.of_task(tx, task_id)]

    return store.read(body)


def list_metrics(store: Store, *, task_id: str) -> list[VersionView]:
    """Return what is known of every version of a task, oldest first.

    Raises:
        TaskUnknown: There is none.
    """

    def body(tx: Transaction) -> list[VersionView]:
        tasks.get(tx, task_id)
        return _version_views(tx, task_id)

    return store.read(body)


def record_held_out(
    store: Store, *, task_id: str, number: int, score: Score, now: dt.datetime
) -> VersionView:
    """Keep what an operator measured of a version on central held-out examples.

    The plan's gate may let the task go back from it.

    Raises:
        TaskUnknown, VersionUnknown: As their names say.
    """

    def body(tx: Transaction) -> VersionView:
        task = tasks.get(tx, task_id)
        version = _own_version(tx, task, number)
        models.put_score(tx, version, "held_out", Metrics(score=score))
        events.append(
            tx,
            Happening.VERSION_SCORED,
            now=now,
            task=task_id,
            version=number,
            source="held_out",
            accuracy=score.accuracy,
            loss=score.loss,
        )
        go_back_if_worse(tx, task, number, "held_out", now=now)
        views = _version_views(tx, version.task)
        return next(view for view in views if view.version.number == number)

    return store.run("record_held_out", body)


def list_events(store: Store, *, after: int, limit: int) -> list[Recorded]:
    """Return events newer than an id, oldest first."""
    return store.read(lambda tx: events.after(tx, after, limit=limit))


def newest_events(store: Store, *, after: int) -> tuple[int, int]:
    """Return ids of the newest event and of the newest that may have made work.

    Only events newer than ``after`` count; 0 where there is none.
    """
    return store.read(lambda tx: events.newest(tx, after))


def last_event_id(store: Store) -> int:
    """Return the id of the newest event, 0 if there is none."""
    return store.read(events.last_id)


def _own_version(tx: Transaction, task: Task, number: int) -> Version:
    version = models.get_version(tx, task.plan.model, number)
    if version.task != task.id:
        raise VersionUnknown(task.plan.model, number)
    return version


def _view(tx: Transaction, task: Task, now: dt.datetime) -> TaskView:
    open_ = rounds.unfinished(tx, task.id)
    return TaskView(
        task=task, open_rounds=tuple(_round_view(tx, r, now) for r in open_)
    )


def _round_view(tx: Transaction, round_: Round, now: dt.datetime) -> RoundView:
    updates: list[AcceptedUpdate] = []
    if round_.kind is Kind.TRAIN or round_.policy.sums_unseen:
        updates = assignments.updates_of_round(tx, round_.id)
    if round_.is_terminal or round_.policy.sums_unseen:
        # What devices said is deleted or will be, or is known of their sum alone.
        score = _result(tx, round_)
    elif round_.kind is Kind.TRAIN:
        private = tasks.get(tx, round_.task).plan.privacy is not None
        score = None if private else train_score(updates)
    else:
        score = pooled(assignments.evaluations_of_round(tx, round_.id))
    counts = assignments.counts(tx, round_.id, now)
    if round_.policy.is_secure and updates:  # those who joined, less who vanished
        counts = dataclasses.replace(counts, accepted=len(updates))
    stale = [u.staleness for u in updates if round_.policy.is_asynchronous]
    return RoundView(
        round=round_,
        counts=counts,
        bytes_up=sum(update.size_bytes for update in updates),
        score=score,
        staleness_mean=sum(stale) / len(stale) if stale else None,
        staleness_max=max(stale, default=None),
    )


def _result(tx: Transaction, round_: Round) -> Score | None:
    """Return what was published of a round's metrics, if anything was."""
    if round_.phase is not Phase.COMMITTED:
        return None
    version, source = round_.result_version, "train"
    if version is None:
        version, source = round_.base_version, "federated"
    scores = models.scores_between(tx, round_.model, version, version)
    return models.score_of(scores, version, source)


def _version_views(tx: Transaction, task_id: str) -> list[VersionView]:
    scores = models.scores_of_task(tx, task_id)
    numbers = {r.id: r.number for r in rounds.of_task(tx, task_id)}
    return [
        VersionView(
            version=version,
            round_number=(
                None if version.round_id is None else numbers[version.round_id]
            ),
            train=models.score_of(scores, version.number, "train"),
            federated=scores.get((version.number, "federated")),
            held_out=models.score_of(scores, version.number, "held_out"),
        )
        for version in models.versions_of_task(tx, task_id)
    ]
