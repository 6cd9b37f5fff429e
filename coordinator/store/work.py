"""What a check-in reads, in few statements: it is the most frequent call."""

import datetime as dt
import types
from typing import Any, Final

import sqlalchemy as sa

from coordinator.domain.assignments import Assignment, State
from coordinator.domain.errors import DeviceUnknown
from coordinator.domain.models import Model, Version
from coordinator.domain.rounds import Phase, Round
from coordinator.domain.tasks import Task
from coordinator.store import assignments as stored_assignments
from coordinator.store import models as stored_models
from coordinator.store import tasks as stored_tasks
from coordinator.store.engine import Transaction
from coordinator.store.tables import (
    assignments,
    devices,
    models,
    rounds,
    tasks,
    versions,
)

_OF_DEVICE: Final = (
    sa.select(devices.c.revoked_at, *assignments.c)
    .select_from(devices)
    .outerjoin(
        assignments,
        sa.and_(
            assignments.c.device_id == devices.c.id,
            (assignments.c.idempotency_key == sa.bindparam("key"))
            | (assignments.c.state == State.LEASED)
            | assignments.c.round_id.in_(
                sa.select(rounds.c.id).where(rounds.c.phase == Phase.COLLECTING)
            ),
        ),
    )
    .where(devices.c.id == sa.bindparam("device"))
    .with_for_update(read=True, of=devices)
)
_OF_ROUND: Final = (
    sa.select(models.c.manifest_sha256, *tasks.c, *versions.c)
    .select_from(tasks)
    .join(models, models.c.id == tasks.c.model)
    .join(versions, versions.c.model == models.c.id)
    .where(
        tasks.c.id == sa.bindparam("task"), versions.c.number == sa.bindparam("number")
    )
)


def of_device(
    tx: Transaction, device_id: str, key: str
) -> tuple[dt.datetime | None, list[Assignment]]:
    """Return when a device was revoked, and those of its assignments that matter.

    Those that an idempotency key names, that are leased, or of a collecting round.
    Nobody revokes the device until the transaction ends.

    Raises:
        DeviceUnknown: There is none with this id.
    """
    rows = tx.connection.execute(_OF_DEVICE, {"device": device_id, "key": key}).all()
    if not rows:
        raise DeviceUnknown(device_id)
    own = [_part(assignments, row[1:]) for row in rows if row.id is not None]
    return rows[0].revoked_at, [stored_assignments.from_row(row) for row in own]


def of_round(
    tx: Transaction, round_: Round, number: int
) -> tuple[Task, Model, Version]:
    """Return a round's task and model, and the version of that number.

    Raises:
        KeyError: There is none; ids come from our own rows.
    """
    row = tx.connection.execute(
        _OF_ROUND, {"task": round_.task, "number": number}
    ).one_or_none()
    if row is None:
        raise KeyError((round_.task, number))
    end = 1 + len(tasks.c)
    return (
        stored_tasks.from_row(_part(tasks, row[1:end])),
        stored_models.of_digest(tx, round_.model, row.manifest_sha256),
        stored_models.version_from_row(_part(versions, row[end:])),
    )


def _part(table: sa.Table, values: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a row
    """Return a table's part of a joined row, by the names of its columns."""
    return types.SimpleNamespace(**dict(zip(table.c.keys(), values, strict=True)))
