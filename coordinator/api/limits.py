"""The door: who may come in now, before and after it is known who that is.

A refusal at the door costs no thread and no look at the database. What has come in is
never refused later for want of room: only here are those counted that wait.
"""

import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.api import problems
from coordinator.api.bodies import Body, Places
from coordinator.api.problems import CoordinatorFull, TooManyRequests
from coordinator.domain.limits import Limits, Rates, origin
from coordinator.protocol import paths

_NEEDS_NO_THREAD: Final = frozenset({paths.HEALTH, paths.READY})
_DEVICE: Final = "admitted_device"


class Load:
    """What this process has taken on. For one event loop alone."""

    def __init__(
        self, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nothing."""
        self.limits = limits
        self.calls = 0  #: that run in a thread or wait for one
        self.places = Places(limits.uploads)
        self._monotonic = monotonic
        self._by_address = Rates(limits.address_requests_per_s)
        self._by_device = Rates(limits.device_requests_per_s)
        self._devices: dict[str, int] = {}  # requests of each that are under way

    def admit(self, host: str, path: str) -> None:
        """Let a request in, of whomever.

        Raises:
            TooManyRequests: More come from there than may.
            CoordinatorFull: More calls wait for a thread than may.
        """
        if not self._by_address.take(origin(host), self._monotonic()):
            most = self.limits.address_requests_per_s
            raise TooManyRequests(f"an address may make {most:g} requests a second")
        if self.calls >= self.limits.calls_waiting and path not in _NEEDS_NO_THREAD:
            raise CoordinatorFull(f"{self.calls} calls wait")

    def admit_device(self, request: Request, device_id: str) -> None:
        """Let a request in of a device that has proved who it is.

        Raises:
            TooManyRequests: It makes more than it may, or more at once.
        """
        under_way = self._devices.get(device_id, 0)
        if under_way >= self.limits.device_requests:
            raise TooManyRequests(f"a device may make {under_way} requests at once")
        if not self._by_device.take(device_id, self._monotonic()):
            most = self.limits.device_requests_per_s
            raise TooManyRequests(f"a device may make {most:g} requests a second")
        self._devices[device_id] = under_way + 1
        request.scope["state"][_DEVICE] = device_id

    def leave(self, state: MutableMapping[str, Any]) -> None:
        """Note that a request has ended."""
        device_id = state.pop(_DEVICE, None)
        if device_id is None:
            return
        self._devices[device_id] -= 1
        if not self._devices[device_id]:
            del self._devices[device_id]


class Limited:
    """Refuses at the door, and ends requests whose bodies are too long or too slow."""

    def __init__(self, app: ASGIApp, load: Load) -> None:
        """Stand before ``app``."""
        self._app = app
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        load = self._load
        client = scope.get("client")
        try:
            load.admit("" if client is None else client[0], scope["path"])
        except (TooManyRequests, CoordinatorFull) as refusal:
            await problems.answer(refusal)(scope, receive, send)
            return
        places = load.places if _is_upload(scope) else None
        body = Body(receive, load.limits, places)
        state = scope.setdefault("state", {})
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.end()
            load.leave(state)


def _is_upload(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith("/v1/assignments/") and "/update" in path
