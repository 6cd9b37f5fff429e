"""The worker folds a claimed round and releases its result."""

import collections
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, overload

import numpy as np
import numpy.typing as npt

from coordinator.domain import gate, optimizers
from coordinator.domain import tasks as task_policy
from coordinator.domain.aggregation import (
    AcceptedUpdate,
    Folded,
    fold_weight,
    train_score,
)
from coordinator.domain.evaluation import Metrics, summarize
from coordinator.domain.events import Happening
from coordinator.domain.models import Version
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.domain.privacy import PrivateFold
from coordinator.domain.rounds import Event, Round
from coordinator.domain.tasks import Status, Task
from coordinator.protocol import encodings
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.protocol.plan_rounds import AsynchronousPlan
from coordinator.protocol.plan_server import AggregationPlan
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, events, models, registry, rounds, tasks
from coordinator.store import privacy as stored_privacy
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.usecases import encrypted, privacy, secure_fold
from coordinator.usecases.encrypted import KeyAuthority
from coordinator.usecases.phases import (
    hand_leases_on,
    lapse_rest,
    note_end,
    open_round,
)
from coordinator.usecases.rollback import go_back_if_worse
from coordinator.usecases.rounds import Claim
from coordinator.usecases.secure_fold import RoundSum

_AHEAD: Final = 2  # updates that are read while another is folded


