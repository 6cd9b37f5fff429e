"""Cohorts of secure aggregation, and what their devices sent but for their vectors."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import TypeVar

import sqlalchemy as sa

from coordinator.protocol.secagg.cohort import Cohort
from coordinator.protocol.secagg.messages import (
    Announcement,
    Member,
    Reveal,
)
from coordinator.store.engine import Transaction
from coordinator.store.tables import (
    Row,
    assignments,
    devices,
    secagg_cohorts,
    secagg_members,
    updates,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredMember:
    """A device that joined, and what it has sent since."""

    assignment_id: str
    announcement: Announcement
    cohort_id: str | None
    place: int | None  #: its index in the cohort
    dealing: bytes | None  #: packed
    reveal: Reveal | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredCohort:
    """A cohort, and what was decided of it."""

    id: str
    cohort: Cohort
    sharers: frozenset[int] | None
    survivors: frozenset[int] | None
    ended: str | None  #: why its sum cannot be had


def insert_member(
    tx: Transaction, assignment_id: str, round_id: int, announcement: Announcement
) -> None:
    """Let a device join."""
    tx.connection.execute(
        secagg_members.insert().values(
            assignment_id=assignment_id,
            round_id=round_id,
            announcement=announcement.model_dump_json(),
        )
    )


def member(tx: Transaction, assignment_id: str) -> StoredMember | None:
    """Return what an assignment's device has sent, or none if it has not joined."""
    query = sa.select(secagg_members).filter_by(assignment_id=assignment_id)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        return None
    return StoredMember(
        assignment_id=row.assignment_id,
        announcement=Announcement.model_validate_json(row.announcement),
        cohort_id=row.cohort_id,
        place=row.place,
        dealing=row.dealing,
        reveal=None if row.reveal is None else Reveal.model_validate_json(row.reveal),
    )


def gathered(tx: Transaction, round_id: int) -> dict[str, Member]:
    """Return all who joined a round, by assignment."""
    query = (
        sa.select(
            secagg_members.c.assignment_id,
            secagg_members.c.announcement,
            devices.c.id,
            devices.c.public_key,
        )
        .join(assignments, assignments.c.id == secagg_members.c.assignment_id)
        .join(devices, devices.c.id == assignments.c.device_id)
        .where(secagg_members.c.round_id == round_id)
        .order_by(secagg_members.c.assignment_id)
    )
    return {
        row.assignment_id: Member(
            device=row.id,
            identity=row.public_key,
            announcement=Announcement.model_validate_json(row.announcement),
        )
        for row in tx.connection.execute(query)
    }


def insert_cohort(
    tx: Transaction, cohort: Cohort, round_id: int, places: Mapping[str, int]
) -> None:
    """Form a cohort; ``places`` are its devices' indices, by assignment."""
    cohort_id = cohort.manifest.cohort
    tx.connection.execute(
        secagg_cohorts.insert().values(
            id=cohort_id, round_id=round_id, content=cohort.model_dump_json()
        )
    )
    tx.connection.execute(
        secagg_members.update()
        .where(secagg_members.c.assignment_id == sa.bindparam("which"))
        .values(cohort_id=cohort_id, place=sa.bindparam("index")),
        [{"which": key, "index": index} for key, index in places.items()],
    )


def cohort(tx: Transaction, cohort_id: str) -> StoredCohort:
    """Return a cohort.

    Raises:
        KeyError: There is none; ids come from our own rows.
    """
    query = sa.select(secagg_cohorts).filter_by(id=cohort_id)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        raise KeyError(cohort_id)
    return _cohort(row)


def cohorts(tx: Transaction, round_id: int) -> list[StoredCohort]:
    """Return the cohorts of a round whose sums can still be had, in a fixed order."""
    query = (
        sa.select(secagg_cohorts)
        .where(secagg_cohorts.c.round_id == round_id, secagg_cohorts.c.ended.is_(None))
        .order_by(secagg_cohorts.c.id)
    )
    return [_cohort(row) for row in tx.connection.execute(query)]


def put_sharers(tx: Transaction, cohort_id: str, places: Collection[int]) -> None:
    """Keep who goes on to send a masked vector. Never changes afterwards.

    Raises:
        StaleWrite: It was decided before.
    """
    _decide(tx, cohort_id, secagg_cohorts.c.sharers, places)


def put_survivors(tx: Transaction, cohort_id: str, places: Collection[int]) -> None:
    """Keep whose vectors are in the sum. Never changes afterwards.

    Raises:
        StaleWrite: It was decided before.
    """
    _decide(tx, cohort_id, secagg_cohorts.c.survivors, places)


