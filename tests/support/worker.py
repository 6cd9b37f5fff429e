"""A worker that computes in numpy."""

from coordinator.worker import Worker
from tests.support.federation import Federation


def worker(federation: Federation, name: str = "ann") -> Worker:
    """A worker of a federation, with its clock."""
    return Worker(
        federation.store,
        federation.blobs,
        federation.compute,
        federation.clock,
        name=name,
        interval_s=0.001,
    )
