"""Records as bodies."""

import dataclasses
import datetime as dt
from collections.abc import Collection
from typing import Any

from coordinator.domain import privacy_statement, schedules
from coordinator.domain.aggregation import Score
from coordinator.domain.evaluation import Distribution, Metrics, Personalized
from coordinator.domain.events import Recorded
from coordinator.domain.models import Model, Version
from coordinator.domain.rounds import Phase
from coordinator.protocol import encodings, messages, operations, paths
from coordinator.protocol.he.messages import max_envelope_bytes
from coordinator.protocol.manifest import Artefact, Manifest
from coordinator.protocol.secagg import summands
from coordinator.protocol.vocabulary import Kind
from coordinator.usecases.check_in import Work
from coordinator.usecases.models import ModelView
from coordinator.usecases.privacy import PrivacyView
from coordinator.usecases.registry import Entry, Tagged
from coordinator.usecases.tasks import RoundView, TaskView, VersionView


def assignment(
    work: Work, *, encodings_known: Collection[str], now: dt.datetime
) -> messages.Assignment:
    """Say what a device has to do, and where everything is.

    Args:
        work: The assignment.
        encodings_known: Those that the device can write.
        now: The present moment.
    """
    plan, model = work.task.plan, work.model
    manifest = model.manifest
    leased = work.assignment
    train = work.round.kind is Kind.TRAIN
    asked = plan.training if train else plan.personalization
    if asked is not None:
        asked = schedules.training_of_round(asked, work.round.number)
    update = plan.update
    encoding = update.encoding if update.encoding in encodings_known else "f32"
    session = work.round.session
    encrypts = work.round.policy.is_encrypted
    in_bodies = train or session is not None
    report_to = paths.update(leased.id) if in_bodies else paths.evaluation(leased.id)
    return messages.Assignment(
        id=leased.id,
        kind=work.round.kind,
        task=work.task.id,
        round=work.round.number,
        attempt=work.round.attempt,
        model=model.id,
        version=work.version.number,
        seed=plan.seed,
        training=asked if train else None,
        personalization=None if train else asked,
        signature=None if asked is None else asked.signature,
        encoding=encoding,
        topk_share=update.topk_share if encoding == "topk" else None,
        error_feedback=update.error_feedback and encoding != "f32",
        noise=None if plan.privacy is None or not train else plan.privacy.local_noise,
        secagg=(
            None
            if session is None or encrypts
            else messages.SecAggTerms(session=session, path=paths.secagg(leased.id))
        ),
        encryption=(
            None
            if session is None or not encrypts
            else messages.EncryptionTerms(
                session=session, path=paths.encryption(leased.id)
            )
        ),
        manifest=_manifest(model),
        train_graph=_artefact(paths.train_graph(model.id), manifest.train),
        weights=_weights(work.version),
        report_to=report_to,
        failure_to=paths.failure(leased.id),
        lease_expires_at=leased.lease_expires_at,
        lease_s=max(0.0, (leased.lease_expires_at - now).total_seconds()),
        max_report_bytes=_max_report_bytes(manifest, train=train, encrypts=encrypts),
    )


def _max_report_bytes(manifest: Manifest, *, train: bool, encrypts: bool) -> int:
    if encrypts:
        size = summands.update_size(manifest.trainable_size, is_training=train)
        return max_envelope_bytes(size + summands.FIGURES)
    return encodings.max_update_bytes(manifest) if train else 4096


def round_state(view: RoundView) -> operations.RoundState:
    """Say where a round is."""
    round_, counts, score = view.round, view.counts, view.score
    return operations.RoundState(
        id=round_.id,
        task=round_.task,
        kind=round_.kind,
        number=round_.number,
        attempt=round_.attempt,
        phase=round_.phase,
        base_version=round_.base_version,
        result_version=round_.result_version,
        goal=round_.policy.goal,
        minimum=round_.policy.minimum,
        places=round_.policy.places,
        assigned=counts.live if round_.phase is Phase.COLLECTING else 0,
        reported=counts.reported,
        accepted=counts.accepted,
        failed=counts.failed,
        lapsed=counts.lapsed,
        bytes_up=view.bytes_up,
        examples=0 if score is None else score.examples,
        train_loss=None if score is None else score.loss,
        train_accuracy=None if score is None else score.accuracy,
        staleness_mean=view.staleness_mean,
        staleness_max=view.staleness_max,
        opened_at=round_.opened_at,
        deadline=round_.deadline,
        closed_at=round_.closed_at,
        reason=round_.reason,
    )


