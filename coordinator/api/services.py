"""What the routes work with, and who calls them."""

import dataclasses
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import fastapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from coordinator import logs
from coordinator.api.metrics import Metrics
from coordinator.api.watcher import Watcher
from coordinator.clock import Clock
from coordinator.domain import selection
from coordinator.domain.errors import Unauthenticated
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.usecases import devices

T = TypeVar("T")


class Identities:
    """Remembers which device bears which token: a fact that never changes.

    What a device may do is asked of the database at every call; who it is, once.
    """

    def __init__(self, store: Store, *, most: int = 100_000) -> None:
        """Remember at most ``most`` devices, the latest ones."""
        self._store = store
        self._most = most
        self._by_hash: dict[str, str] = {}

    def device(self, token: str | None) -> str:
        """Return the id of the device that bears ``token``.

        Raises:
            Unauthenticated: The token is missing or unknown.
        """
        if token is None:
            raise Unauthenticated("no bearer token was sent")
        hashed = devices.token_hash(token)
        known = self._by_hash.get(hashed)
        if known is None:
            known = devices.authenticate_device(self._store, token)
            while len(self._by_hash) >= self._most:
                self._by_hash.pop(next(iter(self._by_hash)), None)
            self._by_hash[hashed] = known
        logs.note(device=known)
        return known


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Made once by ``app`` and handed to every route."""

    store: Store
    blobs: BlobStore
    clock: Clock
    watcher: Watcher
    identities: Identities
    metrics: Metrics
    wait_s: float  #: mean seconds that a device without work is told to wait
    #: Threads of their own: readiness is told when all the others hang.
    checkers: ThreadPoolExecutor = dataclasses.field(
        default_factory=lambda: ThreadPoolExecutor(4, "checker")
    )

    def jittered_wait_s(self) -> float:
        """Draw how long a device without work should wait, in seconds."""
        draw = secrets.randbelow(1 << 20) / (1 << 20)
        return round(selection.jittered(self.wait_s, draw), 3)

    async def call(self, body: Callable[[], T]) -> T:
        """Run a use case off the event loop."""
        return await run_in_threadpool(body)


async def _services(request: fastapi.Request) -> Services:
    services: Services = request.app.state.services
    return services


_device_scheme = HTTPBearer(
    scheme_name="device",
    description="The token that enrolment answered with.",
    auto_error=False,
)
_operator_scheme = HTTPBearer(
    scheme_name="operator",
    description="The token in `operator.token` of the coordinator's data folder.",
    auto_error=False,
)


async def _device_token(
    credentials: Annotated[
        HTTPAuthorizationCredentials | None, fastapi.Depends(_device_scheme)
    ],
) -> str | None:
    return None if credentials is None else credentials.credentials


async def _operator_token(
    credentials: Annotated[
        HTTPAuthorizationCredentials | None, fastapi.Depends(_operator_scheme)
    ],
) -> str | None:
    return None if credentials is None else credentials.credentials


Given = Annotated[Services, fastapi.Depends(_services)]
DeviceToken = Annotated[str | None, fastapi.Depends(_device_token)]
OperatorToken = Annotated[str | None, fastapi.Depends(_operator_token)]
