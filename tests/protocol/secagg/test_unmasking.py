"""Where a coordinator gets no sum, it says why, and learns nothing else."""

import numpy as np
import pytest

from coordinator.protocol.secagg import unmasking
from coordinator.protocol.secagg.messages import Reveal
from coordinator.protocol.secagg.refusals import (
    AbortReason,
    CohortAborted,
    WrongVector,
)
from tests.support import secagg


def revealed(lost: int = 3) -> secagg.Gathering:
    gathering = secagg.gather(8, dropout=0.2)
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody - {lost})
    gathering.reveal(gathering.everybody)
    return gathering


def falsified(reveal: Reveal, peer: int, share: bytes) -> Reveal:
    shares = tuple(
        each.model_copy(update={"share": share}) if each.peer == peer else each
        for each in reveal.shares
    )
    return reveal.model_copy(update={"shares": shares})


def insist_aborted(gathering: secagg.Gathering, reason: AbortReason) -> None:
    with pytest.raises(CohortAborted) as caught:
        gathering.unmask()
    assert caught.value.reason is reason
    assert str(caught.value) == f"{reason}: {caught.value.detail}"


def test_a_lie_about_a_vanished_devices_key_is_found() -> None:
    gathering = revealed(lost=3)
    gathering.unmask()
    gathering.reveals[0] = falsified(gathering.reveals[0], 3, b"\0" + b"\1" * 32)
    insist_aborted(gathering, AbortReason.WRONG_SHARES)


def test_a_lie_about_a_survivors_mask_spoils_the_sum_visibly() -> None:
    gathering = revealed()
    gathering.reveals[0] = falsified(gathering.reveals[0], 5, b"\0" + b"\1" * 32)
    with pytest.raises(CohortAborted) as caught:
        gathering.unmask()
    assert caught.value.reason in {AbortReason.WRONG_SHARES, AbortReason.WRONG_SUM}


def test_a_share_that_is_none_is_found() -> None:
    gathering = revealed()
    gathering.reveals[0] = falsified(gathering.reveals[0], 5, b"\xff" * 33)
    insist_aborted(gathering, AbortReason.WRONG_SHARES)


def test_too_few_reveals_unmask_nothing() -> None:
    gathering = revealed()
    threshold = gathering.cohort.manifest.threshold
    for index in sorted(gathering.reveals)[threshold - 1 :]:
        del gathering.reveals[index]
    insist_aborted(gathering, AbortReason.TOO_FEW_REVEALED)


def test_a_vector_that_was_not_masked_for_this_cohort_spoils_the_sum_visibly() -> None:
    gathering = revealed()
    body = np.frombuffer(gathering.bodies[0], "<u4") + np.uint32(1 << 20)
    gathering.bodies[0] = body.tobytes()
    insist_aborted(gathering, AbortReason.WRONG_SUM)


def test_a_vector_left_out_of_the_sum_spoils_it_visibly() -> None:
    gathering = revealed()
    total = unmasking.empty_sum(gathering.cohort.manifest.encoding)
    for index in gathering.survivors - {0}:
        unmasking.add_vector(
            total, gathering.bodies[index], gathering.cohort.manifest.encoding
        )
    with pytest.raises(CohortAborted) as caught:
        unmasking.unmask(
            gathering.cohort,
            gathering.sharers,
            gathering.survivors,
            gathering.reveals,
            total,
        )
    assert caught.value.reason is AbortReason.WRONG_SUM


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_a_vector_of_another_length_is_refused_and_adds_nothing(change: int) -> None:
    written = secagg.encoding()
    total = unmasking.empty_sum(written)
    body = b"\1" * (written.size_bytes + change)
    with pytest.raises(WrongVector, match=f"has 68 bytes, got {68 + change}"):
        unmasking.add_vector(total, body, written)
    assert not total.any()