def task_state(view: TaskView) -> operations.TaskState:
    """Say where a task is."""
    task = view.task
    return operations.TaskState(
        id=task.id,
        status=task.status.value,
        reason=task.reason,
        plan=task.plan,
        version=task.version,
        rounds_committed=task.rounds_committed,
        created_at=task.created_at,
        open_rounds=tuple(round_state(round_) for round_ in view.open_rounds),
    )


def privacy_report(view: PrivacyView) -> operations.PrivacyReport:
    """Say what a task has spent, and what that means."""
    statement = privacy_statement.of(view.task.plan, view.ledger)
    return operations.PrivacyReport(
        task=view.task.id,
        **dataclasses.asdict(statement),
        releases=tuple(
            operations.PrivateRelease(
                number=release.number,
                round=release.number,
                clip_norm=release.clip_norm,
                noise_multiplier=release.noise_multiplier,
                epsilon=release.epsilon,
                released_at=release.released_at,
            )
            for release in view.ledger
        ),
    )


def version_metrics(view: VersionView) -> operations.VersionMetrics:
    """Say how good a version is."""
    return operations.VersionMetrics(
        version=view.version.number,
        round=view.round_number,
        published_at=view.version.published_at,
        train=_score(view.train),
        **_federated(view.federated),
        held_out=_score(view.held_out),
    )


def model_state(view: ModelView) -> operations.ModelState:
    """Describe a model."""
    model = view.model
    return operations.ModelState(
        id=model.id,
        parameters=model.manifest.size,
        trainable_parameters=model.manifest.trainable_size,
        manifest_sha256=model.manifest_sha256,
        versions=view.versions,
        newest_version=view.newest_version,
        tags=dict(view.tags),
    )


def version_state(entry: Entry, model: Model) -> operations.VersionState:
    """Say where a version comes from and how good it is."""
    version, origin = entry.version, entry.origin
    first = "seed" if model.manifest.weights is None else "weights"
    return operations.VersionState(
        version=version.number,
        task=version.task,
        is_current=origin.is_current,
        origin=first if version.round_id is None else "round",
        round=origin.round_number,
        base_version=origin.base_version,
        aggregate_norm=version.aggregate_norm,
        published_at=version.published_at,
        train=_score(entry.train),
        **_federated(entry.federated),
        held_out=_score(entry.held_out),
        tags=entry.tags,
    )


def tag_state(tagged: Tagged) -> operations.TagState:
    """Say what a tag points to."""
    tag = tagged.tag
    return operations.TagState(
        model=tag.model,
        tag=tag.name,
        version=tag.version,
        set_at=tag.set_at,
        weights=_weights(tagged.version),
        inference_file=paths.inference_file(tag.model, tag.version),
    )


def event(recorded: Recorded) -> operations.EventRecord:
    """Render one event of the history."""
    return operations.EventRecord(
        id=recorded.id,
        at=recorded.at,
        type=recorded.happening,
        task=recorded.task,
        round_id=recorded.round_id,
        data=dict(recorded.data),
    )


def _score(score: Score | None) -> operations.Score | None:
    return None if score is None else operations.Score(**dataclasses.asdict(score))


def _federated(metrics: Metrics | None) -> dict[str, Any]:
    """Return the fields of a version that a federated evaluation fills."""
    if metrics is None:
        return {"federated": None, "federated_devices": None}
    return {
        "federated": _score(metrics.score),
        "federated_devices": metrics.devices,
        "federated_distribution": _distribution(metrics.distribution),
        "personalized": _personalized(metrics.personalized),
    }


def _personalized(found: Personalized | None) -> operations.Personalized | None:
    if found is None:
        return None
    return operations.Personalized(
        devices=found.devices,
        score=operations.Score(**dataclasses.asdict(found.score)),
        distribution=_distribution(found.distribution),
        change=_distribution(found.change),
    )


def _distribution(found: Distribution | None) -> operations.Distribution | None:
    if found is None:
        return None
    return operations.Distribution(**dataclasses.asdict(found))


def _manifest(model: Model) -> messages.Download:
    return messages.Download(
        url=paths.manifest(model.id),
        sha256=model.manifest_sha256,
        size_bytes=model.manifest_size_bytes,
    )


def _artefact(url: str, artefact: Artefact) -> messages.Download:
    return messages.Download(
        url=url, sha256=artefact.sha256, size_bytes=artefact.size_bytes
    )


def _weights(version: Version) -> messages.Download:
    return messages.Download(
        url=paths.weights(version.model, version.number),
        sha256=version.weights_sha256,
        size_bytes=version.size_bytes,
    )
