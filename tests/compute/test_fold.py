import fractions
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.compute import fold
from coordinator.compute.backend import ComputeDevice, Tensor
from coordinator.compute.fold import WeightedDelta, fold_mean

pytestmark = pytest.mark.tf


def weighted(weight: float, values: Sequence[float]) -> WeightedDelta:
    return WeightedDelta(weight=weight, delta=np.array(values, np.float32))


def cohort(
    count: int, size: int, *, most: int = 600, seed: int = 0
) -> list[WeightedDelta]:
    generator = np.random.default_rng(seed)
    return [
        WeightedDelta(
            weight=float(generator.integers(1, most)),
            delta=generator.standard_normal(size, dtype=np.float32),
        )
        for _ in range(count)
    ]


def numpy_mean(updates: Sequence[WeightedDelta]) -> npt.NDArray[np.float64]:
    """Product and sum rounded one after the other, in the order given."""
    total = np.zeros(updates[0].delta.size)
    for update in updates:
        total = total + update.weight * update.delta.astype(np.float64)
    return total / math.fsum(update.weight for update in updates)


def fused_mean(updates: Sequence[WeightedDelta]) -> list[float]:
    """Product and sum rounded once together, as a fused instruction would."""
    totals = [0.0] * updates[0].delta.size
    for update in updates:
        weight = fractions.Fraction(update.weight)
        totals = [
            float(fractions.Fraction(total) + weight * fractions.Fraction(float(value)))
            for total, value in zip(totals, update.delta, strict=True)
        ]
    return [total / math.fsum(update.weight for update in updates) for total in totals]


def test_a_cohort_made_by_hand_has_the_mean_worked_out_by_hand(
    device: ComputeDevice,
) -> None:
    updates = [
        weighted(1.0, [1.0, 0.0, -8.0]),
        weighted(3.0, [2.0, 4.0, 0.0]),
        weighted(4.0, [0.5, -1.0, 2.0]),
    ]
    aggregate = fold_mean(updates, size=3, device=device)
    # Sums by element: 1 + 6 + 2 is 9, 0 + 12 - 4 is 8, -8 + 0 + 8 is 0; weights: 8.
    assert aggregate.mean.tolist() == [1.125, 1.0, 0.0]
    assert aggregate.mean.dtype == np.float64
    assert (aggregate.weight, aggregate.count) == (8.0, 3)


def test_sums_are_float64(device: ComputeDevice) -> None:
    # In float32, 2**24 + 1 is 2**24.
    updates = [weighted(1.0, [2.0**24]), weighted(1.0, [1.0]), weighted(2.0, [0.0])]
    aggregate = fold_mean(updates, size=1, device=device)
    assert aggregate.mean.tolist() == [(2.0**24 + 1) / 4]


def test_updates_are_summed_in_the_order_given(device: ComputeDevice) -> None:
    # 2**-30 is lost beside 2**30 (float64 has 53 bits), but not after it is gone.
    big, small = 2.0**30, 2.0**-30
    lost = [weighted(1.0, [x]) for x in (big, small, -big, 0.0)]
    kept = [weighted(1.0, [x]) for x in (big, -big, small, 0.0)]
    assert fold_mean(lost, size=1, device=device).mean.tolist() == [0.0]
    assert fold_mean(kept, size=1, device=device).mean.tolist() == [small / 4]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50])
def test_the_mean_is_numpys_to_the_last_bit(count: int, device: ComputeDevice) -> None:
    updates = cohort(count, 501)
    aggregate = fold_mean(updates, size=501, device=device)
    np.testing.assert_array_equal(aggregate.mean, numpy_mean(updates))
    assert aggregate.weight == sum(update.weight for update in updates)
    assert aggregate.count == count


