"""Many calls at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from coordinator.domain.errors import DomainError

T = TypeVar("T")
THREADS = 16


def at_once(calls: list[Callable[[], T]]) -> list[T | DomainError]:
    """Run every call in a thread of its own, all let go at the same moment."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | DomainError:
        gate.wait(30)
        try:
            return call()
        except DomainError as refusal:
            return refusal

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
