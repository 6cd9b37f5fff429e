"""Metrics for Prometheus: what this process answers, and what all have done.

Requests, check-ins and their pace, uploads and refusals are this process's own: add
them up over the API processes. Events, rounds, places and workers are read from the
database and are the same in each: take one. No label holds an id, so none grows with
the fleet.
"""

import logging
import threading
import time
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator import logs
from coordinator.clock import Clock
from coordinator.domain.events import Happening
from coordinator.protocol import problems
from coordinator.store.blobs import BlobStore
from coordinator.store.files import StorageUnavailable
from coordinator.usecases.observation import News, Observer

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = prometheus_client.CONTENT_TYPE_LATEST
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_ELSEWHERE: Final = "elsewhere"  # paths and methods that are none of ours
_REQUEST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PHASE_S: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)


class Metrics:
    """Counts what this process does, and reads the rest when it is asked."""

    def __init__(self, observer: Observer) -> None:
        """Count from nothing. ``observer`` is nobody else's."""
        self._observer = observer
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._requests = self._histogram(
            "http_request_seconds",
            "Requests by path, from the first byte to the last; check-ins may wait.",
            ["method", "path", "status"],
            _REQUEST_S,
        )
        self._refusals = self._counter(
            "refusals", "Requests that were refused, by problem type.", ["type"]
        )
        self._check_ins = self._counter(
            "check_ins", "Check-ins by answer: assigned, or why to wait.", ["answer"]
        )
        self._check_ins_per_s = self._gauge(
            "check_ins_per_second", "Check-ins, in the mean of some minutes."
        )
        self._target_per_s = self._gauge(
            "check_ins_per_second_target", "Check-ins that are aimed at."
        )
        self._expected = self._gauge(
            "devices_expected", "Devices without work that were told when to come back."
        )
        self._uploads = self._counter(
            "uploads", "Bodies of updates that came in whole, accepted or not."
        )
        self._upload_bytes = self._counter("upload_bytes", "Their bytes, as sent.")
        self._waiting = self._gauge(
            "requests_waiting", "Check-ins and event streams that wait for news."
        )
        self._calls = self._gauge(
            "calls_waiting", "Calls that run in a thread or wait for one."
        )
        self._receiving = self._gauge(
            "uploads_receiving", "Bodies of updates that are coming in."
        )
        self._events = self._counter(
            "events", "Events in the history, since this process started.", ["type"]
        )
        self._phases = self._histogram(
            "round_phase_seconds",
            "How long phases of rounds took.",
            ["kind", "phase"],
            _PHASE_S,
        )
        self._rounds = self._gauge("rounds_open", "Open rounds.", ["kind", "phase"])
        self._unclaimed = self._gauge(
            "rounds_unclaimed", "Rounds that wait for a worker to fold them."
        )
        self._places = self._gauge(
            "places_leased", "Devices that train or evaluate now."
        )
        self._undeleted = self._gauge(
            "rounds_undeleted", "Ended rounds whose updates are not deleted yet."
        )
        self._workers = self._gauge("workers", "Workers seen in the last 30 seconds.")
        self._silent = self._gauge(
            "worker_silent_seconds", "Since any worker was seen; NaN: none ever was."
        )
        self._free = self._gauge(
            "blob_free_bytes", "Free on the disk of the blobs; NaN: it cannot be told."
        )
        # What has not happened yet is 0 and not unknown.
        for happening in Happening:
            self._events.labels(happening)
        for kind in problems.ALL:
            self._refusals.labels(kind.slug)

    def count_request(
        self, *, method: str, path: str, status: int, seconds: float
    ) -> None:
        """Count a request that was answered."""
        self._requests.labels(method, path, status).observe(seconds)

    def count_refusal(self, slug: str) -> None:
        """Count a request that was refused, by its problem type."""
        self._refusals.labels(slug).inc()

    def count_check_in(self, answer: str) -> None:
        """Count a check-in that was answered."""
        self._check_ins.labels(answer).inc()

    def count_upload(self, size_bytes: int) -> None:
        """Count an update's body that came in whole."""
        self._uploads.inc()
        self._upload_bytes.inc(size_bytes)

    def start(self) -> None:
        """Count events from here on."""
        with self._lock:
            self._observer.start()

    def show_pace(self, *, per_s: float, target_per_s: float, expected: int) -> None:
        """Take over how devices without work are steered."""
        self._check_ins_per_s.set(per_s)
        self._target_per_s.set(target_per_s)
        self._expected.set(expected)

    def render(
        self, clock: Clock, blobs: BlobStore, *, waiting: int, calls: int, uploads: int
    ) -> bytes:
        """Return everything in Prometheus' text format, the database's part fresh."""
        with self._lock:
            self._show(self._observer.look(now=clock.now()))
            self._waiting.set(waiting)
            self._calls.set(calls)
            self._receiving.set(uploads)
            self._free.set(_free_bytes(blobs))
            return prometheus_client.generate_latest(self._registry)

    def _show(self, news: News) -> None:
        for happening in news.happenings:
            self._events.labels(happening).inc()
        for ended in news.phases:
            self._phases.labels(ended.kind, ended.phase).observe(ended.seconds)
        present = news.present
        self._rounds.clear()
        for kind, phase in present.open_rounds:
            self._rounds.labels(kind, phase).inc()
        self._unclaimed.set(present.rounds_unclaimed)
        self._places.set(present.places_leased)
        self._undeleted.set(present.rounds_undeleted)
        self._workers.set(present.workers)
        silent_s = present.worker_silent_s
        self._silent.set(float("nan") if silent_s is None else silent_s)

    def _counter(
        self, name: str, said: str, labels: list[str] | None = None
    ) -> Counter:
        return Counter(f"shoal_{name}", said, labels or [], registry=self._registry)

    def _gauge(self, name: str, said: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"shoal_{name}", said, labels or [], registry=self._registry)

    def _histogram(
        self, name: str, said: str, labels: list[str], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(
            f"shoal_{name}", said, labels, buckets=buckets, registry=self._registry
        )


def _free_bytes(blobs: BlobStore) -> float:
    try:
        return blobs.free_bytes()
    except StorageUnavailable as error:
        log.warning("the free space is unknown: %s", error)
        return float("nan")


class Observed:
    """Opens a scope of the log for each request, and counts it when it is answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before ``app``."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ids = logs.begin()
        status = 0  # until it begins to answer

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, note_status)
        except Exception:
            status = 500  # the answer is given outside of here
            ids["problem"] = problems.INTERNAL.slug
            raise
        finally:
            self._count(scope, status, time.perf_counter() - began, ids)

    def _count(
        self, scope: Scope, status: int, seconds: float, ids: logs.Fields
    ) -> None:
        method = scope["method"] if scope["method"] in _METHODS else _ELSEWHERE
        path = getattr(scope.get("route"), "path", _ELSEWHERE)
        log.debug("%s %s: %d in %.3f s", method, scope["path"], status, seconds)
        self._metrics.count_request(
            method=method, path=path, status=status, seconds=seconds
        )
        if "problem" in ids:
            self._metrics.count_refusal(str(ids["problem"]))