def test_the_batch_size_changes_no_bit(
    device: ComputeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = cohort(23, 257)
    means = []
    for rows in (1, 2, 7, 23, 30):
        monkeypatch.setattr(fold, "batch_rows", lambda _size, rows=rows: rows)
        means.append(fold_mean(updates, size=257, device=device).mean)
    for mean in means[1:]:
        np.testing.assert_array_equal(mean, means[0])


def test_a_large_vector_split_over_threads_has_the_same_bits_every_time(
    device: ComputeDevice,
) -> None:
    updates = cohort(6, 400_000)
    first = fold_mean(updates, size=400_000, device=device).mean
    np.testing.assert_array_equal(first, numpy_mean(updates))
    again = fold_mean(iter(updates), size=400_000, device=device).mean
    np.testing.assert_array_equal(first, again)


def test_fused_or_not_is_the_same_for_whole_weights_below_two_to_the_29(
    device: ComputeDevice,
) -> None:
    updates = cohort(12, 40, most=1 << 29)
    updates.append(weighted(2.0**29 - 1, updates[0].delta.tolist()))
    mean = fold_mean(updates, size=40, device=device).mean
    assert mean.tolist() == numpy_mean(updates).tolist() == fused_mean(updates)
    wider = [weighted(update.weight + 0.3, update.delta.tolist()) for update in updates]
    assert numpy_mean(wider).tolist() != fused_mean(wider)  # the bound is needed


def test_a_cohort_is_read_one_update_at_a_time_and_progress_told_by_batch(
    device: ComputeDevice,
) -> None:
    size = 700_000  # 4 rows a batch
    rows = fold.batch_rows(size)
    delta = np.ones(size, np.float32)
    drawn = 0
    seen: list[tuple[int, int]] = []

    def updates() -> Iterator[WeightedDelta]:
        nonlocal drawn
        for _ in range(2 * rows + 1):
            drawn += 1
            yield WeightedDelta(weight=2.0, delta=delta)

    fold_mean(
        updates(),
        size=size,
        device=device,
        on_progress=lambda count: seen.append((count, drawn)),
    )
    assert seen == [(count, count) for count in (rows, 2 * rows, 2 * rows + 1)]


def test_a_buffer_that_its_owner_reuses_is_read_before_the_next_is_asked_for(
    device: ComputeDevice,
) -> None:
    buffer = np.zeros(2, np.float32)

    def updates() -> Iterator[WeightedDelta]:
        for value in (1.0, 2.0, 6.0):
            buffer[:] = value
            yield WeightedDelta(weight=1.0, delta=buffer)

    assert fold_mean(updates(), size=2, device=device).mean.tolist() == [3.0, 3.0]


def test_zeros_pad_the_last_batch_even_after_a_batch_that_filled_it(
    device: ComputeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "batch_rows", lambda _size: 2)
    # Were the second row left in place, 0 times infinity would be NaN.
    updates = [weighted(1.0, [1.0]), weighted(1.0, [np.inf]), weighted(1.0, [1.0])]
    assert fold_mean(updates, size=1, device=device).mean.tolist() == [np.inf]


def test_warming_up_compiles_the_program_a_round_uses(device: ComputeDevice) -> None:
    size = 3_217  # used by no other test
    fold.warm_up(size, device=device)
    step: Tensor = fold._compiled_step()  # a tf.function, which counts its programs
    programs = step.experimental_get_tracing_count()
    fold_mean(cohort(20, size), size=size, device=device)
    assert step.experimental_get_tracing_count() == programs
    fold_mean(cohort(1, size + 1), size=size + 1, device=device)
    assert step.experimental_get_tracing_count() == programs + 1


@pytest.mark.parametrize(
    ("size", "rows"), [(1, 16), (693_962, 4), (10_000_000, 4), (300_000, 10)]
)
def test_a_batch_holds_4_to_16_deltas(size: int, rows: int) -> None:
    assert fold.batch_rows(size) == rows


def test_an_empty_cohort_has_no_mean(device: ComputeDevice) -> None:
    with pytest.raises(ValueError, match="at least one update, got none"):
        fold_mean([], size=3, device=device)


def test_a_vector_has_at_least_one_element(device: ComputeDevice) -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        fold_mean([], size=0, device=device)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (weighted(1.0, [1.0]), r"shape \(2,\), got \(1,\)"),
        (weighted(0.0, [1.0, 1.0]), "above 0, got 0.0"),
        (weighted(-1.0, [1.0, 1.0]), "above 0, got -1.0"),
        (weighted(math.inf, [1.0, 1.0]), "finite and above 0, got inf"),
        (weighted(math.nan, [1.0, 1.0]), "finite and above 0, got nan"),
    ],
)
def test_an_update_that_fits_no_mean_is_refused(
    update: WeightedDelta, message: str, device: ComputeDevice
) -> None:
    with pytest.raises(ValueError, match=message):
        fold_mean([weighted(1.0, [1.0, 1.0]), update], size=2, device=device)


def test_a_float64_delta_is_refused(device: ComputeDevice) -> None:
    update = WeightedDelta(weight=1.0, delta=np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be float32, got float64"):
        fold_mean([update], size=2, device=device)
