"""The device's own HTTP/1.1 transport against a server that does as it is told."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from device_sim.direct import DirectTransport

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Runs ``script`` for every connection; notes what came in."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.script: Script = self.answer_all
        self.url = ""

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        try:
            await self.script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.requests.append((head, await reader.readexactly(length)))

    async def answer_all(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await self.read(reader)
            writer.write(OK)

    def answer_once(self, answer: bytes) -> Script:
        async def script(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await self.read(reader)
            writer.write(answer)
            await writer.drain()

        return script


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    ours = Server()
    listening = await asyncio.start_server(ours.serve, "127.0.0.1", 0, limit=1 << 24)
    ours.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield ours
    listening.close()
    await listening.wait_closed()


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=server.url, transport=DirectTransport(), timeout=5
    ) as client:
        yield client


async def test_requests_share_one_connection_and_arrive_whole(
    server: Server, http: httpx.AsyncClient
):
    large = bytes(range(256)) * 20_000  # 5 MB: several pieces, more than fits a socket
    for body in (b"", b"small", large):
        answer = await http.post("/path?query=1", content=body)
        assert (answer.status_code, answer.content) == (200, b"ok")
    assert server.connections == 1
    assert [body for _, body in server.requests] == [b"", b"small", large]
    assert server.requests[0][0].startswith(b"POST /path?query=1 HTTP/1.1\r\n")


async def test_requests_at_the_same_time_take_turns(
    server: Server, http: httpx.AsyncClient
):
    answers = await asyncio.gather(*(http.get(f"/{n}") for n in range(5)))
    assert [answer.content for answer in answers] == [b"ok"] * 5
    assert server.connections == 1


async def test_a_connection_that_the_server_closed_is_replaced(
    server: Server, http: httpx.AsyncClient
):
    server.script = server.answer_once(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    )
    assert (await http.get("/")).content == b"ok"
    assert (await http.get("/")).content == b"ok"
    assert server.connections == 2


async def test_a_chunked_and_compressed_answer_is_read(
    server: Server, http: httpx.AsyncClient
):
    coded = gzip.compress(b"abcde")
    server.script = server.answer_once(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Encoding: gzip\r\n\r\n"
        b"3\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (coded[:3], len(coded) - 3, coded[3:])
    )
    assert (await http.get("/")).content == b"abcde"


async def test_an_interim_answer_is_passed_over(
    server: Server, http: httpx.AsyncClient
):
    server.script = server.answer_once(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx.TransportError),
        (OK[:-1], httpx.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", httpx.RemoteProtocolError),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
            httpx.ReadError,
        ),
    ],
)
async def test_a_broken_answer_is_an_error_and_the_next_request_works(
    server: Server,
    http: httpx.AsyncClient,
    answer: bytes,
    error: type[httpx.TransportError],
):
    server.script = server.answer_once(answer)
    with pytest.raises(error):
        await http.get("/")
    server.script = server.answer_all
    assert (await http.get("/")).content == b"ok"


async def test_a_refusal_before_the_body_has_flowed_off_is_the_answer(
    server: Server, http: httpx.AsyncClient
):
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    answered = asyncio.Event()

    async def refuse_early(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        await writer.drain()
        await answered.wait()

    server.script = refuse_early
    answer = await http.post("/", content=bytes(40_000_000))
    answered.set()
    assert answer.status_code == 413
    server.script = server.answer_all
    assert (await http.get("/")).content == b"ok"
    assert server.connections == 2


async def test_no_answer_in_time_is_a_timeout(server: Server, http: httpx.AsyncClient):
    released = asyncio.Event()

    async def say_nothing(
        _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
    ) -> None:
        await released.wait()

    server.script = say_nothing
    with pytest.raises(httpx.ReadTimeout):
        await http.get("/", timeout=0.05)
    released.set()


async def test_a_cancelled_request_leaves_no_answer_for_the_next(
    server: Server, http: httpx.AsyncClient
):
    released, came = asyncio.Event(), asyncio.Event()

    async def answer_late(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.read(reader)
        came.set()
        await released.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    server.script = answer_late
    request = asyncio.create_task(http.get("/"))
    await came.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    server.script = server.answer_all
    released.set()
    assert (await http.get("/")).content == b"ok"


async def test_nobody_listening_is_a_connect_error(unused_tcp_port: int):
    async with httpx.AsyncClient(transport=DirectTransport()) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{unused_tcp_port}/")
