"""Whether the process lives and can serve."""

import fastapi
from fastapi import Response

from coordinator.api.services import Given
from coordinator.protocol import operations, paths
from coordinator.usecases import tasks

router = fastapi.APIRouter(tags=["health"])


@router.get(paths.HEALTH, response_model=operations.Health, summary="Is it alive?")
async def get_health() -> operations.Health:
    """Answer as long as the process can."""
    return operations.Health()


@router.get(
    paths.READY,
    response_model=operations.Readiness,
    responses={503: {"model": operations.Readiness, "description": "Not ready."}},
    summary="Can it serve devices?",
)
async def get_readiness(given: Given, response: Response) -> operations.Readiness:
    """Check the database and the blob store."""

    def check() -> dict[str, str]:
        return {
            "database": "ok" if _answers(given) else "does not answer",
            "blobs": "ok" if given.blobs.is_writable() else "folder is not writable",
        }

    checks = await given.call(check)
    ready = all(value == "ok" for value in checks.values())
    response.status_code = 200 if ready else 503
    return operations.Readiness(status="ready" if ready else "not_ready", checks=checks)


def _answers(given: Given) -> bool:
    try:
        tasks.last_event_id(given.store)
    except given.store.errors:
        return False
    return True
