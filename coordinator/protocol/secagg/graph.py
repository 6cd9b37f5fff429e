"""Who is whose neighbour: a ring in an order that nobody chose.

The order follows from the digest of the cohort's whole list of keys, which is known
only when the last device has joined, and every device works it out again. So nobody
picks a device's neighbours.

NOTE: Whoever can change the list a little can try many orders before one is used: a
coordinator by which devices it admits, a device that works with it by its keys. Each
doubling of such tries takes one of the 40 bits that ``parameters`` counts with. The
complete graph of a small cohort leaves nothing to choose.

Source: Bell et al. 2020, definition 3.1 (Harary graphs).
"""

import functools
import hashlib
from typing import Final

_DOMAIN: Final = b"shoal/secagg/1/order"


@functools.lru_cache(maxsize=64)
def neighbours(
    roster_sha256: str, devices: int, degree: int
) -> tuple[tuple[int, ...], ...]:
    """Return each device's neighbours, by index, in rising order.

    Args:
        roster_sha256: Digest of all keys.
        devices: In the cohort.
        degree: Even, or ``devices - 1``.
    """
    if not 0 < degree < devices or (degree % 2 and degree != devices - 1):
        raise ValueError(f"no ring of {devices} devices has degree {degree}")
    ring = sorted(range(devices), key=functools.partial(_rank, roster_sha256))
    around: list[tuple[int, ...]] = [()] * devices
    if degree == devices - 1:
        for index in ring:
            around[index] = tuple(other for other in range(devices) if other != index)
        return tuple(around)
    half = degree // 2
    for place, index in enumerate(ring):
        steps = (*range(-half, 0), *range(1, half + 1))
        around[index] = tuple(sorted(ring[(place + step) % devices] for step in steps))
    return tuple(around)


def _rank(roster_sha256: str, index: int) -> bytes:
    seed = _DOMAIN + bytes.fromhex(roster_sha256)
    return hashlib.sha256(seed + index.to_bytes(4, "big")).digest()
