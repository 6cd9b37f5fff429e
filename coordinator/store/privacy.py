"""Secrets, chosen devices and the ledger of tasks under differential privacy."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from coordinator.domain.privacy import Release, Terms
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, chosen, devices, noise_secrets, releases

_SECRET: Final = sa.select(noise_secrets.c.secret).where(
    noise_secrets.c.task == sa.bindparam("task")
)
_IS_CHOSEN: Final = sa.select(sa.literal(1)).where(
    chosen.c.round_id == sa.bindparam("round_id"),
    chosen.c.device_id == sa.bindparam("device_id"),
)
_COUNT_CHOSEN: Final = sa.select(sa.func.count()).where(
    chosen.c.round_id == sa.bindparam("round_id")
)


def insert_secret(tx: Transaction, task: str, secret: bytes) -> None:
    """Keep what a task's noise and coins are made from."""
    tx.connection.execute(noise_secrets.insert().values(task=task, secret=secret.hex()))


def secret(tx: Transaction, task: str) -> bytes:
    """Return a task's secret.

    Raises:
        KeyError: It has none, or none any more.
    """
    found: str | None = tx.connection.execute(_SECRET, {"task": task}).scalar()
    if found is None:
        raise KeyError(task)
    return bytes.fromhex(found)


def forget_secret(tx: Transaction, task: str) -> None:
    """Delete a task's secret, if it has one."""
    tx.connection.execute(noise_secrets.delete().where(noise_secrets.c.task == task))


def candidates(tx: Transaction, *, most: int) -> Sequence[str]:
    """Return devices that coins may choose: not revoked, who enrolled first."""
    query = (
        sa.select(devices.c.id)
        .where(devices.c.revoked_at.is_(None))
        .order_by(devices.c.enrolled_at, devices.c.id)
        .limit(most)
    )
    return tx.connection.execute(query).scalars().all()


def insert_chosen(tx: Transaction, round_id: int, device_ids: Sequence[str]) -> None:
    """Keep whom coins chose for a round."""
    if device_ids:
        tx.connection.execute(
            chosen.insert(),
            [{"round_id": round_id, "device_id": each} for each in device_ids],
        )


def is_chosen(tx: Transaction, round_id: int, device_id: str) -> bool:
    """Return whether coins chose a device for a round."""
    values = {"round_id": round_id, "device_id": device_id}
    return tx.connection.execute(_IS_CHOSEN, values).first() is not None


def count_chosen(tx: Transaction, round_id: int) -> int:
    """Return how many devices coins chose for a round."""
    count: int = tx.connection.execute(
        _COUNT_CHOSEN, {"round_id": round_id}
    ).scalar_one()
    return count


def forget_chosen(tx: Transaction, round_id: int) -> None:
    """Delete whom coins chose for a round."""
    tx.connection.execute(chosen.delete().where(chosen.c.round_id == round_id))


def insert_release(tx: Transaction, release: Release) -> None:
    """Enter a release into the ledger."""
    tx.connection.execute(
        releases.insert().values(
            task=release.task,
            number=release.number,
            round_id=release.round_id,
            mechanism=release.mechanism,
            clip_norm=release.clip_norm,
            noise_multiplier=release.noise_multiplier,
            terms=dataclasses.asdict(release.terms),
            epsilon=release.epsilon,
            accountant=release.accountant,
            released_at=release.released_at,
        )
    )


def ledger(tx: Transaction, task: str) -> list[Release]:
    """Return every release of a task, oldest first."""
    query = (
        sa.select(releases).where(releases.c.task == task).order_by(releases.c.number)
    )
    return [_release(row) for row in tx.connection.execute(query)]


def _release(row: Row) -> Release:
    return Release(
        task=row.task,
        number=row.number,
        round_id=row.round_id,
        mechanism=row.mechanism,
        clip_norm=row.clip_norm,
        noise_multiplier=row.noise_multiplier,
        terms=Terms(**row.terms),
        epsilon=row.epsilon,
        accountant=row.accountant,
        released_at=row.released_at,
    )
