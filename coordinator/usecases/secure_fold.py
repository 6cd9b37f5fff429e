"""The worker takes the masks out of a round's sums, and adds them up."""

import dataclasses
import datetime as dt
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from coordinator.domain.aggregation import AcceptedUpdate, Score, SumLost
from coordinator.protocol.secagg import unmasking
from coordinator.protocol.secagg.refusals import CohortAborted
from coordinator.protocol.secagg.summands import CohortSum, Encoding
from coordinator.store import secagg
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.store.secagg import StoredCohort
from coordinator.usecases import cohorts
from coordinator.usecases.rounds import Claim


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundSum:
    """What the devices of a round add up to, whatever their cohorts."""

    update: npt.NDArray[np.int64]  #: shape (size,), sum of weight times update, whole
    bits: int  #: ``clip_norm`` is 2**bits in ``update``
    clip_norm: float
    weight: float  #: sum of the weights, each at most 1
    devices: int
    clipped: int  #: devices whose update was longer than ``clip_norm``
    score: Score  #: weighted means of what devices said of themselves

    def mean(self) -> npt.NDArray[np.float64]:
        """Return the weighted mean of the updates, shape (size,)."""
        unit = self.clip_norm / (1 << self.bits)
        return self.update * np.float64(unit / self.weight)


def add_up(
    store: Store,
    blobs: BlobStore,
    claim: Claim,
    *,
    on_progress: Callable[[int], None],
    now: Callable[[], dt.datetime],
) -> RoundSum:
    """Unmask the sums of a claimed round's cohorts. The same bits each time.

    A cohort whose sum is none is left out, and noted.

    Raises:
        SumLost: The others are fewer devices than the round's minimum.
        BlobLost: A masked vector is gone or spoilt.
    """
    by_assignment = {update.assignment_id: update for update in claim.updates}
    sums: list[CohortSum] = []
    found = store.read(lambda tx: secagg.cohorts(tx, claim.round.id))
    for stored in found:
        try:
            sums.append(
                _unmask(store, blobs, stored, by_assignment, on_progress=on_progress)
            )
        except CohortAborted as error:
            _end(store, claim, stored, str(error), now=now())
    devices = sum(each.devices for each in sums)
    if devices < claim.round.policy.minimum:
        raise SumLost(
            f"the sums of {devices} devices could be unmasked, the minimum is "
            f"{claim.round.policy.minimum}"
        )
    return together(sums, found[0].cohort.manifest.encoding)  # the same for all


def _unmask(
    store: Store,
    blobs: BlobStore,
    stored: StoredCohort,
    by_assignment: dict[str, AcceptedUpdate],
    *,
    on_progress: Callable[[int], None],
) -> CohortSum:
    if stored.sharers is None or stored.survivors is None:
        raise AssertionError(f"cohort {stored.id} is folded before it was decided")
    cohort, encoding = stored.cohort, stored.cohort.manifest.encoding
    vectors = store.read(lambda tx: secagg.vectors(tx, stored.id))
    reveals = store.read(lambda tx: secagg.reveals(tx, stored.id))
    total = unmasking.empty_sum(encoding)
    for done, place in enumerate(sorted(stored.survivors)):
        update = by_assignment[vectors[place]]
        body = blobs.map_update(update.blob, sha256=update.sha256)
        unmasking.add_vector(total, body, encoding)
        on_progress(done)
    return unmasking.unmask(
        cohort,
        stored.sharers,
        stored.survivors,
        reveals,
        total,
        threads=os.cpu_count() or 1,
    )


def _end(
    store: Store, claim: Claim, stored: StoredCohort, why: str, *, now: dt.datetime
) -> None:
    store.run(
        "end_cohort", lambda tx: cohorts.end(tx, claim.round, stored, why, now=now)
    )


def together(sums: Sequence[CohortSum], encoding: Encoding) -> RoundSum:
    """Return what sums of one encoding add up to."""
    total = np.zeros(encoding.size, np.int64)
    for each in sums:
        total += each.update
    weight = sum(each.weight for each in sums)
    is_uniform = encoding.weighting == "uniform"
    devices = sum(each.devices for each in sums)
    return RoundSum(
        update=total,
        bits=encoding.bits,
        clip_norm=encoding.clip_norm,
        weight=weight,
        devices=devices,
        clipped=sum(each.clipped for each in sums),
        score=Score(
            examples=devices if is_uniform else round(weight * encoding.max_examples),
            loss=sum(each.weight * each.train_loss for each in sums) / weight,
            accuracy=sum(each.weight * each.train_accuracy for each in sums) / weight,
        ),
    )
