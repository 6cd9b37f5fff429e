"""What the routes work with."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import fastapi
from starlette.concurrency import run_in_threadpool

from coordinator.api.metrics import Metrics
from coordinator.api.pacer import Pacer
from coordinator.api.watcher import Watcher
from coordinator.clock import Clock
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.usecases.devices import ANYONE, Admission

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Made once by ``app`` and handed to every route."""

    store: Store
    blobs: BlobStore
    clock: Clock
    watcher: Watcher
    metrics: Metrics
    pacer: Pacer
    #: Threads of their own: readiness is told when all the others hang.
    checkers: ThreadPoolExecutor = dataclasses.field(
        default_factory=lambda: ThreadPoolExecutor(4, "checker")
    )
    admission: Admission = ANYONE
    #: Whether devices sign their requests; otherwise they bear their token.
    devices_sign: bool = False
    clock_skew: dt.timedelta = dt.timedelta(seconds=300)  #: that signatures may have

    async def call(self, body: Callable[[], T]) -> T:
        """Run a use case off the event loop."""
        return await run_in_threadpool(body)


async def _services(request: fastapi.Request) -> Services:
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, fastapi.Depends(_services)]
