"""Updates as whole numbers: bounded, right on average, and never wrapping."""

import math

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol import discrete_gaussian
from coordinator.protocol.encodings import Report
from coordinator.protocol.keystream import Keystream
from coordinator.protocol.secagg import summands
from coordinator.protocol.secagg.refusals import WrongVector
from tests.support.secagg import REPORT, encoding

KEY = bytes(range(32))


def encode(
    delta: list[float] | np.ndarray,
    report: Report = REPORT,
    key: bytes = KEY,
    **changes: object,
) -> np.ndarray:
    vector = np.asarray(delta, np.float32)
    written = encoding(vector.size, **changes)
    return summands.encode(vector, report, written, key=key).view(np.int32)


def test_whole_multiples_are_exact_and_figures_follow() -> None:
    report = Report(examples=25, train_loss=16.0, train_accuracy=0.5)
    written = encode([1.0, -0.5, 0.0, 2.0**-18], report, bits=20)
    one = 1 << 20  # what clip_norm, 2.0, becomes; a weight of a quarter scales it
    quarter = one // 4
    assert written.tolist() == [
        quarter // 2,
        -quarter // 4,
        0,
        written[3],
        1,
        quarter,
        quarter // 4,
        quarter // 2,
        0,
    ]
    assert written[3] in (0, 1)  # half a step


def test_uniform_weights_are_one_whatever_the_examples() -> None:
    for examples in (1, 7, 100_000):
        report = Report(examples=examples, train_loss=0.0, train_accuracy=1.0)
        written = encode([1.0, -1.0], report, bits=16, weighting="uniform")
        assert written.tolist() == [1 << 15, -(1 << 15), 1, 1 << 16, 0, 1 << 16, 0]


@pytest.mark.parametrize(
    ("examples", "weight"),
    [(1, 0.01), (99, 0.99), (100, 1.0), (101, 1.0), (10**6, 1.0)],
)
def test_a_weight_is_bounded(examples: int, weight: float) -> None:
    report = Report(examples=examples, train_loss=0.0, train_accuracy=0.0)
    assert encode([0.0], report)[2] == round(weight * (1 << 20))


def test_a_weight_is_never_nothing() -> None:
    report = Report(examples=1, train_loss=0.0, train_accuracy=0.0)
    assert encode([0.0], report, max_examples=1 << 28)[2] == 1


def test_a_long_update_is_scaled_down_to_the_clip_norm_and_says_so() -> None:
    delta = np.array([3.0, 4.0], np.float32)  # 5 long, may be 2
    report = Report(examples=100, train_loss=0.0, train_accuracy=0.0)
    written = encode(delta, report)
    one = 1 << 20
    assert abs(written[0] - 0.6 * one) <= 1
    assert abs(written[1] - 0.8 * one) <= 1
    assert written[-1] == 1
    assert encode([1.19, 1.59], report)[-1] == 0


def test_rounding_is_right_on_average() -> None:
    """20,000 roundings of 0.3 steps; 5 standard errors."""
    size = 20_000
    delta = np.full(size, 0.3 * 2.0 / (1 << 20), np.float32)
    report = Report(examples=100, train_loss=0.0, train_accuracy=0.0)
    written = encode(delta, report)[:size]
    assert {*written.tolist()} == {0, 1}
    assert abs(written.mean() - 0.3) < 5 * math.sqrt(0.21 / size)
    assert abs(encode(-delta, report)[:size].mean() + 0.3) < 5 * math.sqrt(0.21 / size)


def test_a_rounding_key_decides_the_rounding() -> None:
    delta = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    once, again = encode(delta), encode(delta)
    other = encode(delta, key=bytes(32))
    assert np.array_equal(once, again)
    assert 0.2 < np.mean(once != other) < 0.8
    assert np.abs(once - other).max() <= 1


