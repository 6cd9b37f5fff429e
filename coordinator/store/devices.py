"""Devices and operators: who may call."""

import datetime as dt
import secrets
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from coordinator.domain.devices import Device, Operator, Role
from coordinator.domain.errors import DeviceUnknown, TokenUnknown
from coordinator.protocol import device_keys
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, assignments, devices, operators, rounds

_ID_AND_REVOKED: Final = sa.select(devices.c.id, devices.c.revoked_at)
_WITH_TOKEN: Final = _ID_AND_REVOKED.where(
    devices.c.token_hash == sa.bindparam("token_hash")
)
_REVOKED_AT: Final = (
    sa.select(devices.c.revoked_at)
    .where(devices.c.id == sa.bindparam("id"))
    .with_for_update(read=True)
)
_WITH_KEY: Final = sa.select(devices).where(devices.c.key_id == sa.bindparam("key_id"))


def insert(tx: Transaction, device: Device, *, token_hash: str) -> None:
    """Enrol a device."""
    key = device.public_key
    tx.connection.execute(
        devices.insert().values(
            id=device.id,
            token_hash=token_hash,
            name=device.name,
            capabilities=dict(device.capabilities),
            enrolled_at=device.enrolled_at,
            public_key=device.public_key,
            key_id=None if key is None else device_keys.parse(key).id,
            attestation=device.attestation,
        )
    )


def replace_token(tx: Transaction, device_id: str, *, token_hash: str) -> None:
    """Give a device another token; the one before is none any more."""
    tx.change_one(
        devices.update().where(devices.c.id == device_id).values(token_hash=token_hash)
    )


def with_token(tx: Transaction, token_hash: str) -> tuple[str, bool] | None:
    """Return the id of the device with this token and whether it is revoked."""
    row = tx.connection.execute(_WITH_TOKEN, {"token_hash": token_hash}).one_or_none()
    return None if row is None else (row.id, row.revoked_at is not None)


def with_key(tx: Transaction, key_id: str) -> Device | None:
    """Return the device with this key, or none."""
    row = tx.connection.execute(_WITH_KEY, {"key_id": key_id}).one_or_none()
    return None if row is None else _device(row)


def revoked_at(tx: Transaction, device_id: str) -> dt.datetime | None:
    """Return when a device was revoked, and keep others from revoking it meanwhile.

    Raises:
        DeviceUnknown: There is none with this id.
    """
    row = tx.connection.execute(_REVOKED_AT, {"id": device_id}).one_or_none()
    if row is None:
        raise DeviceUnknown(device_id)
    moment: dt.datetime | None = row.revoked_at
    return moment


def public_key_of(tx: Transaction, device_id: str) -> str | None:
    """Return the key that a device enrolled with, base64 of its SPKI, or none."""
    query = sa.select(devices.c.public_key).where(devices.c.id == device_id)
    key: str | None = tx.connection.execute(query).scalar_one()
    return key


def public_keys_of_assignments(
    tx: Transaction, assignment_ids: Collection[str]
) -> dict[str, str]:
    """Return the keys of the devices of assignments, of those that have one."""
    query = (
        sa.select(assignments.c.id, devices.c.public_key)
        .join(devices, devices.c.id == assignments.c.device_id)
        .where(assignments.c.id.in_(assignment_ids), devices.c.public_key.is_not(None))
    )
    return {row.id: row.public_key for row in tx.connection.execute(query)}


def revoke(tx: Transaction, device_id: str, *, now: dt.datetime) -> None:
    """Write that a device is revoked."""
    tx.change_one(
        devices.update().where(devices.c.id == device_id).values(revoked_at=now)
    )


def erased_at(tx: Transaction, device_id: str) -> dt.datetime | None:
    """Return when a device was erased, or none."""
    query = sa.select(devices.c.erased_at).where(devices.c.id == device_id)
    moment: dt.datetime | None = tx.connection.execute(query).scalar_one()
    return moment


def erase(tx: Transaction, device_id: str, *, now: dt.datetime) -> None:
    """Blank a device's row, but for its id, its moments and the digest of its key.

    Raises:
        StaleWrite: It is blank already.
    """
    tx.change_one(
        devices.update()
        .where(devices.c.id == device_id, devices.c.erased_at.is_(None))
        .values(
            token_hash=secrets.token_hex(32),  # no token has it
            name=None,
            capabilities={},
            public_key=None,
            attestation=None,
            erased_at=now,
        )
    )


def insist_known(tx: Transaction, device_id: str) -> None:
    """Insist that there is a device with this id.

    Raises:
        DeviceUnknown: There is none.
    """
    query = sa.select(devices.c.id).where(devices.c.id == device_id)
    if tx.connection.execute(query).one_or_none() is None:
        raise DeviceUnknown(device_id)


def newest(tx: Transaction, *, limit: int) -> list[tuple[Device, int]]:
    """Return devices, newest first, each with its number of accepted results."""
    accepted = (
        sa.select(sa.func.count())
        .where(assignments.c.device_id == devices.c.id)
        .where(assignments.c.state == "accepted")
        # Who was chosen in secret is not counted out to anybody.
        .where(
            assignments.c.round_id.in_(
                sa.select(rounds.c.id).where(rounds.c.sampling_rate.is_(None))
            )
        )
        .scalar_subquery()
    )
    query = (
        sa.select(devices, accepted.label("accepted"))
        .order_by(devices.c.enrolled_at.desc(), devices.c.id)
        .limit(limit)
    )
    return [(_device(row), row.accepted) for row in tx.connection.execute(query)]


def operator_with_token(tx: Transaction, token_hash: str) -> Operator | None:
    """Return the operator with this token, or none."""
    query = sa.select(operators).where(operators.c.token_hash == token_hash)
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _operator(row)


def add_operator(tx: Transaction, operator: Operator, *, token_hash: str) -> None:
    """Let the bearer of a token operate the coordinator."""
    tx.connection.execute(
        operators.insert().values(
            token_hash=token_hash,
            id=operator.id,
            name=operator.name,
            role=operator.role,
            created_at=operator.created_at,
        )
    )


def list_operators(tx: Transaction) -> list[Operator]:
    """Return every operator, oldest first."""
    query = sa.select(operators).order_by(operators.c.created_at, operators.c.id)
    return [_operator(row) for row in tx.connection.execute(query)]


def revoke_operator(
    tx: Transaction, operator_id: str, *, now: dt.datetime
) -> tuple[Operator, bool]:
    """Let an operator's token be worth nothing.

    Returns:
        The operator, and whether this changed anything.

    Raises:
        TokenUnknown: No operator has this id.
    """
    changed = tx.connection.execute(
        operators.update()
        .where(operators.c.id == operator_id, operators.c.revoked_at.is_(None))
        .values(revoked_at=now)
    ).rowcount
    query = sa.select(operators).where(operators.c.id == operator_id)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        raise TokenUnknown(operator_id)
    return _operator(row), changed == 1


def _device(row: Row) -> Device:
    return Device(
        id=row.id,
        name=row.name,
        capabilities=row.capabilities,
        enrolled_at=row.enrolled_at,
        public_key=row.public_key,
        attestation=row.attestation,
        revoked_at=row.revoked_at,
        erased_at=row.erased_at,
    )


def _operator(row: Row) -> Operator:
    return Operator(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
