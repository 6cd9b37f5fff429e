"""What enrolment and signatures use up: tokens, challenges, nonces."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from coordinator.domain.devices import EnrolmentToken
from coordinator.domain.errors import TokenUnknown
from coordinator.store.engine import Transaction
from coordinator.store.tables import Row, challenges, enrolment_tokens, nonces

_FORGET: Final = nonces.delete().where(
    nonces.c.device_id == sa.bindparam("device_id"),
    nonces.c.forget_at < sa.bindparam("now"),
)
_KNOWN: Final = sa.select(
    sa.func.count(),
    sa.func.sum(sa.case((nonces.c.nonce == sa.bindparam("nonce"), 1), else_=0)),
).where(nonces.c.device_id == sa.bindparam("device_id"))
_SPEND: Final = nonces.insert()


def insert_token(tx: Transaction, token: EnrolmentToken, *, token_hash: str) -> None:
    """Make an enrolment token."""
    tx.connection.execute(
        enrolment_tokens.insert().values(
            id=token.id,
            token_hash=token_hash,
            name=token.name,
            max_uses=token.max_uses,
            uses=token.uses,
            created_at=token.created_at,
            expires_at=token.expires_at,
        )
    )


def list_tokens(tx: Transaction) -> list[EnrolmentToken]:
    """Return every enrolment token, newest first."""
    query = sa.select(enrolment_tokens).order_by(
        enrolment_tokens.c.created_at.desc(), enrolment_tokens.c.id
    )
    return [_token(row) for row in tx.connection.execute(query)]


def token_with_hash(tx: Transaction, token_hash: str) -> EnrolmentToken | None:
    """Return an enrolment token, and keep others from using it meanwhile."""
    query = (
        sa.select(enrolment_tokens)
        .where(enrolment_tokens.c.token_hash == token_hash)
        .with_for_update()
    )
    row = tx.connection.execute(query).one_or_none()
    return None if row is None else _token(row)


def use_token(tx: Transaction, token: EnrolmentToken) -> None:
    """Count one more use of a token.

    Raises:
        StaleWrite: It was used or revoked since it was read.
    """
    tx.change_one(
        enrolment_tokens.update()
        .where(
            enrolment_tokens.c.id == token.id,
            enrolment_tokens.c.uses == token.uses,
            enrolment_tokens.c.revoked_at.is_(None),
        )
        .values(uses=token.uses + 1)
    )


def revoke_token(
    tx: Transaction, token_id: str, *, now: dt.datetime
) -> tuple[EnrolmentToken, bool]:
    """Let a token admit nobody any more.

    Returns:
        The token, and whether this changed anything.

    Raises:
        TokenUnknown: No enrolment token has this id.
    """
    changed = tx.connection.execute(
        enrolment_tokens.update()
        .where(
            enrolment_tokens.c.id == token_id, enrolment_tokens.c.revoked_at.is_(None)
        )
        .values(revoked_at=now)
    ).rowcount
    query = sa.select(enrolment_tokens).where(enrolment_tokens.c.id == token_id)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        raise TokenUnknown(token_id)
    return _token(row), changed == 1


def forget_challenges(tx: Transaction, *, expired_by: dt.datetime) -> None:
    """Forget used challenges that had expired at ``expired_by``."""
    tx.connection.execute(
        challenges.delete().where(challenges.c.expires_at < expired_by)
    )


def spend_challenge(tx: Transaction, sha256: str, *, expires_at: dt.datetime) -> bool:
    """Use a challenge up. Returns whether it was not used before."""
    query = sa.select(challenges.c.sha256).where(challenges.c.sha256 == sha256)
    if tx.connection.execute(query).one_or_none() is not None:
        return False
    tx.connection.execute(
        challenges.insert().values(sha256=sha256, expires_at=expires_at)
    )
    return True


def nonces_of(
    tx: Transaction, device_id: str, nonce: str, *, now: dt.datetime
) -> tuple[int, bool]:
    """Return how many nonces are kept of a device, and whether ``nonce`` is one.

    Those whose signatures would be stale by now are forgotten first.
    """
    tx.connection.execute(_FORGET, {"device_id": device_id, "now": now})
    count, known = tx.connection.execute(
        _KNOWN, {"device_id": device_id, "nonce": nonce}
    ).one()
    return count, bool(known)


def spend_nonce(
    tx: Transaction, device_id: str, nonce: str, *, forget_at: dt.datetime
) -> None:
    """Keep a nonce as used."""
    tx.connection.execute(
        _SPEND, {"device_id": device_id, "nonce": nonce, "forget_at": forget_at}
    )


def forget_nonces(tx: Transaction, now: dt.datetime) -> None:
    """Forget the nonces of all devices whose signatures would be stale by now."""
    tx.connection.execute(nonces.delete().where(nonces.c.forget_at < now))


def _token(row: Row) -> EnrolmentToken:
    return EnrolmentToken(
        id=row.id,
        name=row.name,
        max_uses=row.max_uses,
        uses=row.uses,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
