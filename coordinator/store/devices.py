"""Devices and operators: who may call."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.domain.devices import Device
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, assignments, devices, operators

_WITH_TOKEN: Final = sa.select(devices.c.id).where(
    devices.c.token_hash == sa.bindparam("token_hash")
)


def insert(tx: Transaction, device: Device, *, token_hash: str) -> None:
    """Enrol a device."""
    tx.connection.execute(
        devices.insert().values(
            id=device.id,
            token_hash=token_hash,
            name=device.name,
            capabilities=dict(device.capabilities),
            enrolled_at=device.enrolled_at,
        )
    )


def with_token(tx: Transaction, token_hash: str) -> str | None:
    """Return the id of the device with this token, or none."""
    device_id: str | None = tx.connection.execute(
        _WITH_TOKEN, {"token_hash": token_hash}
    ).scalar_one_or_none()
    return device_id


def newest(tx: Transaction, *, limit: int) -> list[tuple[Device, int]]:
    """Return devices, newest first, each with its number of accepted results."""
    accepted = (
        sa.select(sa.func.count())
        .where(assignments.c.device_id == devices.c.id)
        .where(assignments.c.state == "accepted")
        .scalar_subquery()
    )
    query = (
        sa.select(
            devices.c.id,
            devices.c.name,
            devices.c.capabilities,
            devices.c.enrolled_at,
            accepted.label("accepted"),
        )
        .order_by(devices.c.enrolled_at.desc(), devices.c.id)
        .limit(limit)
    )
    return [(_device(row), row.accepted) for row in tx.connection.execute(query)]


def is_operator(tx: Transaction, token_hash: str) -> bool:
    """Return whether an operator has this token."""
    query = sa.select(sa.literal(1)).where(operators.c.token_hash == token_hash)
    return tx.connection.execute(query).first() is not None


def add_operator(tx: Transaction, token_hash: str, *, now: dt.datetime) -> None:
    """Let the bearer of a token operate the coordinator."""
    tx.connection.execute(
        operators.insert().values(token_hash=token_hash, created_at=now)
    )


def _device(row: Row) -> Device:
    return Device(
        id=row.id,
        name=row.name,
        capabilities=row.capabilities,
        enrolled_at=row.enrolled_at,
    )
