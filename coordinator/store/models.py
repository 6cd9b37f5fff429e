"""Models, versions and what is known of how good they are."""

import dataclasses
import datetime as dt
import functools
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from coordinator.domain.aggregation import Score
from coordinator.domain.errors import ModelUnknown, VersionUnknown
from coordinator.domain.evaluation import Distribution, Metrics, Personalized
from coordinator.domain.models import Model, Version
from coordinator.protocol.manifest import Manifest
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, models, scores, versions

#: by version and source
Scores: TypeAlias = dict[tuple[int, str], Metrics]
#: By the digest of their manifests, which are long.
_KNOWN: Final[dict[str, Model]] = {}
_MOST_KNOWN: Final = 64
_GET: Final = sa.select(models.c.manifest, models.c.manifest_sha256).where(
    models.c.id == sa.bindparam("id")
)
_GET_VERSION: Final = sa.select(versions).where(
    versions.c.model == sa.bindparam("model"),
    versions.c.number == sa.bindparam("number"),
)


def insert(tx: Transaction, model: Model, *, now: dt.datetime) -> None:
    """Register a model."""
    tx.connection.execute(
        models.insert().values(
            id=model.id,
            manifest=model.manifest.to_json().decode(),
            manifest_sha256=model.manifest_sha256,
            registered_at=now,
        )
    )


def find(tx: Transaction, model: str) -> Model | None:
    """Return a model, or none."""
    row = tx.connection.execute(_GET, {"id": model}).one_or_none()
    return None if row is None else _model(row)


def get(tx: Transaction, model: str) -> Model:
    """Return a model.

    Raises:
        ModelUnknown: There is none.
    """
    found = find(tx, model)
    if found is None:
        raise ModelUnknown(model)
    return found


def of_digest(tx: Transaction, model: str, manifest_sha256: str) -> Model:
    """Return the model whose manifest has a digest; it is read once a process."""
    known = _KNOWN.get(manifest_sha256)
    if known is None:
        known = get(tx, model)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[known.manifest_sha256] = known
    return known


def every(tx: Transaction) -> list[Model]:
    """Return all models by name."""
    query = sa.select(models.c.manifest, models.c.manifest_sha256)
    return [_model(row) for row in tx.connection.execute(query.order_by(models.c.id))]


def insert_version(tx: Transaction, version: Version) -> None:
    """Publish a version."""
    tx.connection.execute(
        versions.insert().values(
            model=version.model,
            number=version.number,
            task=version.task,
            round_id=version.round_id,
            weights_sha256=version.weights_sha256,
            size_bytes=version.size_bytes,
            optimizer_sha256=version.optimizer_sha256,
            aggregate_norm=version.aggregate_norm,
            published_at=version.published_at,
        )
    )


def get_version(tx: Transaction, model: str, number: int) -> Version:
    """Return a version.

    Raises:
        VersionUnknown: There is none.
    """
    row = tx.connection.execute(
        _GET_VERSION, {"model": model, "number": number}
    ).one_or_none()
    if row is None:
        raise VersionUnknown(model, number)
    return version_from_row(row)


def versions_of_task(tx: Transaction, task: str) -> list[Version]:
    """Return the versions that a task published, oldest first."""
    query = sa.select(versions).where(versions.c.task == task)
    rows = tx.connection.execute(query.order_by(versions.c.number))
    return [version_from_row(row) for row in rows]


def newest_version(tx: Transaction, model: str) -> int | None:
    """Return the newest version's number, or none."""
    query = sa.select(sa.func.max(versions.c.number)).where(versions.c.model == model)
    number: int | None = tx.connection.execute(query).scalar_one()
    return number


def count_versions(tx: Transaction, model: str) -> int:
    """Return how many versions a model has."""
    query = sa.select(sa.func.count()).where(versions.c.model == model)
    count: int = tx.connection.execute(query).scalar_one()
    return count


def put_score(
    tx: Transaction,
    version: Version,
    source: str,
    metrics: Metrics,
) -> None:
    """Set what a source says of a version, in place of what it said before."""
    key = {"model": version.model, "version": version.number, "source": source}
    tx.connection.execute(scores.delete().filter_by(**key))
    tx.connection.execute(
        scores.insert().values(
            **key,
            examples=metrics.score.examples,
            loss=metrics.score.loss,
            accuracy=metrics.score.accuracy,
            devices=metrics.devices,
            distribution=_json(metrics.distribution),
            personalized=_json(metrics.personalized),
        )
    )


def score_of(scores_: Scores, number: int, source: str) -> Score | None:
    """Return what a source says of a version, or none."""
    found = scores_.get((number, source))
    return None if found is None else found.score


def scores_of_task(tx: Transaction, task: str) -> Scores:
    """Return what is known of a task's versions."""
    query = (
        sa.select(scores)
        .join(
            versions,
            (versions.c.model == scores.c.model)
            & (versions.c.number == scores.c.version),
        )
        .where(versions.c.task == task)
    )
    return _scores(tx, query)


def scores_between(tx: Transaction, model: str, first: int, last: int) -> Scores:
    """Return what is known of a model's versions ``first`` to ``last``."""
    return _scores(
        tx,
        sa.select(scores).where(
            scores.c.model == model, scores.c.version.between(first, last)
        ),
    )


def _scores(tx: Transaction, query: sa.Select[tuple[Any, ...]]) -> Scores:
    return {
        (row.version, row.source): Metrics(
            score=Score(examples=row.examples, loss=row.loss, accuracy=row.accuracy),
            devices=row.devices,
            distribution=_distribution(row.distribution),
            personalized=_personalized(row.personalized),
        )
        for row in tx.connection.execute(query)
    }


def _json(part: Distribution | Personalized | None) -> dict[str, Any] | None:
    return None if part is None else dataclasses.asdict(part)


def _distribution(content: dict[str, float] | None) -> Distribution | None:
    return None if content is None else Distribution(**content)


def _personalized(content: dict[str, Any] | None) -> Personalized | None:
    if content is None:
        return None
    return Personalized(
        devices=content["devices"],
        score=Score(**content["score"]),
        distribution=_distribution(content["distribution"]),
        change=_distribution(content["change"]),
    )


@functools.lru_cache(maxsize=64)
def _manifest(text: str) -> Manifest:
    return Manifest.model_validate_json(text)


def _model(row: Row) -> Model:
    return Model(
        manifest=_manifest(row.manifest),
        manifest_sha256=row.manifest_sha256,
        manifest_size_bytes=len(row.manifest.encode()),
    )


def version_from_row(row: Row) -> Version:
    """Return the version in a row of the table."""
    return Version(
        model=row.model,
        number=row.number,
        task=row.task,
        round_id=row.round_id,
        weights_sha256=row.weights_sha256,
        size_bytes=row.size_bytes,
        optimizer_sha256=row.optimizer_sha256,
        aggregate_norm=row.aggregate_norm,
        published_at=row.published_at,
    )
