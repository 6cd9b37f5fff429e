"""Many devices that upload a byte a second: `python -m tests.support.slow_uploads`.

A process of its own, so that what it costs is not what is measured.
"""

import argparse
import asyncio
import collections
import json
import resource
import uuid

import httpx

from coordinator.protocol import digests, paths

_AT_ONCE = 16
_SAID_BYTES = 1_000_000


class SlowDevice:
    """A device with a place in the round, that sends its update byte by byte."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def take_a_place(self, client: httpx.AsyncClient) -> None:
        """Enrol and check in."""
        enrolment = (await client.post(paths.DEVICES, json={})).json()
        self._token = enrolment["token"]
        answer = await client.post(
            paths.CHECK_INS,
            headers={
                "Authorization": f"Bearer {self._token}",
                "Idempotency-Key": uuid.uuid4().hex,
            },
            json={"wait_s": 0},
        )
        self._path = answer.json()["assignment"]["report_to"]

    async def begin(self) -> None:
        """Connect, and send the head and the first byte."""
        self._reader, self._writer = await asyncio.open_connection(
            self._host, self._port
        )
        self._writer.write(
            f"POST {self._path} HTTP/1.1\r\nHost: coordinator\r\n"
            f"Authorization: Bearer {self._token}\r\n"
            f"Content-Length: {_SAID_BYTES}\r\n"
            f"Content-Digest: {digests.content_digest('0' * 64)}\r\n\r\nx".encode()
        )
        await self._writer.drain()

    async def trickle(self) -> int:
        """Send a byte a second until there is an answer. Returns its status."""
        status = asyncio.create_task(self._reader.readline())
        while not (await asyncio.wait({status}, timeout=1))[0]:
            self._writer.write(b"x")
        self._writer.close()
        return int((await status).split()[1])


async def attack(url: str, count: int) -> None:
    """Say ``ready`` when all upload, and in the end how many had which status."""
    parsed = httpx.URL(url)
    devices = [SlowDevice(parsed.host, parsed.port or 80) for _ in range(count)]
    few = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as client:  # noqa: S501 - loopback

        async def prepare(device: SlowDevice) -> None:
            async with few:
                await device.take_a_place(client)

        await asyncio.gather(*map(prepare, devices))
    await asyncio.gather(*(device.begin() for device in devices))
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    statuses = await asyncio.gather(*(device.trickle() for device in devices))
    print(json.dumps(collections.Counter(statuses)), flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * asked.count), hard))
    asyncio.run(attack(asked.url, asked.count))
