"""What the routes work with."""

import asyncio
import contextvars
import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final, TypeVar

import fastapi

from coordinator.api.audit import RefusalCounts
from coordinator.api.limits import Load
from coordinator.api.metrics import Metrics
from coordinator.api.pacer import Pacer
from coordinator.api.watcher import Watcher
from coordinator.clock import Clock
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.usecases.devices import ANYONE, Admission

T = TypeVar("T")
_THREADS: Final = 40


@dataclasses.dataclass(slots=True)
class LastLook:
    """What a look at all that a round needs has found, by check, and when."""

    looking: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    checks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at: dt.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Made once by ``app`` and handed to every route."""

    store: Store
    blobs: BlobStore
    clock: Clock
    watcher: Watcher
    metrics: Metrics
    pacer: Pacer
    refusals: RefusalCounts
    load: Load
    #: For use cases. Those that wait for the disk or for the database are many.
    threads: ThreadPoolExecutor = dataclasses.field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, "call")
    )
    #: Threads of their own: readiness is told when all the others hang.
    checkers: ThreadPoolExecutor = dataclasses.field(
        default_factory=lambda: ThreadPoolExecutor(4, "checker")
    )
    readiness: LastLook = dataclasses.field(default_factory=LastLook)
    admission: Admission = ANYONE
    #: Whether devices sign their requests; otherwise they bear their token.
    devices_sign: bool = False
    has_authority: bool = False  #: whether a key authority is configured
    clock_skew: dt.timedelta = dt.timedelta(seconds=300)  #: that signatures may have
    partial_bytes: int = 1 << 30  #: that may be kept of partial uploads, all together

    async def call(self, body: Callable[[], T]) -> T:
        """Run a use case off the event loop."""
        self.load.calls += 1
        try:
            # The framework's own pool does the same at more cost.
            return await asyncio.get_running_loop().run_in_executor(
                self.threads, contextvars.copy_context().run, body
            )
        finally:
            self.load.calls -= 1


async def _services(request: fastapi.Request) -> Services:
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, fastapi.Depends(_services)]
