"""Connections: how many may be open, and how long the head of a request may take.

The server waits for ever for a head, and for the rest of a body that was answered
before its end. Both have a deadline here; bodies that are waited for have theirs in
``bodies``. What is answered here never reaches the application.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from coordinator.api import problems as api_problems
from coordinator.domain.limits import Limits, origin
from coordinator.protocol import problems
from coordinator.protocol.problems import ProblemType

MAX_HEAD_BYTES: Final = 64 * 1024


class Connections:
    """The open connections of a process, by where they come from."""

    def __init__(self, limits: Limits, *, on_refusal: Callable[[str], None]) -> None:
        """Begin with none.

        Args:
            limits: How many there may be, and how slow.
            on_refusal: Is told the name of each problem that is answered here.
        """
        self.head_s = limits.head_s
        self._limits = limits
        self._on_refusal = on_refusal
        self._open = 0
        self._by_origin: dict[str, int] = {}

    def enter(self, source: str) -> ProblemType | None:
        """Count a connection, or return why it may not be."""
        here = self._by_origin.get(source, 0)
        most = self._limits.address_connections
        if most is not None and here >= most:
            return problems.TOO_MANY_REQUESTS
        if self._open >= self._limits.connections:
            return problems.COORDINATOR_FULL
        self._open += 1
        self._by_origin[source] = here + 1
        return None

    def leave(self, source: str) -> None:
        """Count a connection that has ended."""
        self._open -= 1
        self._by_origin[source] -= 1
        if not self._by_origin[source]:
            del self._by_origin[source]

    def refusal(self, kind: ProblemType) -> bytes:
        """Return a whole answer that refuses with ``kind``."""
        self._on_refusal(kind.slug)
        response = api_problems.respond(kind)
        fields = [*response.raw_headers, (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        return STATUS_LINE[kind.status] + lines + b"\r\n" + bytes(response.body)


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with the limits."""

    open_connections: ClassVar[Connections]

    _source: str | None = None  # while it is counted
    _deadline: asyncio.TimerHandle | None = None
    _reads_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        source = origin(self.client[0] if self.client else "")
        refused = self.open_connections.enter(source)
        if refused is not None:
            self._refuse(refused)
            return
        self._source = source
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        if self._source is not None:
            self.open_connections.leave(self._source)
            self._source = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reads_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(problems.HEAD_TOO_LONG)
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        self._refuse(problems.MALFORMED_HTTP)

    def on_message_begin(self) -> None:
        self._reads_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reads_head = False
        super().on_headers_complete()

    def _watch(self) -> None:
        """Set a deadline while no request is answered; bytes do not put it off."""
        cycle: RequestResponseCycle | None = self.cycle  # none before the first
        is_answering = cycle is not None and not cycle.response_complete
        if is_answering or self.transport.is_closing():
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(
                self.open_connections.head_s, self._give_up
            )

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._reads_head:
            self._refuse(problems.TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, kind: ProblemType) -> None:
        self.transport.write(self.open_connections.refusal(kind))
        self.transport.close()


def protocol(open_connections: Connections) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, within the limits of ``open_connections``."""
    return type("Protocol", (_Protocol,), {"open_connections": open_connections})