def end_cohort(tx: Transaction, cohort_id: str, reason: str) -> None:
    """Note that a cohort's sum cannot be had."""
    tx.change_one(
        secagg_cohorts.update()
        .where(secagg_cohorts.c.id == cohort_id)
        .values(ended=reason)
    )


def put_dealing(tx: Transaction, assignment_id: str, dealing: bytes) -> None:
    """Keep the shares that a device deals out, packed.

    Raises:
        StaleWrite: It dealt before.
    """
    _keep(tx, assignment_id, secagg_members.c.dealing, dealing)


def put_reveal(tx: Transaction, assignment_id: str, reveal: Reveal) -> None:
    """Keep the shares that a device reveals.

    Raises:
        StaleWrite: It revealed before.
    """
    _keep(tx, assignment_id, secagg_members.c.reveal, reveal.model_dump_json())


def dealt(tx: Transaction, cohort_id: str) -> frozenset[int]:
    """Return the places of those who dealt their shares."""
    return _places(tx, cohort_id, secagg_members.c.dealing.is_not(None))


def revealed(tx: Transaction, cohort_id: str) -> frozenset[int]:
    """Return the places of those who revealed shares."""
    return _places(tx, cohort_id, secagg_members.c.reveal.is_not(None))


def vectors(tx: Transaction, cohort_id: str) -> dict[int, str]:
    """Return the assignments whose masked vectors came in, by place."""
    query = (
        sa.select(secagg_members.c.place, secagg_members.c.assignment_id)
        .join(updates, updates.c.assignment_id == secagg_members.c.assignment_id)
        .where(secagg_members.c.cohort_id == cohort_id)
    )
    return {row.place: row.assignment_id for row in tx.connection.execute(query)}


def dealings(
    tx: Transaction, cohort_id: str, places: Collection[int]
) -> dict[int, bytes]:
    """Return what the devices at these places dealt, packed, as far as they did."""
    query = sa.select(secagg_members.c.place, secagg_members.c.dealing).where(
        secagg_members.c.cohort_id == cohort_id,
        secagg_members.c.place.in_(sorted(places)),
        secagg_members.c.dealing.is_not(None),
    )
    return {row.place: row.dealing for row in tx.connection.execute(query)}


def reveals(tx: Transaction, cohort_id: str) -> dict[int, Reveal]:
    """Return what devices of a cohort revealed, by place."""
    query = sa.select(secagg_members.c.place, secagg_members.c.reveal).where(
        secagg_members.c.cohort_id == cohort_id, secagg_members.c.reveal.is_not(None)
    )
    return {
        row.place: Reveal.model_validate_json(row.reveal)
        for row in tx.connection.execute(query)
    }


def forget(tx: Transaction, round_id: int) -> None:
    """Delete the cohorts of a round, with all that their devices sent."""
    tx.connection.execute(secagg_members.delete().filter_by(round_id=round_id))
    tx.connection.execute(secagg_cohorts.delete().filter_by(round_id=round_id))


def _keep(
    tx: Transaction, assignment_id: str, column: sa.Column[T], content: T
) -> None:
    """Keep what a device sent, once."""
    tx.change_one(
        secagg_members.update()
        .where(secagg_members.c.assignment_id == assignment_id, column.is_(None))
        .values({column: content})
    )


def _decide(
    tx: Transaction,
    cohort_id: str,
    column: sa.Column[list[int]],
    places: Collection[int],
) -> None:
    tx.change_one(
        secagg_cohorts.update()
        .where(secagg_cohorts.c.id == cohort_id, column.is_(None))
        .values({column: sorted(places)})
    )


def _places(
    tx: Transaction, cohort_id: str, has: sa.ColumnElement[bool]
) -> frozenset[int]:
    query = sa.select(secagg_members.c.place).where(
        secagg_members.c.cohort_id == cohort_id, has
    )
    return frozenset(tx.connection.execute(query).scalars())


def _cohort(row: Row) -> StoredCohort:
    return StoredCohort(
        id=row.id,
        cohort=_parsed(row.content),
        sharers=None if row.sharers is None else frozenset(row.sharers),
        survivors=None if row.survivors is None else frozenset(row.survivors),
        ended=row.ended,
    )


@functools.lru_cache(maxsize=32)
def _parsed(content: str) -> Cohort:
    """Read a cohort, and the graph of its neighbours with it, once."""
    return Cohort.model_validate_json(content)
