"""How much of a coordinator one caller, and all of them, may take."""

import collections
import dataclasses
import ipaddress
from typing import Final

_BURST_S: Final = 10  #: so many seconds' worth of requests may come at once
_MOST_KEYS: Final = 100_000  #: callers remembered, 20 MB at most


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one API process, as ``config`` explains them."""

    address_requests_per_s: float
    device_requests_per_s: float
    device_requests: int
    calls_waiting: int
    uploads: int
    connections: int
    address_connections: int | None  #: none: every caller comes through a proxy
    head_s: float
    body_idle_s: float
    body_bytes_per_s: float


class Rates:
    """Token buckets by key, in constant time and bounded memory.

    Source: the generic cell rate algorithm, ITU-T I.371, annex A.
    """

    def __init__(self, per_s: float) -> None:
        """Let each key have ``per_s`` requests a second, ten seconds' worth at once."""
        self._interval_s = 1 / per_s
        self._slack_s = max(0.0, _BURST_S - self._interval_s)
        #: When a key's bucket is full again; first who was here longest ago.
        self._full_at: collections.OrderedDict[str, float] = collections.OrderedDict()

    def take(self, key: str, now: float) -> bool:
        """Take one request of ``key`` at ``now``, in seconds. Returns whether it may.

        Who is forgotten for want of room begins anew: whoever can call under so many
        keys needs no second try of any.
        """
        full_at = max(self._full_at.get(key, now), now)
        if full_at - now > self._slack_s:
            return False
        self._full_at[key] = full_at + self._interval_s
        self._full_at.move_to_end(key)
        if len(self._full_at) > _MOST_KEYS:
            self._full_at.popitem(last=False)
        return True


def origin(host: str) -> str:
    """Return whom an address counts for: an IPv4 address, or an IPv6 network of 64.

    Source: RFC 6177, section 2: sites are given a /64 at the least.
    """
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.packed[:8].hex()
