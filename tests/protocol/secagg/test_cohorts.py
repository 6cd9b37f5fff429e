"""Whole cohorts: exact sums whoever vanishes and when, or a clean end."""

import itertools
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.protocol.secagg import stages
from coordinator.protocol.secagg.refusals import AbortReason, CohortAborted
from tests.support import secagg

STAGES = ["dealing", "masking", "revealing"]
DROPOUT = 0.3
GRID = {
    5: range(6),
    20: [0, 1, 2, 5, 6, 8, 10, 15, 20],
    50: [1, 5, 10, 15, 20, 49],
    100: [10, 30, 40],
}
TOO_FEW = {
    "dealing": AbortReason.TOO_FEW_SHARED,
    "masking": AbortReason.TOO_FEW_SURVIVED,
    "revealing": AbortReason.TOO_FEW_REVEALED,
}


def run(gathering: secagg.Gathering, lost: dict[str, set[int]]) -> AbortReason | None:
    """Run a cohort whose devices vanish before the named steps, and check its sum."""
    try:
        run_to_the_end(gathering, lost)
    except CohortAborted as aborted:
        return aborted.reason
    return None


def run_to_the_end(gathering: secagg.Gathering, lost: dict[str, set[int]]) -> None:
    there = gathering.everybody - lost.get("dealing", set())
    gathering.deal(there)
    there -= lost.get("masking", set())
    gathering.mask(there)
    there -= lost.get("revealing", set())
    gathering.reveal(there)
    added = gathering.unmask()
    expected = gathering.expected().view(np.int32)
    assert added.devices == len(gathering.survivors)
    assert np.array_equal(added.update, expected[: added.update.size])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("devices", "count"),
    [(devices, count) for devices, counts in GRID.items() for count in counts],
)
def test_a_sum_is_exact_or_the_cohort_ends_cleanly(
    devices: int, stage: str, count: int
) -> None:
    gathering = secagg.gather(devices, dropout=DROPOUT, collusion=0.05, minimum=5)
    lost = {*secrets.SystemRandom().sample(range(devices), count)}
    manifest = gathering.cohort.manifest
    reason = run(gathering, {stage: lost})
    left = devices - count
    if reason is None:
        vanished = count if stage != "revealing" else 0
        assert len(gathering.survivors) >= devices - vanished
        return
    assert reason is TOO_FEW[stage]
    # What was promised to be borne is borne; what is not has its reason.
    assert count > DROPOUT * devices or left < manifest.minimum
    assert left < manifest.minimum or any(
        len({*around} - lost) < manifest.threshold
        for around in gathering.cohort.neighbours
    )


def test_devices_vanish_at_every_step_of_one_cohort() -> None:
    gathering = secagg.gather(50, dropout=0.3, signed=True)
    run_to_the_end(
        gathering, {"dealing": {1, 2}, "masking": {3, 4, 5}, "revealing": {6, 7}}
    )
    assert gathering.survivors == gathering.everybody - {1, 2, 3, 4, 5}
    assert {*gathering.reveals} == gathering.survivors - {6, 7}


@settings(max_examples=20)
@given(data=st.data(), devices=st.integers(5, 35))
def test_any_history_gives_the_sum_or_a_reason(
    data: st.DataObject, devices: int
) -> None:
    gathering = secagg.gather(devices, dropout=0.2, collusion=0.05)
    fate = data.draw(
        st.lists(
            st.sampled_from(["stays", "stays", "stays", *STAGES]),
            min_size=devices,
            max_size=devices,
        )
    )
    lost = {
        stage: {index for index, end in enumerate(fate) if end == stage}
        for stage in STAGES
    }
    reason = run(gathering, lost)
    assert reason is None or any(
        lost[stage] for stage in STAGES if TOO_FEW[stage] is reason
    )


def test_threads_give_the_same_sum() -> None:
    gathering = secagg.gather(20, written=secagg.encoding(70_000))
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody - {3})
    gathering.reveal(gathering.everybody)
    one, three = gathering.unmask(), gathering.unmask(threads=3)
    assert np.array_equal(one.update, three.update)
    assert np.array_equal(
        one.update, gathering.expected().view(np.int32)[: one.update.size]
    )


def test_a_device_whose_neighbours_are_too_few_is_left_out_and_the_rest_go_on() -> None:
    gathering = secagg.gather(100, dropout=0.1)
    lonely = 17
    around = gathering.cohort.neighbours[lonely]
    # The nearest two on the ring and the nine farthest: others on it keep enough.
    by_distance = sorted(
        around, key=lambda other: len({*around} & {*gathering.cohort.neighbours[other]})
    )
    silent = {*by_distance[:9], *by_distance[-2:]}
    assert len(around) - len(silent) == gathering.cohort.manifest.threshold - 1
    run_to_the_end(gathering, {"dealing": silent})
    assert gathering.sharers == gathering.everybody - silent - {lonely}


def test_nobody_waits_for_more_shares_than_are_needed() -> None:
    gathering = secagg.gather(20, dropout=0.3)
    threshold = gathering.cohort.manifest.threshold
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody - {4})
    came = sorted(gathering.survivors)
    waited = [
        stages.waiting_for(
            gathering.cohort, gathering.sharers, gathering.survivors, came[:count]
        )
        for count in range(len(came) + 1)
    ]
    assert waited[threshold - 1]
    assert not waited[threshold + 1]
    for earlier, later in itertools.pairwise(waited):
        assert earlier >= later
    gathering.reveal(came[: threshold + 1])
    gathering.unmask()


def test_a_vanished_device_without_a_neighbour_in_the_sum_is_not_waited_for() -> None:
    gathering = secagg.gather(100, dropout=0.1)
    alone = 5
    survivors = gathering.everybody - {alone, *gathering.cohort.neighbours[alone]}
    waited = stages.waiting_for(
        gathering.cohort, gathering.everybody, survivors, survivors
    )
    assert alone not in waited
    assert waited


def test_masked_bytes_look_like_chance() -> None:
    """Chi-square over byte values: 255 degrees of freedom, 6 standard deviations."""
    size = 200_000
    gathering = secagg.gather(5, dropout=0.2, written=secagg.encoding(size))
    for vector in gathering.vectors.values():
        vector[:] = 0  # the plainest
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody)
    for body in gathering.bodies.values():
        counts = np.bincount(np.frombuffer(body, np.uint8), minlength=256)
        even = len(body) / 256
        chi_square = float(((counts - even) ** 2 / even).sum())
        assert abs(chi_square - 255) < 6 * (2 * 255) ** 0.5
    plain = gathering.expected().tobytes()
    counts = np.bincount(np.frombuffer(plain, np.uint8), minlength=256)
    assert counts[0] == len(plain)  # and the test would have seen it


def test_no_vector_is_in_a_body_or_in_a_difference_of_two() -> None:
    gathering = secagg.gather(5, dropout=0.2, written=secagg.encoding(1000))
    gathering.deal(gathering.everybody)
    gathering.mask(gathering.everybody)
    words = {
        index: np.frombuffer(body, "<u4") for index, body in gathering.bodies.items()
    }
    for one, other in itertools.permutations(words, 2):
        left = words[one] - words[other]
        plain = gathering.vectors[one] - gathering.vectors[other]
        assert np.mean(left == plain) < 0.01
    sums = sum(words.values(), np.zeros(1005, np.uint32))
    assert np.mean(sums == gathering.expected()) < 0.01  # own masks are still in it
