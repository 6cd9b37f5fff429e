"""Whether the process lives, whether all that a round needs is there, and metrics."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Final

import fastapi
from fastapi import Response

from coordinator.api import callers
from coordinator.api.metrics import MEDIA_TYPE
from coordinator.api.problems import refusals, refuse_unready
from coordinator.api.services import Given, Services
from coordinator.protocol import operations, paths, problems
from coordinator.usecases import workers

router = fastapi.APIRouter(tags=["health"])
_OK: Final = "ok"
_PATIENCE_S: Final = 3.0
_HOLDS_FOR: Final = dt.timedelta(seconds=1)


@router.get(
    paths.HEALTH,
    response_model=operations.Health,
    responses=refusals(),
    summary="Is it alive?",
)
async def get_health() -> operations.Health:
    """Answer as long as the process can. Restart it when this does not answer."""
    return operations.Health()


@router.get(
    paths.READY,
    response_model=operations.Readiness,
    responses=refusals(problems.NOT_READY),
    summary="Is all there that a round needs?",
)
async def get_readiness(given: Given) -> operations.Readiness | Response:
    """Check the database, the blob store and the workers.

    Each check has three seconds, and its answer holds for one. A refusal names in
    `checks` what is missing. Without a worker devices are still served, and rounds wait
    for one.
    """
    last = given.readiness
    # Whoever asks while somebody looks is told what is seen: a look writes to the disk.
    async with last.looking:
        now = given.clock.now()
        if last.at is None or not dt.timedelta() <= now - last.at < _HOLDS_FOR:
            last.checks = await _look(given)
            last.at = now
        checks = last.checks
    if all(value == _OK for value in checks.values()):
        return operations.Readiness(checks=dict(checks))
    return refuse_unready(checks)


@router.get(
    paths.METRICS,
    tags=["operator"],
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **refusals(problems.UNAUTHENTICATED, problems.FORBIDDEN),
    },
    summary="Get metrics",
    dependencies=[callers.READ],
)
async def get_metrics(given: Given) -> Response:
    """Get what this process counts, and what the database says of all of them."""
    given.pacer.show(given.metrics)

    def call() -> bytes:
        return given.metrics.render(
            given.clock,
            given.blobs,
            waiting=given.watcher.waiting,
            calls=given.load.calls,
            uploads=given.load.places.taken,
        )

    return Response(await given.call(call), media_type=MEDIA_TYPE)


async def _look(given: Services) -> dict[str, str]:
    (database, worker), blobs = await asyncio.gather(
        _answer(given, lambda: _look_at_database(given)),
        _answer(given, lambda: (_look_at_blobs(given), "")),
    )
    return {"database": database, "blobs": blobs[0], "worker": worker}


async def _answer(
    given: Services, check: Callable[[], tuple[str, str]]
) -> tuple[str, str]:
    asked = asyncio.get_running_loop().run_in_executor(given.checkers, check)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await asked
    except TimeoutError:
        return f"no answer within {_PATIENCE_S:g} s", "unknown"


def _look_at_database(given: Services) -> tuple[str, str]:
    """What to say of the database, and of the workers that write to it."""
    try:
        seen = workers.last_seen(given.store)
    except given.store.errors:
        return "cannot be written", "unknown"
    if seen is None:
        return _OK, "none is running"
    silent = given.clock.now() - seen
    if silent > workers.SILENT_AFTER:
        return _OK, f"none was seen for {silent.total_seconds():.0f} s"
    return _OK, _OK


def _look_at_blobs(given: Services) -> str:
    return _OK if given.blobs.is_writable() else "the folder cannot be written"
