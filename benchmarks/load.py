"""Requests as fast as a server answers them, from threads with a connection each.

The plain client of the standard library, because whatever the generator costs is taken
from the server beside it.
"""

import dataclasses
import http.client
import math
import queue
import statistics
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final, Self

_SUCCESS: Final = range(200, 300)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One POST."""

    path: str
    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a list of calls."""

    seconds: float  #: from the first to the last
    latencies: tuple[float, ...]  #: seconds, of each call
    bodies: tuple[bytes, ...]  #: of the answers, in the order of the calls

    @property
    def per_second(self) -> float:
        """Calls answered in a second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Return the latency in ms that ``share`` of the calls were answered within."""
        ordered = sorted(self.latencies)
        return 1e3 * ordered[math.ceil(share * len(ordered)) - 1]

    def __add__(self, other: Self) -> "Answered":
        """Return the two, one after the other."""
        return Answered(
            seconds=self.seconds + other.seconds,
            latencies=self.latencies + other.latencies,
            bodies=self.bodies + other.bodies,
        )

    def __str__(self) -> str:
        """Say how fast and how slow."""
        return (
            f"{self.per_second:6.1f}/s, median "
            f"{1e3 * statistics.median(self.latencies):.1f} ms, "
            f"p99 {self.percentile_ms(0.99):.1f} ms"
        )


class Failed(Exception):
    """A call was not answered with success."""


def drive(address: tuple[str, int], calls: Iterable[Call], *, threads: int) -> Answered:
    """Post every call, ``threads`` at a time.

    Raises:
        Failed: One was refused, or its connection broke.
    """
    waiting: queue.SimpleQueue[tuple[int, Call] | None] = queue.SimpleQueue()
    count = 0
    for numbered in enumerate(calls):
        waiting.put(numbered)
        count += 1
    for _ in range(threads):
        waiting.put(None)
    latencies = [math.nan] * count
    bodies = [b""] * count
    failures: list[str] = []

    def work() -> None:
        connection = http.client.HTTPConnection(*address, timeout=60)
        try:
            while (item := waiting.get()) is not None and not failures:
                index, call = item
                started = time.perf_counter()
                connection.request("POST", call.path, call.body, dict(call.headers))
                answer = connection.getresponse()
                content = answer.read()
                latencies[index] = time.perf_counter() - started
                if answer.status not in _SUCCESS:
                    failures.append(f"{call.path}: {answer.status} {content[:500]!r}")
                bodies[index] = content
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    if failures:
        raise Failed(failures[0])
    return Answered(seconds=seconds, latencies=tuple(latencies), bodies=tuple(bodies))
