"""The ASGI application: routes, problems, and what OpenAPI says of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import fastapi
from fastapi.routing import APIRoute

from coordinator.api import (
    assignments,
    data_rights,
    devices,
    encryption,
    health,
    models,
    problems,
    registry,
    secagg,
    tasks,
    tokens,
    uploads,
)
from coordinator.api.limits import Limited
from coordinator.api.metrics import Observed
from coordinator.api.services import Services

_DESCRIPTION = """
Federated learning for phones over plain HTTP.

A device **enrols** once, then again and again **checks in**, downloads what its
assignment names (immutable: cache by `sha256`), trains or evaluates with the training
graph, and **reports**. Control is JSON, tensors are
[safetensors](https://github.com/huggingface/safetensors) bodies. Every refusal is an
[RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem document: decide by its
`type` alone, and retry the same request, signed anew where requests are signed, when
it names `retry_after_s`. A refused request has changed nothing.
"""
_TAGS = [
    {"name": "device", "description": "What a phone calls, with its own token."},
    {
        "name": "model",
        "description": "Downloads, immutable but for tags; no token needed.",
    },
    {"name": "operator", "description": "What a person or a script calls."},
    {"name": "health", "description": "For load balancers and supervisors."},
]


def create(services: Services, *, version: str) -> fastapi.FastAPI:
    """Return the application that serves ``services``."""

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(services.watcher.run())
        counting = asyncio.create_task(services.refusals.run())
        try:
            yield
        finally:
            services.watcher.stop_soon()
            await watching
            counting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await counting
            await services.refusals.write()
            services.threads.shutdown(wait=False)
            services.checkers.shutdown(wait=False)

    app = fastapi.FastAPI(
        title="Shoal coordinator",
        summary="Federated learning for phones over plain HTTP",
        description=_DESCRIPTION,
        version=version,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.services = services
    app.add_middleware(Limited, load=services.load)
    app.add_middleware(Observed, metrics=services.metrics)
    problems.install(app, away=services.store.errors)
    modules = (
        devices,
        data_rights,
        assignments,
        encryption,
        secagg,
        uploads,
        models,
        registry,
        tasks,
        tokens,
        health,
    )
    for module in modules:
        app.include_router(module.router)
    app.state.routes = [
        route
        for module in modules
        for route in module.router.routes
        if isinstance(route, APIRoute)
    ]
    return app