class Compute(privacy.Accounting, Protocol):
    """The numerics of a release, which only the worker can do."""

    def fold(
        self,
        updates: Sequence[tuple[float, Vector]],
        *,
        size: int,
        plan: AggregationPlan,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        """Return the aggregate of weighted deltas of ``size`` elements.

        Raises:
            ArithmeticError: There is none that is finite and keeps the plan's rule.
        """
        ...

    def fold_privately(
        self,
        updates: Sequence[tuple[float, Vector]],
        settings: PrivateFold,
        *,
        size: int,
        state: bytes | None,
        on_progress: Callable[[int], None],
    ) -> Folded:
        """Return the noisy aggregate of deltas; their weights are not looked at.

        The same updates and settings give the same bits.
        """
        ...

    def fold_sum_privately(
        self,
        total: npt.NDArray[np.int64],
        settings: PrivateFold,
        *,
        clip_norm: float,
        bits: int,
        on_progress: Callable[[int], None],
    ) -> Folded:
        """Return the noisy aggregate of deltas that are added up already.

        ``clip_norm`` is ``2**bits`` in ``total``. The same bits each time.
        """
        ...

    def step(
        self,
        weights: Vector,
        folded: Folded,
        settings: ServerOptimizer,
        state: bytes | None,
    ) -> tuple[Vector, bytes | None]:
        """Return new weights, and the new state of optimizer and aggregation.

        Raises:
            ArithmeticError: The result is not finite.
        """
        ...


def release(
    store: Store,
    blobs: BlobStore,
    compute: Compute,
    claim: Claim,
    *,
    authority: KeyAuthority | None = None,
    on_progress: Callable[[int], None],
    now: Callable[[], dt.datetime],
) -> int | None:
    """Fold a claimed round and publish what comes out.

    Args:
        store: The database.
        blobs: Where updates and weights lie.
        compute: The numerics.
        claim: The round, held by this worker.
        authority: Who decrypts sums; none: there are none to decrypt.
        on_progress: Called with the number of updates folded so far.
        now: Tells the moment of the release, when the work is done.

    Returns:
        The version that was published; none for an evaluation.

    Raises:
        ArithmeticError: The result is not finite; nothing was released.
        SumLost: The sum of too few devices can be had; nothing was released.
        AuthorityAway: The sum cannot be decrypted now.
        BudgetSpent: The release would pass the plan's budget; it did not happen.
        BlobLost: An update, or what the round starts from, is gone or spoilt.
        StorageUnavailable: Files cannot be read or written now.
        gate.Rejected: The plan's gate does not let it pass; nothing was released.
        StaleWrite: Another worker took the round over; nothing was released.
    """
    added = None
    if claim.round.policy.is_secure:
        added = secure_fold.add_up(
            store, blobs, claim, on_progress=on_progress, now=now
        )
    elif claim.round.policy.is_encrypted:
        added = encrypted.add_up(
            store, blobs, authority, claim, on_progress=on_progress
        )
    if claim.round.kind is Kind.EVALUATE:
        _release_evaluation(store, claim, added, now=now())
        return None
    priced = privacy.price(
        store, compute, claim.task, claim.round, on_wait=lambda: on_progress(0)
    )
    manifest = claim.model.manifest
    rules = claim.task.plan.gate
    recent = _recent(store, claim)
    metrics = _metrics(claim, added)
    if metrics is not None:
        gate.insist_loss(rules, metrics.score.loss, recent.losses)
    state_sha256 = claim.base.optimizer_sha256
    state = None if state_sha256 is None else blobs.get(state_sha256)
    folded = _fold(
        blobs,
        compute,
        claim,
        priced=priced,
        added=added,
        state=state,
        on_progress=on_progress,
    )
    norm = float(np.linalg.norm(folded.mean))
    gate.insist_norm(rules, norm, recent.norms)
    base = encodings.decode_weights(manifest, blobs.get(claim.base.weights_sha256))
    trained, new_state = compute.step(
        _trainable_part(manifest, base),
        folded,
        optimizers.of_round(claim.task.plan.server, claim.round.number),
        state,
    )
    body = encodings.encode_weights(manifest, _with_trainable(manifest, base, trained))
    weights_sha256 = blobs.put(body)
    optimizer_sha256 = None if new_state is None else blobs.put(new_state)

    def publish(number: int, moment: dt.datetime) -> Version:
        return Version(
            model=claim.model.id,
            number=number,
            task=claim.task.id,
            round_id=claim.round.id,
            weights_sha256=weights_sha256,
            size_bytes=len(body),
            optimizer_sha256=optimizer_sha256,
            aggregate_norm=norm,
            published_at=moment,
        )

    return _release_version(
        store, claim, publish, folded, priced=priced, metrics=metrics, now=now()
    )


def _fold(
    blobs: BlobStore,
    compute: Compute,
    claim: Claim,
    *,
    priced: privacy.Priced | None,
    added: RoundSum | None,
    state: bytes | None,
    on_progress: Callable[[int], None],
) -> Folded:
    """Return the aggregate of the round's updates, or of their sum."""
    if added is not None:
        if priced is None:
            return Folded(mean=added.mean(), clipped_to=added.clip_norm)
        return compute.fold_sum_privately(
            added.update,
            priced.fold,
            clip_norm=added.clip_norm,
            bits=added.bits,
            on_progress=on_progress,
        )
    manifest, plan = claim.model.manifest, claim.task.plan
    updates = _StoredUpdates(
        blobs, manifest, claim.updates, plan.asynchronous, whole=set()
    )
    if priced is None:
        return compute.fold(
            updates,
            size=manifest.trainable_size,
            plan=plan.aggregation,
            state=state,
            on_progress=on_progress,
        )
    return compute.fold_privately(
        updates,
        priced.fold,
        size=manifest.trainable_size,
        state=state,
        on_progress=on_progress,
    )


def _metrics(claim: Claim, added: RoundSum | None) -> Metrics | None:
    """Return the devices' training metrics, unless privacy keeps them from leaving."""
    if claim.task.plan.privacy is not None:
        return None
    if added is not None:
        return Metrics(score=added.score, devices=added.devices)
    score = train_score(claim.updates)
    return None if score is None else Metrics(score=score, devices=len(claim.updates))


def _recent(store: Store, claim: Claim) -> gate.Recent:
    rules = claim.task.plan.gate
    if rules is None:
        return gate.Recent()
    return store.read(lambda tx: registry.recent(tx, claim.base, rules.window))


def _release_version(
    store: Store,
    claim: Claim,
    publish: Callable[[int, dt.datetime], Version],
    folded: Folded,
    *,
    priced: privacy.Priced | None,
    metrics: Metrics | None,
    now: dt.datetime,
) -> int:
    def body(tx: Transaction) -> int:
        newest = models.newest_version(tx, claim.model.id)
        version = publish((-1 if newest is None else newest) + 1, now)
        # First, because it says whether this worker still holds the round.
        noted = {} if folded.report is None else {"aggregation": dict(folded.report)}
        _commit_round(tx, claim, result_version=version.number, now=now, **noted)
        models.insert_version(tx, version)
        if priced is not None:
            entry = priced.entry(
                claim.task, claim.round, clip_norm=folded.clipped_to, now=now
            )
            stored_privacy.insert_release(tx, entry)
        if metrics is not None:
            models.put_score(tx, version, "train", metrics)
        task = tasks.get(tx, claim.task.id).after_commit(
            version.number, last=None if priced is None else priced.last
        )
        tasks.replace(tx, task)
        events.append_of(
            tx,
            Happening.VERSION_PUBLISHED,
            claim.round,
            now=now,
            version=version.number,
        )
        _open_next(tx, task, claim.round, now=now)
        return version.number

    return store.run("release", body)


def _release_evaluation(
    store: Store, claim: Claim, added: RoundSum | None, *, now: dt.datetime
) -> None:
    def body(tx: Transaction) -> None:
        if added is None:
            metrics = summarize(assignments.evaluations_of_round(tx, claim.round.id))
        else:
            metrics = Metrics(score=added.score, devices=added.devices)
        if metrics is None:
            raise AssertionError(f"round {claim.round.id} closed without evaluations")
        models.put_score(tx, claim.base, "federated", metrics)
        _commit_round(tx, claim, result_version=None, now=now)
        events.append_of(
            tx,
            Happening.VERSION_SCORED,
            claim.round,
            now=now,
            version=claim.base.number,
            source="federated",
            accuracy=metrics.score.accuracy,
            loss=metrics.score.loss,
            devices=metrics.devices,
        )
        task = tasks.get(tx, claim.task.id)
        go_back_if_worse(tx, task, claim.base.number, "federated", now=now)

    store.run("release_evaluation", body)


def _commit_round(
    tx: Transaction,
    claim: Claim,
    *,
    result_version: int | None,
    now: dt.datetime,
    **data: Any,  # noqa: ANN401 - any JSON
) -> None:
    # Written at the claim's revision: StaleWrite if anyone else touched the round.
    committed = claim.round.after(
        Event.RELEASED, now=now, result_version=result_version
    )
    rounds.replace(tx, committed)
    if not claim.round.policy.is_asynchronous:
        lapse_rest(tx, claim.round, now)
    events.append_of(
        tx,
        Happening.ROUND_COMMITTED,
        claim.round,
        now=now,
        version=result_version,
        **data,
    )


def _open_next(tx: Transaction, task: Task, ended: Round, *, now: dt.datetime) -> None:
    evaluation = task_policy.evaluation_round(task, now=now)
    open_ = {round_.kind for round_ in rounds.unfinished(tx, task.id)}
    if evaluation is not None and Kind.EVALUATE not in open_:
        open_round(tx, evaluation)
    if task.status is Status.RUNNING:
        following = open_round(tx, task_policy.next_training_round(task, now=now))
        hand_leases_on(tx, ended, following, task, now)
    else:
        lapse_rest(tx, ended, now)
        note_end(tx, task, now=now)


class _StoredUpdates(Sequence[tuple[float, Vector]]):
    """Weights and deltas of a round's updates, each mapped when it is asked for."""

    def __init__(
        self,
        blobs: BlobStore,
        manifest: Manifest,
        updates: Sequence[AcceptedUpdate],
        asynchronous: AsynchronousPlan | None,
        *,
        whole: set[str],
    ) -> None:
        self._blobs = blobs
        self._manifest = manifest
        self._updates = updates
        self._asynchronous = asynchronous
        self._whole = whole  # seen to be; robust rules open an update many times

    def __len__(self) -> int:
        return len(self._updates)

    @overload
    def __getitem__(self, index: int) -> tuple[float, Vector]: ...

    @overload
    def __getitem__(self, index: slice) -> "_StoredUpdates": ...

    def __getitem__(
        self, index: int | slice
    ) -> "tuple[float, Vector] | _StoredUpdates":
        if isinstance(index, slice):
            return _StoredUpdates(
                self._blobs,
                self._manifest,
                self._updates[index],
                self._asynchronous,
                whole=self._whole,
            )
        update = self._updates[index]
        is_whole = update.blob in self._whole
        body = self._blobs.map_update(
            update.blob, sha256=None if is_whole else update.sha256
        )
        self._whole.add(update.blob)
        weight = fold_weight(update, self._asynchronous)
        return weight, encodings.read_delta(self._manifest, body)

    def __iter__(self) -> Iterator[tuple[float, Vector]]:
        """Yield one after the other, and check the next ones' digests meanwhile."""
        with ThreadPoolExecutor(_AHEAD, "update") as pool:
            opening = collections.deque(
                pool.submit(self.__getitem__, index)
                for index in range(min(_AHEAD, len(self)))
            )
            try:
                for index in range(len(self)):
                    opened = opening.popleft().result()
                    if index + _AHEAD < len(self):
                        opening.append(pool.submit(self.__getitem__, index + _AHEAD))
                    yield opened
            finally:
                pool.shutdown(cancel_futures=True)


def _trainable_part(manifest: Manifest, weights: Vector) -> Vector:
    if manifest.trainable_size == manifest.size:
        return weights
    return np.concatenate(
        [weights[t.offset : t.offset + t.size] for t in manifest.trainable]
    )


def _with_trainable(manifest: Manifest, weights: Vector, trained: Vector) -> Vector:
    whole = weights.copy()
    start = 0
    for tensor in manifest.trainable:
        end = start + tensor.size
        whole[tensor.offset : tensor.offset + tensor.size] = trained[start:end]
        start = end
    return whole
