"""The API over ASGI, without a socket: its routes, its background task, its streams."""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from typing import Any, Self

import fastapi
import httpx

from coordinator.api import application
from coordinator.api.audit import RefusalCounts
from coordinator.api.limits import Load
from coordinator.api.metrics import Metrics
from coordinator.api.pacer import Pacer
from coordinator.api.services import Services
from coordinator.api.watcher import Watcher
from coordinator.domain.devices import Role
from coordinator.domain.limits import Limits
from coordinator.domain.pacing import Pace
from coordinator.protocol import digests, paths, problems
from coordinator.protocol.problems import ProblemType
from coordinator.usecases import devices, tokens
from coordinator.usecases.observation import Observer
from tests.support.federation import Federation

OPERATOR = "an operator's token"
PATIENCE_S = 20.0
PACE = Pace(gather_s=5.0, longest_s=60.0, most_per_s=100.0)
LIMITS = Limits(
    address_requests_per_s=1e5,
    device_requests_per_s=1e5,
    device_requests=1000,
    calls_waiting=1000,
    uploads=1000,
    connections=1000,
    address_connections=1000,
    head_s=10,
    body_idle_s=10,
    body_bytes_per_s=1,
)


class ObservedWatcher(Watcher):
    """Says when somebody waits, so that tests need not guess."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation.store, interval_s=0.001)
        self.somebody_waits = asyncio.Event()

    async def wait_for_work(self, after: int, timeout_s: float) -> None:
        self.somebody_waits.set()
        await super().wait_for_work(after, timeout_s)

    async def wait_for_events(self, after: int, timeout_s: float) -> None:
        self.somebody_waits.set()
        await super().wait_for_events(after, timeout_s)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A device, and its token."""

    id: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The running application, and short words for its callers."""

    app: fastapi.FastAPI
    client: httpx.AsyncClient
    federation: Federation
    watcher: ObservedWatcher

    @property
    def operator(self) -> dict[str, str]:
        return {"authorization": f"Bearer {OPERATOR}"}

    def enrol(self) -> Caller:
        device, token = devices.enrol(
            self.federation.store,
            devices.Applicant(),
            now=self.federation.clock.now(),
        )
        return Caller(id=device.id, token=token)

    async def check_in(
        self,
        caller: Caller,
        *,
        key: str | None = None,
        wait_s: float = 0,
        encodings: Sequence[str] | None = None,
    ) -> httpx.Response:
        can_write = {} if encodings is None else {"encodings": list(encodings)}
        return await self.client.post(
            paths.CHECK_INS,
            headers=caller.headers | {"Idempotency-Key": key or uuid.uuid4().hex},
            json={"wait_s": wait_s} | can_write,
        )

    async def lease(self, caller: Caller) -> dict[str, Any]:
        """Check in where there must be work. Returns the assignment."""
        response = await self.check_in(caller)
        assignment: dict[str, Any] = response.json()["assignment"]
        assert assignment is not None, response.text
        return assignment

    async def submit(
        self,
        caller: Caller,
        assignment: Mapping[str, Any],
        body: bytes,
        **headers: str,
    ) -> httpx.Response:
        """Post an update with a digest that fits; ``headers`` replace any field."""
        fields = {
            "content-digest": digests.content_digest(digests.sha256_hex(body)),
            **caller.headers,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.client.post(
            assignment["report_to"],
            content=body,
            headers={name: value for name, value in fields.items() if value},
        )


@contextlib.asynccontextmanager
async def serve(
    federation: Federation,
    *,
    background: bool = True,
    load: Load | None = None,
    **settings: Any,  # noqa: ANN401 - fields of Services
) -> AsyncIterator[Api]:
    """Run the application, and its background task unless it would be in the way."""
    tokens.admit_operator(
        federation.store,
        OPERATOR,
        name="operator",
        role=Role.ADMIN,
        by=tokens.COMMAND_LINE,
        now=federation.clock.now(),
    )
    watcher = ObservedWatcher(federation)
    app = application.create(
        Services(
            store=federation.store,
            blobs=federation.blobs,
            clock=federation.clock,
            watcher=watcher,
            metrics=Metrics(Observer(federation.store)),
            pacer=Pacer(federation.store, federation.clock, PACE),
            refusals=RefusalCounts(federation.store),
            load=load or Load(LIMITS),
            **settings,
        ),
        version="0.0.0",
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app) if background else contextlib.nullcontext(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield Api(app=app, client=client, federation=federation, watcher=watcher)


def assert_problem(response: httpx.Response, kind: ProblemType) -> dict[str, Any]:
    """Insist that ``response`` refuses with ``kind``. Returns the document."""
    assert response.headers["Content-Type"] == problems.MEDIA_TYPE, response.text
    document: dict[str, Any] = response.json()
    assert (document["type"], document["title"]) == (kind.type, kind.title)
    assert response.status_code == document["status"] == int(kind.status)
    retried = "retry_after_s" in document, "Retry-After" in response.headers
    assert retried == (kind.retry, kind.retry)
    problems.Problem.model_validate(document)
    return document


class Stream:
    """A response that is read while it comes in; httpx waits for the end here."""

    def __init__(self, app: fastapi.FastAPI, path: str, **headers: str) -> None:
        path, _, query = path.partition("?")
        self._app = app
        self._messages: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._asked = False
        self._text = ""
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.lower().replace("_", "-").encode(), value.encode())
                for name, value in headers.items()
            ],
            "server": ("test", 80),
            "client": ("test", 1),
        }

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(
            self._app(self._scope, self._receive, self._send)
        )
        start = await self._next()
        self.status: int = start["status"]
        self.headers = httpx.Headers(start["headers"])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        async with asyncio.timeout(PATIENCE_S):
            await self._task

    async def event(self) -> dict[str, str]:
        """Wait for the next server-sent event. Returns its fields."""
        while "\n\n" not in self._text:
            self._text += (await self._next())["body"].decode()
        block, self._text = self._text.split("\n\n", 1)
        return dict(line.split(": ", 1) for line in block.splitlines())

    async def _next(self) -> Mapping[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            return await self._messages.get()

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._messages.put(message)