@given(
    values=st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=9),
    key=st.binary(min_size=32, max_size=32),
    examples=st.integers(1, 200),
)
def test_no_element_passes_the_bound(
    values: list[float], key: bytes, examples: int
) -> None:
    report = Report(examples=examples, train_loss=1e9, train_accuracy=1.0)
    written = encode(values, report, key, bits=16)
    weight = written[len(values) + 1]
    assert np.abs(written[: len(values)]).max() <= weight <= 1 << 16
    assert written[len(values) + 2] == written[len(values) + 3] == weight


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_is_made_of_what_is_not_finite(value: float) -> None:
    with pytest.raises(WrongVector, match="NaN or infinity"):
        encode([0.0, value])
    with pytest.raises(WrongVector, match="NaN or infinity"):
        encode([0.0], Report(examples=1, train_loss=value, train_accuracy=0.0))
    with pytest.raises(WrongVector, match="NaN or infinity"):
        encode([0.0], Report(examples=1, train_loss=0.0, train_accuracy=value))


@pytest.mark.parametrize(
    "delta",
    [np.zeros(3, np.float32), np.zeros(4, np.float64), np.zeros((2, 2), np.float32)],
    ids=["short", "double", "matrix"],
)
def test_an_update_of_another_form_is_refused(delta: np.ndarray) -> None:
    with pytest.raises(WrongVector, match="float32 of shape"):
        summands.encode(delta, REPORT, encoding(4), key=KEY)


def test_the_sum_of_the_most_devices_at_the_bound_does_not_wrap() -> None:
    for count, bits in ((100, 24), (127, 24), (1000, 21), (31, 26)):
        written = encoding(2, bits=bits, max_devices=count)
        report = Report(examples=100, train_loss=1e9, train_accuracy=1.0)
        vector = summands.encode(
            np.array([-9, 0], np.float32), report, written, key=KEY
        )
        total = np.zeros(written.length, np.uint32)
        for _ in range(count):
            total += vector
        added = summands.decode(total, written, devices=count)
        assert added is not None
        assert added.update.tolist() == [-count << bits, 0]
        assert added.mean().tolist() == [-2.0, 0.0]
        assert (added.devices, added.clipped, added.weight) == (count, count, count)
        assert (added.train_loss, added.train_accuracy) == (64.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 24, "max_devices": 128},
        {"bits": 24, "max_devices": 100, "noise_stddev": 6e6},
        {"bits": 15},
        {"bits": 27, "max_devices": 5},
        {"max_devices": 10**400},
        {"clip_norm": 0.0},
        {"clip_norm": math.inf},
        {"noise_stddev": -1.0},
        {"max_examples": 0},
        {"size": 0},
    ],
)
def test_an_encoding_whose_sum_may_wrap_or_mean_nothing_is_refused(
    changes: dict[str, object],
) -> None:
    with pytest.raises(pydantic.ValidationError):
        encoding(**changes)


@pytest.mark.parametrize(
    ("devices", "noise", "bits"),
    [
        (5, 0, 26),
        (100, 0, 24),
        (127, 0, 24),
        (128, 0, 23),
        (200, 0, 23),
        (100, 6e6, 23),
    ],
)
def test_the_most_bits_fit_and_one_more_does_not(
    devices: int, noise: float, bits: int
) -> None:
    assert summands.most_bits(devices, noise_of=lambda _: noise) == bits
    fields = {"max_devices": devices, "noise_stddev": noise}
    encoding(bits=bits, **fields)
    with pytest.raises(pydantic.ValidationError):
        encoding(bits=bits + 1, **fields)


@pytest.mark.parametrize(("devices", "noise"), [(40_000, 0), (5, 2.0**29)])
def test_too_few_bits_are_refused(devices: int, noise: float) -> None:
    with pytest.raises(ValueError, match="with 16 for each"):
        summands.most_bits(devices, noise_of=lambda _: noise)


def test_bits_leave_room_for_noise_that_grows_with_them() -> None:
    bits = summands.most_bits(100, noise_of=lambda bits: 1.0 * (1 << bits))
    assert bits == 23  # 100 * 2**24 would fit; 80 * 2**24 more does not


