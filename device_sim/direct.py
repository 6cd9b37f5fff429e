"""An httpx transport for a device of a large swarm: one kept-alive connection, no more.

httpx's own transport keeps a pool, a stack of cancel scopes and a look at the sockets
for every request: half of what a small device's two requests a round cost. This one
does for plain HTTP what a phone's client would: write, wait, parse. TLS, proxies and
large answers are left to httpx.

Source: RFC 9112, HTTP/1.1; h11 keeps the state of the connection.
"""

import asyncio
import typing
from typing import Final

import h11
import httpx

_PIECE_BYTES: Final = 1 << 20  # of a body, between two looks whether it flows off
_MOST_ANSWER_BYTES: Final = 1 << 20  # answers to a device are small JSON documents

Timeouts = dict[str, float | None]


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends one request after another over one connection to an ``http`` address."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._connection: _Connection | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` and return its whole answer.

        Raises:
            httpx.TransportError: There is no connection, or it broke or timed out.
        """
        timeouts: Timeouts = request.extensions.get("timeout", {})
        async with self._turn:
            connection = self._connection
            if connection is None or not connection.is_idle:
                connection = self._connection = await _connect(request.url, timeouts)
            try:
                return await connection.exchange(request, timeouts)
            except TimeoutError as error:
                raise httpx.ReadTimeout(f"no answer from {request.url}") from error
            except h11.LocalProtocolError as error:
                raise httpx.LocalProtocolError(str(error)) from error
            finally:
                if not connection.is_idle:  # broken, or given up half-way
                    connection.close()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


class _Connection(asyncio.Protocol):
    """One TCP connection, in step with h11."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._answer: asyncio.Future[httpx.Response] | None = None
        self._head: h11.Response | None = None
        self._body = bytearray()

    @property
    def is_idle(self) -> bool:
        """Whether a request can be sent."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._http.our_state is h11.IDLE
        )

    def close(self) -> None:
        """Close at once; what is not sent yet is lost."""
        if self._transport is not None:
            self._transport.abort()

    async def exchange(
        self, request: httpx.Request, timeouts: Timeouts
    ) -> httpx.Response:
        """Write ``request`` and return its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._body = None, bytearray()
        self._write(
            h11.Request(
                method=request.method,
                target=request.url.raw_path,
                headers=request.headers.raw,
            )
        )
        content = memoryview(request.content)
        for start in range(0, len(content), _PIECE_BYTES):
            piece = content[start : start + _PIECE_BYTES]
            self._write(h11.Data(data=typing.cast(bytes, piece)))  # or bytes-like
            if not self._flows.is_set():
                async with asyncio.timeout(timeouts.get("write")):
                    await self._flows.wait()
            if self._answer.done():  # an answer before the end: a refusal
                break
        else:
            self._write(h11.EndOfMessage())
        async with asyncio.timeout(timeouts.get("read")):
            response = await self._answer
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return response

    def _write(self, event: h11.Event) -> None:
        # h11 checks the event against Content-Length and hands bodies back uncopied.
        for part in self._http.send_with_data_passthrough(event) or ():
            if self._transport is not None:
                self._transport.write(part)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport; asyncio calls this, as it does all below."""
        # create_connection promises a stream; uvloop's does not inherit from it.
        self._transport = typing.cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_PIECE_BYTES)

    def pause_writing(self) -> None:
        """Stop the next piece of a body."""
        self._flows.clear()

    def resume_writing(self) -> None:
        """Let the next piece go."""
        self._flows.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parse(data)

    def eof_received(self) -> None:
        """Parse the end: an answer without a length ends here."""
        self._parse(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the answer that is waited for."""
        self._fail(httpx.ReadError(f"the connection was lost: {exc or 'closed'}"))
        self._flows.set()

    def _parse(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while self._take(self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))

    def _take(self, event: object) -> bool:
        """Take one event of the answer; return whether there may be another."""
        if isinstance(event, h11.Response):
            self._head = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > _MOST_ANSWER_BYTES:
                self._fail(httpx.ReadError(f"over {_MOST_ANSWER_BYTES} bytes came"))
                return False
        elif isinstance(event, h11.EndOfMessage):
            self._succeed()
            return False
        elif not isinstance(event, h11.InformationalResponse):
            return False  # NEED_DATA, PAUSED, ConnectionClosed
        return True

    def _succeed(self) -> None:
        if self._answer is None or self._answer.done() or self._head is None:
            return
        response = httpx.Response(
            self._head.status_code,
            headers=self._head.headers.raw_items(),
            content=bytes(self._body),
        )
        self._answer.set_result(response)

    def _fail(self, error: httpx.TransportError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def _connect(url: httpx.URL, timeouts: Timeouts) -> _Connection:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeouts.get("connect")):
            _, connection = await loop.create_connection(
                _Connection, url.host, url.port or 80
            )
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no connection to {url.netloc!r}") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    return connection
