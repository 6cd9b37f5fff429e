"""The steps of secure aggregation, beside the masked vector, which comes as an update.

A question is held back for up to ``wait_s`` seconds until its answer is there.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import fastapi
from fastapi import Query

from coordinator.api import callers, updates
from coordinator.api.problems import jittered_s, refusals
from coordinator.api.services import Given, Services
from coordinator.protocol import messages, problems
from coordinator.protocol.secagg.messages import (
    Announcement,
    Dealing,
    InboxAnswer,
    Joined,
    Reveal,
    RosterAnswer,
    SurvivorsAnswer,
)
from coordinator.usecases import secagg

router = fastapi.APIRouter(
    prefix="/v1/assignments/{assignment_id}/secagg", tags=["device"]
)
T = TypeVar("T")
_PAUSE_S: Final = 1.0  # mean, between two questions
_STEP: Final = (
    *updates.OWN,
    problems.NOT_SECURE,
    problems.ROUND_CLOSED,
    problems.COHORT_ENDED,
)
_SENT: Final = (*_STEP, problems.ALREADY_REPORTED, problems.WRONG_SHARES)
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Seconds that the answer may be held back until it is there.",
    ),
]


@router.post(
    "/announcement",
    responses=refusals(
        *_STEP,
        problems.LEASE_LAPSED,
        problems.ASSIGNMENT_ENDED,
        problems.ALREADY_REPORTED,
        problems.KEYS_REFUSED,
    ),
    summary="Join a round",
)
async def join(
    assignment_id: messages.Id,
    body: Announcement,
    given: Given,
    device_id: callers.Device,
) -> Joined:
    """Join once the result is there, with two fresh keys. The lease ends with it.

    Keep the result until the round has ended: nothing of it is sent yet.
    """

    def call() -> Joined:
        joined_at = secagg.join(
            given.store,
            body,
            device_id=device_id,
            assignment_id=assignment_id,
            now=given.clock.now(),
        )
        return Joined(assignment=assignment_id, joined_at=joined_at)

    return await given.call(call)


@router.get(
    "/roster",
    responses=refusals(*_STEP),
    summary="Ask for the cohort",
)
async def get_roster(
    assignment_id: messages.Id,
    given: Given,
    device_id: callers.Device,
    wait_s: Wait = 0.0,
) -> RosterAnswer:
    """Get the cohort's manifest and the keys of the neighbours, once it is formed."""
    names = {"device_id": device_id, "assignment_id": assignment_id}
    look = functools.partial(secagg.roster, given.store, **names)
    found, pause_s = await ask(given, look, wait_s)
    return RosterAnswer(roster=found, retry_after_s=pause_s)


@router.post(
    "/dealing",
    status_code=204,
    responses={
        204: {"description": "The shares are kept."},
        **refusals(*_SENT),
    },
    summary="Deal shares to the neighbours",
)
async def deal(
    assignment_id: messages.Id,
    body: Dealing,
    given: Given,
    device_id: callers.Device,
) -> None:
    """Send every neighbour, sealed for it alone, a share of both secrets."""
    await given.call(
        lambda: secagg.deal(
            given.store,
            body,
            device_id=device_id,
            assignment_id=assignment_id,
            now=given.clock.now(),
        )
    )


@router.get(
    "/inbox",
    responses=refusals(*_STEP, problems.LEFT_OUT),
    summary="Ask for the neighbours' shares",
)
async def get_inbox(
    assignment_id: messages.Id,
    given: Given,
    device_id: callers.Device,
    wait_s: Wait = 0.0,
) -> InboxAnswer:
    """Get what neighbours dealt; mask the vector with those, and post it."""
    names = {"device_id": device_id, "assignment_id": assignment_id}
    look = functools.partial(secagg.inbox, given.store, **names)
    found, pause_s = await ask(given, look, wait_s)
    return InboxAnswer(inbox=found, retry_after_s=pause_s)


@router.get(
    "/survivors",
    responses=refusals(*_STEP, problems.LEFT_OUT),
    summary="Ask whose vectors are summed",
)
async def get_survivors(
    assignment_id: messages.Id,
    given: Given,
    device_id: callers.Device,
    wait_s: Wait = 0.0,
) -> SurvivorsAnswer:
    """Get the places of those whose vectors came in."""
    names = {"device_id": device_id, "assignment_id": assignment_id}
    look = functools.partial(secagg.survivors, given.store, **names)
    found, pause_s = await ask(given, look, wait_s)
    return SurvivorsAnswer(survivors=found, retry_after_s=pause_s)


@router.post(
    "/reveal",
    status_code=204,
    responses={
        204: {"description": "The shares are kept. The device has done its part."},
        **refusals(*_SENT, problems.LEFT_OUT),
    },
    summary="Reveal shares that unmask the sum",
)
async def reveal(
    assignment_id: messages.Id,
    body: Reveal,
    given: Given,
    device_id: callers.Device,
) -> None:
    """Give of each neighbour one share: by whether it survived, of which secret."""
    await given.call(
        lambda: secagg.reveal(
            given.store,
            body,
            device_id=device_id,
            assignment_id=assignment_id,
            now=given.clock.now(),
        )
    )


async def ask(
    given: Services, look: Callable[[], T | None], wait_s: float
) -> tuple[T | None, float | None]:
    """Ask until there is an answer, or the time is over.

    Returns:
        The answer, or how long to wait until the next question.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        newest = given.watcher.newest_work
        found = await given.call(look)
        if found is not None:
            return found, None
        left = until - loop.time()
        if left <= 0 or given.watcher.stopped:
            return None, jittered_s(_PAUSE_S)
        await given.watcher.wait_for_work(newest, left)
