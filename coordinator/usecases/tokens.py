"""Make, list and revoke what opens doors: enrolment tokens and operators."""

import datetime as dt
import secrets
from typing import Final

from coordinator.domain.audit import Decision, Entry
from coordinator.domain.devices import EnrolmentToken, Operator, Role
from coordinator.store import audit, devices, enrolment
from coordinator.store.engine import Store, Transaction
from coordinator.usecases.access import token_hash

COMMAND_LINE: Final = "command-line"  #: by whom; who runs it owns the database


def make_enrolment_token(
    store: Store,
    *,
    name: str,
    max_uses: int,
    valid_for: dt.timedelta,
    by: str,
    now: dt.datetime,
) -> tuple[EnrolmentToken, str]:
    """Make an enrolment token. Returns it and its text, which is shown this once."""
    text = secrets.token_urlsafe(32)
    token = EnrolmentToken(
        id=secrets.token_hex(16),
        name=name,
        max_uses=max_uses,
        uses=0,
        created_at=now,
        expires_at=now + valid_for,
        revoked_at=None,
    )

    def body(tx: Transaction) -> None:
        enrolment.insert_token(tx, token, token_hash=token_hash(text))
        audit.append(
            tx, Decision.ENROLMENT_TOKEN_MADE, now=now, subject=token.id, by=by
        )

    store.run("make_enrolment_token", body)
    return token, text


def list_enrolment_tokens(store: Store) -> list[EnrolmentToken]:
    """Return every enrolment token, newest first."""
    return store.read(enrolment.list_tokens)


def revoke_enrolment_token(
    store: Store, token_id: str, *, by: str, now: dt.datetime
) -> EnrolmentToken:
    """Let a token admit nobody any more; again is no change.

    Raises:
        TokenUnknown: No enrolment token has this id.
    """

    def body(tx: Transaction) -> EnrolmentToken:
        token, changed = enrolment.revoke_token(tx, token_id, now=now)
        if changed:
            audit.append(
                tx, Decision.ENROLMENT_TOKEN_REVOKED, now=now, subject=token.id, by=by
            )
        return token

    return store.run("revoke_enrolment_token", body)


def admit_operator(
    store: Store, token: str, *, name: str, role: Role, by: str, now: dt.datetime
) -> Operator:
    """Let the bearer of ``token`` operate the coordinator; again is no change."""
    hashed = token_hash(token)
    operator = Operator(
        id=secrets.token_hex(16), name=name, role=role, created_at=now, revoked_at=None
    )

    def body(tx: Transaction) -> Operator:
        known = devices.operator_with_token(tx, hashed)
        if known is not None:
            return known
        devices.add_operator(tx, operator, token_hash=hashed)
        audit.append(
            tx,
            Decision.OPERATOR_ADMITTED,
            now=now,
            subject=operator.id,
            by=by,
            reason=role,
        )
        return operator

    return store.run("admit_operator", body)


def make_operator(
    store: Store, *, name: str, role: Role, by: str, now: dt.datetime
) -> tuple[Operator, str]:
    """Make an operator. Returns it and its token, which is shown this once."""
    text = secrets.token_urlsafe(32)
    return admit_operator(store, text, name=name, role=role, by=by, now=now), text


def list_operators(store: Store) -> list[Operator]:
    """Return every operator, oldest first."""
    return store.read(devices.list_operators)


def revoke_operator(
    store: Store, operator_id: str, *, by: str, now: dt.datetime
) -> Operator:
    """Let an operator's token be worth nothing; again is no change.

    Raises:
        TokenUnknown: No operator has this id.
    """

    def body(tx: Transaction) -> Operator:
        operator, changed = devices.revoke_operator(tx, operator_id, now=now)
        if changed:
            audit.append(
                tx, Decision.OPERATOR_REVOKED, now=now, subject=operator.id, by=by
            )
        return operator

    return store.run("revoke_operator", body)


def list_audit(store: Store, *, after: int, limit: int) -> list[Entry]:
    """Return entries of the audit log newer than ``after``, oldest first."""
    return store.read(lambda tx: audit.after(tx, after, limit=limit))
