"""Tasks."""

import functools
from typing import Final

import sqlalchemy as sa

from coordinator.domain.errors import TaskUnknown
from coordinator.domain.tasks import Status, Task
from coordinator.protocol.plans import Plan
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, tasks

_GET: Final = sa.select(tasks).where(tasks.c.id == sa.bindparam("id"))


def insert(tx: Transaction, task: Task) -> None:
    """Start a task."""
    tx.connection.execute(
        tasks.insert().values(
            id=task.id,
            model=task.plan.model,
            plan=task.plan.model_dump_json(),
            created_at=task.created_at,
            status=task.status,
            reason=task.reason,
            version=task.version,
            rounds_committed=task.rounds_committed,
            revision=task.revision,
            updated_by=tx.name,
        )
    )


def replace(tx: Transaction, task: Task) -> None:
    """Write a task that was read at the revision before.

    Raises:
        StaleWrite: It has changed since.
    """
    tx.change_one(
        tasks.update()
        .where(tasks.c.id == task.id, tasks.c.revision == task.revision - 1)
        .values(
            status=task.status,
            reason=task.reason,
            version=task.version,
            rounds_committed=task.rounds_committed,
            revision=task.revision,
            updated_by=tx.name,
        )
    )


def find(tx: Transaction, task_id: str) -> Task | None:
    """Return a task, or none."""
    row = tx.connection.execute(_GET, {"id": task_id}).one_or_none()
    return None if row is None else from_row(row)


def get(tx: Transaction, task_id: str) -> Task:
    """Return a task.

    Raises:
        TaskUnknown: There is none.
    """
    task = find(tx, task_id)
    if task is None:
        raise TaskUnknown(task_id)
    return task


def newest_first(tx: Transaction) -> list[Task]:
    """Return all tasks."""
    query = sa.select(tasks).order_by(tasks.c.created_at.desc(), tasks.c.id)
    return [from_row(row) for row in tx.connection.execute(query)]


def any_running(tx: Transaction) -> bool:
    """Return whether a task is running."""
    query = sa.select(sa.literal(1)).where(tasks.c.status == Status.RUNNING).limit(1)
    return tx.connection.execute(query).first() is not None


def any_at_all(tx: Transaction) -> bool:
    """Return whether a task was ever started."""
    query = sa.select(sa.literal(1)).select_from(tasks).limit(1)
    return tx.connection.execute(query).first() is not None


@functools.lru_cache(maxsize=64)
def _plan(text: str) -> Plan:
    return Plan.model_validate_json(text)


def from_row(row: Row) -> Task:
    """Return the task in a row of the table."""
    return Task(
        id=row.id,
        plan=_plan(row.plan),
        status=Status(row.status),
        reason=row.reason,
        version=row.version,
        rounds_committed=row.rounds_committed,
        created_at=row.created_at,
        revision=row.revision,
    )
