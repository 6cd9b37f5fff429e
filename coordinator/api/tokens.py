"""The admin's routes: enrolment tokens, operators, and the audit log."""

import datetime as dt
from typing import Annotated

import fastapi
from fastapi import Query

from coordinator.api import callers
from coordinator.api.problems import refusals
from coordinator.api.services import Given
from coordinator.domain.audit import Entry
from coordinator.domain.devices import EnrolmentToken, Operator, Role
from coordinator.protocol import admission, messages, paths, problems
from coordinator.usecases import tokens

router = fastapi.APIRouter(tags=["operator"])
_OPERATOR = (problems.UNAUTHENTICATED, problems.FORBIDDEN)


@router.post(
    paths.ENROLMENT_TOKENS,
    status_code=201,
    response_model=admission.NewEnrolmentToken,
    responses=refusals(*_OPERATOR),
    summary="Make an enrolment token",
)
async def make_enrolment_token(
    body: admission.EnrolmentTokenRequest, given: Given, operator: callers.Admin
) -> admission.NewEnrolmentToken:
    """Make a token for one device, or for a fleet. Its text is shown this once."""
    token, text = await given.call(
        lambda: tokens.make_enrolment_token(
            given.store,
            name=body.name,
            max_uses=body.max_uses,
            valid_for=dt.timedelta(seconds=body.valid_s),
            by=operator.id,
            now=given.clock.now(),
        )
    )
    return admission.NewEnrolmentToken(**_token_state(token).model_dump(), token=text)


@router.get(
    paths.ENROLMENT_TOKENS,
    response_model=admission.EnrolmentTokenList,
    responses=refusals(*_OPERATOR),
    dependencies=[callers.READ],
    summary="List enrolment tokens",
)
async def list_enrolment_tokens(given: Given) -> admission.EnrolmentTokenList:
    """List every enrolment token, newest first, without its text."""
    found = await given.call(lambda: tokens.list_enrolment_tokens(given.store))
    return admission.EnrolmentTokenList(tokens=tuple(map(_token_state, found)))


@router.post(
    paths.ENROLMENT_TOKENS + "/{token_id}/revoke",
    response_model=admission.EnrolmentTokenState,
    responses=refusals(*_OPERATOR, problems.TOKEN_UNKNOWN),
    summary="Revoke an enrolment token",
)
async def revoke_enrolment_token(
    token_id: messages.Id, given: Given, operator: callers.Admin
) -> admission.EnrolmentTokenState:
    """Let a token admit nobody any more. Devices that it admitted stay."""
    token = await given.call(
        lambda: tokens.revoke_enrolment_token(
            given.store, token_id, by=operator.id, now=given.clock.now()
        )
    )
    return _token_state(token)


@router.post(
    paths.OPERATORS,
    status_code=201,
    response_model=admission.NewOperator,
    responses=refusals(*_OPERATOR),
    summary="Admit an operator",
)
async def make_operator(
    body: admission.OperatorRequest, given: Given, operator: callers.Admin
) -> admission.NewOperator:
    """Make a token with a role. It is shown this once."""
    made, text = await given.call(
        lambda: tokens.make_operator(
            given.store,
            name=body.name,
            role=Role(body.role),
            by=operator.id,
            now=given.clock.now(),
        )
    )
    return admission.NewOperator(**_operator_state(made).model_dump(), token=text)


@router.get(
    paths.OPERATORS,
    response_model=admission.OperatorList,
    responses=refusals(*_OPERATOR),
    dependencies=[callers.READ],
    summary="List operators",
)
async def list_operators(given: Given) -> admission.OperatorList:
    """List every operator, oldest first, without the token."""
    found = await given.call(lambda: tokens.list_operators(given.store))
    return admission.OperatorList(operators=tuple(map(_operator_state, found)))


@router.post(
    paths.OPERATORS + "/{operator_id}/revoke",
    response_model=admission.OperatorState,
    responses=refusals(*_OPERATOR, problems.TOKEN_UNKNOWN),
    summary="Revoke an operator",
)
async def revoke_operator(
    operator_id: messages.Id, given: Given, operator: callers.Admin
) -> admission.OperatorState:
    """Let an operator's token be worth nothing from now on."""
    revoked = await given.call(
        lambda: tokens.revoke_operator(
            given.store, operator_id, by=operator.id, now=given.clock.now()
        )
    )
    return _operator_state(revoked)


@router.get(
    paths.AUDIT,
    response_model=admission.AuditLog,
    responses=refusals(*_OPERATOR),
    dependencies=[callers.READ],
    summary="Read the audit log",
)
async def list_audit(
    given: Given,
    after: Annotated[
        int, Query(ge=0, le=2**53, description="Only entries with a greater id.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> admission.AuditLog:
    """Read security decisions, oldest first."""
    await given.refusals.write()
    found = await given.call(
        lambda: tokens.list_audit(given.store, after=after, limit=limit)
    )
    return admission.AuditLog(entries=tuple(map(_entry, found)))


def _token_state(token: EnrolmentToken) -> admission.EnrolmentTokenState:
    return admission.EnrolmentTokenState(
        id=token.id,
        name=token.name,
        max_uses=token.max_uses,
        uses=token.uses,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )


def _operator_state(operator: Operator) -> admission.OperatorState:
    return admission.OperatorState(
        id=operator.id,
        name=operator.name,
        role=operator.role.value,
        created_at=operator.created_at,
        revoked_at=operator.revoked_at,
    )


def _entry(entry: Entry) -> admission.AuditEntry:
    return admission.AuditEntry(
        id=entry.id,
        at=entry.at,
        decision=entry.decision,
        subject=entry.subject,
        by=entry.by,
        reason=entry.reason,
        times=entry.times,
        last_at=entry.last_at,
    )
