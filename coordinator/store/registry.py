"""The versions of a model over all its tasks, and the tags that name some of them."""

from typing import Final

import sqlalchemy as sa

from coordinator.domain.errors import TagUnknown
from coordinator.domain.gate import Recent, Scored
from coordinator.domain.models import Origin, Tag, Version
from coordinator.store.engine import Transaction
from coordinator.store.models import version_from_row
from coordinator.store.tables import Row, rounds, scores, tags, tasks, versions

_DEEPEST: Final = 1_000  # versions that are looked back on
_GET_TAG: Final = sa.select(tags).where(
    tags.c.model == sa.bindparam("model"), tags.c.name == sa.bindparam("name")
)


def newest_first(
    tx: Transaction, model: str, *, before: int | None, limit: int
) -> list[tuple[Version, Origin]]:
    """Return versions of a model, and where they come from.

    Args:
        tx: The transaction.
        model: Names the model.
        before: Only versions with a lower number; None: all.
        limit: How many at most.
    """
    query = (
        sa.select(
            versions,
            rounds.c.number.label("round_number"),
            rounds.c.base_version,
            (tasks.c.version == versions.c.number).label("is_current"),
        )
        .join(tasks, tasks.c.id == versions.c.task)
        .outerjoin(rounds, rounds.c.id == versions.c.round_id)
        .where(versions.c.model == model)
        .order_by(versions.c.number.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(versions.c.number < before)
    return [
        (
            version_from_row(row),
            Origin(
                round_number=row.round_number,
                base_version=row.base_version,
                is_current=bool(row.is_current),
            ),
        )
        for row in tx.connection.execute(query)
    ]


def recent(tx: Transaction, base: Version, window: int) -> Recent:
    """Return what the last rounds were like up to the one that published ``base``."""
    line = _line(base.model, base.number, deepest=window)
    query = (
        sa.select(versions.c.aggregate_norm, scores.c.loss)
        .join(line, line.c.number == versions.c.number)
        .outerjoin(
            scores,
            (scores.c.model == versions.c.model)
            & (scores.c.version == versions.c.number)
            & (scores.c.source == "train"),
        )
        .where(versions.c.model == base.model)
        .order_by(versions.c.number.desc())
        .limit(window)
    )
    rows = tx.connection.execute(query).all()
    return Recent(
        losses=tuple(row.loss for row in rows if row.loss is not None),
        norms=tuple(
            row.aggregate_norm for row in rows if row.aggregate_norm is not None
        ),
    )


def scored_line(
    tx: Transaction, model: str, head: int, *, source: str, up_to: int, limit: int
) -> list[Scored]:
    """Return scored versions that ``head`` was built upon, newest first.

    NOTE: Looks at the last 1,000 of them.

    Args:
        tx: The transaction.
        model: Of the versions.
        head: Where to begin; it belongs to its own line.
        source: Whose scores.
        up_to: The highest number to return.
        limit: How many at most.
    """
    line = _line(model, head, deepest=_DEEPEST)
    query = (
        sa.select(scores.c.version, scores.c.accuracy)
        .join(line, line.c.number == scores.c.version)
        .where(
            scores.c.model == model,
            scores.c.source == source,
            scores.c.version <= up_to,
        )
        .order_by(scores.c.version.desc())
        .limit(limit)
    )
    return [
        Scored(version=row.version, accuracy=row.accuracy)
        for row in tx.connection.execute(query)
    ]


def versions_since(tx: Transaction, model: str, number: int, *, head: int) -> int:
    """Return how many versions after ``number`` led to ``head``, itself included.

    Those that a task went back from led nowhere and do not count.
    """
    line = _line(model, head, deepest=head - number, down_to=number)
    query = sa.select(sa.func.count()).where(line.c.number > number)
    return tx.connection.execute(query).scalar_one()


def _line(model: str, head: int, *, deepest: int, down_to: int = 0) -> sa.CTE:
    """Return the numbers of a version and of those that it was built upon."""
    made = sa.select(
        versions.c.number,
        rounds.c.base_version,
    ).outerjoin(rounds, rounds.c.id == versions.c.round_id)
    line = (
        made.add_columns(sa.literal(1).label("depth"))
        .where(versions.c.model == model, versions.c.number == head)
        .cte("line", recursive=True)
    )
    return line.union_all(
        made.add_columns((line.c.depth + 1).label("depth"))
        .join(line, line.c.base_version == versions.c.number)
        .where(
            versions.c.model == model,
            line.c.depth < deepest,
            line.c.number > down_to,
        )
    )


def put_tag(tx: Transaction, tag: Tag) -> None:
    """Set a tag, in place of what it named before."""
    drop_tag(tx, tag.model, tag.name)
    tx.connection.execute(
        tags.insert().values(
            model=tag.model, name=tag.name, version=tag.version, set_at=tag.set_at
        )
    )


def drop_tag(tx: Transaction, model: str, name: str) -> None:
    """Remove a tag; it is no error if there is none."""
    tx.connection.execute(tags.delete().filter_by(model=model, name=name))


def find_tag(tx: Transaction, model: str, name: str) -> Tag | None:
    """Return a tag, or none."""
    row = tx.connection.execute(_GET_TAG, {"model": model, "name": name}).one_or_none()
    return None if row is None else _tag(row)


def get_tag(tx: Transaction, model: str, name: str) -> Tag:
    """Return a tag.

    Raises:
        TagUnknown: There is none.
    """
    tag = find_tag(tx, model, name)
    if tag is None:
        raise TagUnknown(model, name)
    return tag


def tags_of(tx: Transaction, model: str) -> list[Tag]:
    """Return a model's tags by name."""
    query = sa.select(tags).where(tags.c.model == model).order_by(tags.c.name)
    return [_tag(row) for row in tx.connection.execute(query)]


def _tag(row: Row) -> Tag:
    return Tag(model=row.model, name=row.name, version=row.version, set_at=row.set_at)
