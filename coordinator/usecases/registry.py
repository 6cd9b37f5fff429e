"""The registry: what versions a model has, how good they are, and what they are called.

A version never changes; a tag is a name that points to one until it is set anew. The
tag ``production`` is the version that apps are meant to run.
"""

import dataclasses
import datetime as dt

from coordinator.domain.aggregation import Score
from coordinator.domain.evaluation import Metrics
from coordinator.domain.events import Happening
from coordinator.domain.models import Model, Origin, Tag, Version
from coordinator.store import events, models, registry
from coordinator.store.engine import Store, Transaction


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A version and all that is known of it."""

    version: Version
    origin: Origin
    train: Score | None
    federated: Metrics | None
    held_out: Score | None
    tags: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A tag and what it points to."""

    tag: Tag
    model: Model
    version: Version


def list_versions(
    store: Store, *, model: str, before: int | None = None, limit: int
) -> list[Entry]:
    """Return a model's versions over all its tasks, newest first.

    Raises:
        ModelUnknown: There is none.
    """

    def body(tx: Transaction) -> list[Entry]:
        models.get(tx, model)
        listed = registry.newest_first(tx, model, before=before, limit=limit)
        if not listed:
            return []
        scores = models.scores_between(
            tx, model, listed[-1][0].number, listed[0][0].number
        )
        names = registry.tags_of(tx, model)
        return [_entry(version, origin, scores, names) for version, origin in listed]

    return store.read(body)


def find_tag(store: Store, *, model: str, name: str) -> Tagged:
    """Return what a tag points to.

    Raises:
        ModelUnknown, TagUnknown: As their names say.
    """

    def body(tx: Transaction) -> Tagged:
        found = models.get(tx, model)
        return _tagged(tx, found, registry.get_tag(tx, model, name))

    return store.read(body)


def set_tag(
    store: Store, *, model: str, name: str, number: int, now: dt.datetime
) -> Tagged:
    """Let a tag point to a version; where it does already, nothing changes.

    Raises:
        ModelUnknown, VersionUnknown: As their names say.
    """

    def body(tx: Transaction) -> Tagged:
        found = models.get(tx, model)
        version = models.get_version(tx, model, number)
        before = registry.find_tag(tx, model, name)
        if before is not None and before.version == number:
            return Tagged(tag=before, model=found, version=version)
        tag = Tag(model=model, name=name, version=number, set_at=now)
        registry.put_tag(tx, tag)
        events.append(
            tx,
            Happening.TAG_SET,
            now=now,
            model=model,
            tag=name,
            version=number,
            before=None if before is None else before.version,
        )
        return Tagged(tag=tag, model=found, version=version)

    return store.run("set_tag", body)


def remove_tag(store: Store, *, model: str, name: str, now: dt.datetime) -> None:
    """Take a tag away; the version that it pointed to stays.

    Raises:
        ModelUnknown, TagUnknown: As their names say.
    """

    def body(tx: Transaction) -> None:
        models.get(tx, model)
        tag = registry.get_tag(tx, model, name)
        registry.drop_tag(tx, model, name)
        events.append(
            tx,
            Happening.TAG_REMOVED,
            now=now,
            model=model,
            tag=name,
            before=tag.version,
        )

    store.run("remove_tag", body)


def _tagged(tx: Transaction, model: Model, tag: Tag) -> Tagged:
    version = models.get_version(tx, model.id, tag.version)
    return Tagged(tag=tag, model=model, version=version)


def _entry(
    version: Version, origin: Origin, scores: models.Scores, names: list[Tag]
) -> Entry:
    return Entry(
        version=version,
        origin=origin,
        train=models.score_of(scores, version.number, "train"),
        federated=scores.get((version.number, "federated")),
        held_out=models.score_of(scores, version.number, "held_out"),
        tags=tuple(tag.name for tag in names if tag.version == version.number),
    )
