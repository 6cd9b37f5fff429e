"""Connections to a coordinator, one for each device."""

import contextlib
from collections.abc import Callable
from typing import Final, Self

import httpx
import numpy as np

from device_sim import client

_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)  # seconds; beyond a long poll's


class Connector:
    """Makes clients of one coordinator, each with a connection of its own.

    A device of its own would hold one too. It is also cheaper: the work that httpx's
    pool does for a request grows with the square of its connections.
    """

    def __init__(
        self,
        url: str,
        *,
        traffic: client.Traffic,
        trusts_environment: bool = True,
        policy: client.RetryPolicy | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            url: The coordinator's address.
            traffic: Counts for all clients together.
            trusts_environment: Whether proxies that the environment names are used.
            policy: When the clients repeat a call.
        """
        self._url = url
        self._traffic = traffic
        self._trusts_environment = trusts_environment
        self._policy = policy
        self._jitter = np.random.default_rng()
        # One for all: reading the machine's certificates takes 10 ms.
        self._tls = httpx.create_ssl_context(trust_env=trusts_environment)
        self._opened = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Return the connector itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._opened.aclose()

    async def client(
        self, cut: Callable[[int], int | None] = lambda _: None
    ) -> client.Client:
        """Return a new client, ``cut`` as for it; it is closed with the connector."""
        http = httpx.AsyncClient(
            base_url=self._url,
            timeout=_TIMEOUT,
            trust_env=self._trusts_environment,
            verify=self._tls,
        )
        return client.Client(
            await self._opened.enter_async_context(http),
            jitter=self._jitter,
            traffic=self._traffic,
            policy=self._policy,
            cut=cut,
        )
