"""All that a coordinator stores and logs, searched for what it must not know."""

import base64

import numpy as np

from coordinator.protocol.manifest import Vector
from coordinator.protocol.secagg.masks import Words
from coordinator.store.engine import Store
from tests.support.federation import dump
from tests.support.processes import Coordinator


def all_that_is_kept(coordinator: Coordinator, store: Store) -> bytes:
    """Every row, every file and the log, as bytes."""
    files = [p.read_bytes() for p in coordinator.data_dir.rglob("*") if p.is_file()]
    rows = repr(dump(store)).encode()
    return b"\0".join([rows, coordinator.log.encode(), *files])


def insist_absent(part: bytes, kept: bytes) -> None:
    """Search for bytes as they are, as text, and as Python shows them."""
    shown = repr(part)[2:-1].encode()
    for form in (part, base64.b64encode(part), part.hex().encode(), shown):
        assert form not in kept


def insist_update_absent(
    delta: Vector, vector: Words, kept: bytes, *more: bytes
) -> None:
    """Search for a device's update in all forms that it may have.

    Args:
        delta: The update.
        vector: It and its figures as whole numbers.
        kept: What is searched.
        more: Forms beside the plain, scaled and shifted ones.
    """
    shifted = (vector[: delta.size].view(np.int32).astype(np.int64) + (1 << 31)).astype(
        np.uint32
    )
    for form in (
        delta.tobytes(),
        delta.astype(np.float64).tobytes(),
        vector.tobytes(),
        shifted.tobytes(),
        *more,
    ):
        for start in range(0, 400, 40):
            insist_absent(form[start : start + 12], kept)
    assert repr(delta[:3].tolist())[1:-1].encode() not in kept