def noise_in(stddev: float, size: int = 20_000) -> np.ndarray:
    """What noise is in the sum of 16 devices, each with a key of its own."""
    written = encoding(size, bits=20, noise_stddev=stddev, max_devices=16)
    total = np.zeros(written.length, np.uint32)
    for device in range(16):
        total += summands.encode(
            np.zeros(size, np.float32), REPORT, written, key=bytes([device]) * 32
        )
    added = summands.decode(total, written, devices=16)
    assert added is not None
    return added.update


def test_each_device_adds_its_own_noise() -> None:
    noise = noise_in(1000.0)
    # four deviations of the estimates
    assert abs(noise.mean()) < 4 * 4000 / math.sqrt(noise.size)
    assert abs(noise.std() / 4000 - 1) < 4 / math.sqrt(2 * noise.size)
    assert not noise_in(0.0).any()


def test_who_adds_noise_tells_no_metrics_and_is_not_seen_to_be_clipped() -> None:
    report = Report(examples=7, train_loss=3.0, train_accuracy=0.9)
    for delta in ([9.0, 0.0], [0.0, 0.0]):
        written = encode(delta, report, weighting="uniform", bits=20, noise_stddev=1e3)
        assert written[2:].tolist() == [1, 1 << 20, 0, 0, 0]


def test_noise_is_not_made_of_what_decides_the_rounding() -> None:
    written = encode([0.0] * 100, noise_stddev=1e3)
    of_rounding = discrete_gaussian.sample(Keystream(KEY), stddev=1e3, size=100)
    assert written[:100].tolist() != of_rounding.tolist()


def test_the_same_key_gives_the_same_noise() -> None:
    first, again = (encode([1.0, 2.0], noise_stddev=1e3) for _ in range(2))
    other = encode([1.0, 2.0], noise_stddev=1e3, key=b"o" * 32)
    assert first.tolist() == again.tolist() != other.tolist()


def test_a_weighted_mean_comes_out() -> None:
    rng = np.random.default_rng(3)
    written = encoding(300, bits=22)
    deltas = rng.normal(0, 0.05, (9, 300)).astype(np.float32)
    reports = [
        Report(
            examples=int(rng.integers(1, 100)),
            train_loss=float(rng.uniform(0, 3)),
            train_accuracy=float(rng.uniform()),
        )
        for _ in deltas
    ]
    total = np.zeros(written.length, np.uint32)
    for delta, report in zip(deltas, reports, strict=True):
        total += summands.encode(delta, report, written, key=rng.bytes(32))
    added = summands.decode(total, written, devices=9)
    assert added is not None
    weights = np.array([report.examples for report in reports])
    expected = (weights[:, None] * deltas.astype(np.float64)).sum(0) / weights.sum()
    assert np.abs(added.mean() - expected).max() < 3e-6
    losses = np.array([report.train_loss for report in reports])
    accuracies = np.array([report.train_accuracy for report in reports])
    assert abs(added.weight - weights.sum() / 100) < 1e-5
    assert abs(added.train_loss - weights @ losses / weights.sum()) < 1e-3
    assert abs(added.train_accuracy - weights @ accuracies / weights.sum()) < 1e-4


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((0, count) for count in (0, 4, 6)),
        *((1, weight) for weight in (4, 5 * 2**20 + 1)),
        *((figure, value) for figure in (2, 3) for value in (-1, 2**26)),
        *((4, clipped) for clipped in (-1, 6)),
    ],
)
def test_what_is_no_sum_of_so_many_is_none(place: int, value: int) -> None:
    written = encoding(3)
    total = np.zeros(8, np.uint32)
    for _ in range(5):
        total += summands.encode(np.zeros(3, np.float32), REPORT, written, key=KEY)
    assert summands.decode(total, written, devices=5) is not None
    total.view(np.int32)[3 + place] = value
    assert summands.decode(total, written, devices=5) is None
