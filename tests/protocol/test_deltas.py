"""Smaller encodings: what comes back, how far off it is, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coordinator.protocol import deltas, encodings, tensors
from coordinator.protocol.encodings import Update
from coordinator.protocol.manifest import Vector
from tests.support import bodies
from tests.support.models import tiny_manifest

MANIFEST = tiny_manifest()
SIZE = MANIFEST.trainable_size
METADATA = {"examples": "7", "train_loss": "1.5", "train_accuracy": "0.25"}
VALUES = np.array([0.5, -0.25, 1, 2, -3, 0.125, 0, 10, -1, 1e-3], np.float32)
DELTAS = hnp.arrays(
    np.float32, SIZE, elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


def sent(
    delta: Vector,
    encoding: deltas.EncodingName,
    *,
    topk_share: float = 0.3,
    seed: int = 0,
) -> bytes:
    update = Update(delta=delta, examples=7, train_loss=1.5, train_accuracy=0.25)
    return encodings.encode_update(
        MANIFEST,
        update,
        encoding=encoding,
        topk_share=topk_share,
        rng=np.random.default_rng(seed),
    )


def received(body: bytes) -> Vector:
    return encodings.decode_update(MANIFEST, body, max_examples=100).delta


def by_hand(encoding: str, *arrays: tuple[str, str, list[int], bytes]) -> bytes:
    header: dict[str, object] = {"__metadata__": METADATA | {"encoding": encoding}}
    data = b""
    for name, dtype, shape, content in arrays:
        header[name] = bodies.entry(
            len(data), len(data) + len(content), shape=shape, dtype=dtype
        )
        data += content
    return bodies.container(header, data)


def sparse(places: list[int], values: list[float]) -> bytes:
    return by_hand(
        "topk",
        ("@indices", "I32", [len(places)], np.array(places, "<i4").tobytes()),
        ("@values", "F32", [len(values)], np.array(values, "<f4").tobytes()),
    )


def quantized(scales: list[float], whole: list[int]) -> bytes:
    ints = np.array(whole, "i1").tobytes()
    return by_hand(
        "q8",
        ("@scales", "F32", [len(scales)], np.array(scales, "<f4").tobytes()),
        ("dense/kernel", "I8", [2, 3], ints[:6]),
        ("dense/bias", "I8", [3], ints[6:9]),
        ("scale", "I8", [1], ints[9:]),
    )


@pytest.mark.parametrize("encoding", deltas.NAMES)
@given(delta=DELTAS)
def test_whatever_a_device_writes_is_taken(
    encoding: deltas.EncodingName, delta: Vector
) -> None:
    body = sent(delta, encoding)
    assert len(body) <= encodings.max_update_bytes(MANIFEST)
    assert received(body).shape == (SIZE,)
    assert received(body).dtype == np.float32
    assert np.isfinite(received(body)).all()


def test_half_precision_is_the_nearest_half() -> None:
    delta = np.array([1 / 3, 1e9, -1e9, 1e-9, *VALUES[4:]], np.float32)
    got = received(sent(delta, "f16"))
    assert got[0] == np.float32(np.float16(1 / 3))
    assert (got[1], got[2], got[3]) == (65504, -65504, 0)
    np.testing.assert_array_equal(got[4:9], delta[4:9])


def test_a_quantized_body_written_by_hand_is_understood() -> None:
    body = quantized([0.5, 2.0, 0.0], [1, -2, 3, 127, -127, 0, 5, -128, 7, 9])
    expected = [0.5, -1, 1.5, 63.5, -63.5, 0, 10, -256, 14, 0]
    np.testing.assert_array_equal(received(body), expected)


@given(delta=DELTAS, seed=st.integers(0, 100))
def test_a_quantized_element_is_off_by_less_than_its_tensors_step(
    delta: Vector, seed: int
) -> None:
    got = received(sent(delta, "q8", seed=seed)).astype(float)
    for part in (slice(0, 6), slice(6, 9), slice(9, 10)):
        largest = np.abs(delta[part]).max()
        error = np.abs(got[part] - delta[part]).max()
        # Below 1e-30 a tensor counts as zero; rounding to float32 is on top.
        assert error <= largest / 127 * 1.001 or largest < 1e-30


def test_rounding_is_right_on_the_mean() -> None:
    draws = np.stack([received(sent(VALUES, "q8", seed=s)) for s in range(4000)])
    step = 3 / 127  # of the first tensor, whose largest magnitude is 3
    off = draws.mean(axis=0)[:6] - VALUES[:6]
    # A fair draw between two neighbours deviates by at most half a step.
    assert np.abs(off).max() < 5 * (step / 2) / math.sqrt(4000) + step / 512
    assert draws[:, 1].std() > 0.1 * step  # it is drawn, and not cut off
    assert (draws[:, 4] == draws[0, 4]).all()  # the largest is exact


def test_the_same_generator_writes_the_same_bytes() -> None:
    assert sent(VALUES, "q8", seed=3) == sent(VALUES, "q8", seed=3)
    assert sent(VALUES, "q8", seed=3) != sent(VALUES, "q8", seed=4)


def test_rounding_at_random_needs_a_generator() -> None:
    update = Update(delta=VALUES, examples=1, train_loss=0.0, train_accuracy=0.0)
    with pytest.raises(ValueError, match="needs a generator"):
        encodings.encode_update(MANIFEST, update, encoding="q8")


def test_a_sparse_update_holds_the_largest_elements_in_their_places() -> None:
    body = sent(VALUES, "topk", topk_share=0.3)
    np.testing.assert_array_equal(received(body), [0, 0, 0, 2, -3, 0, 0, 10, 0, 0])
    container = tensors.read(body)
    assert [(e.name, e.dtype, e.shape) for e in container.entries] == [
        ("@indices", "I32", (3,)),
        ("@values", "F32", (3,)),
    ]


def test_a_sparse_update_holds_one_element_at_least() -> None:
    assert np.count_nonzero(received(sent(VALUES, "topk", topk_share=1e-9))) == 1


def test_a_sparse_body_written_by_hand_is_understood() -> None:
    got = received(sparse([0, 9], [1.5, -2.0]))
    np.testing.assert_array_equal(got, [1.5, 0, 0, 0, 0, 0, 0, 0, 0, -2.0])


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (sparse([1, 1], [1, 1]), deltas.WrongIndices),
        (sparse([2, 1], [1, 1]), deltas.WrongIndices),
        (sparse([-1, 1], [1, 1]), deltas.WrongIndices),
        (sparse([1, 10], [1, 1]), deltas.WrongIndices),
        (sparse([1, 2], [1, math.nan]), deltas.NotFinite),
        (sparse([1, 2], [1]), deltas.WrongShape),
        (sparse([], []), deltas.WrongShape),
        (sparse(list(range(11)), [0.0] * 11), deltas.WrongShape),
        (by_hand("topk"), deltas.WrongTensorNames),
        (by_hand("topk", ("@indices", "I32", [], bytes(4))), deltas.WrongTensorNames),
        (quantized([1.0, math.inf, 1.0], [0] * 10), deltas.NotFinite),
        (quantized([1.0, math.nan, 1.0], [0] * 10), deltas.NotFinite),
        (quantized([1.0, 3e37, 1.0], [0] * 10), deltas.NotFinite),
        (quantized([1.0, 1.0], [0] * 10), deltas.WrongShape),
        (by_hand("q8", ("scale", "I8", [1], b"a")), deltas.WrongTensorNames),
        (
            by_hand(
                "f16",
                ("dense/kernel", "F16", [2, 3], b"\x00\x7c" * 6),
                ("dense/bias", "F16", [3], bytes(6)),
                ("scale", "F16", [1], bytes(2)),
            ),
            deltas.NotFinite,
        ),
    ],
)
def test_a_wrong_body_is_refused(body: bytes, refusal: type[ValueError]) -> None:
    with pytest.raises(refusal):
        encodings.check_update(MANIFEST, body, max_examples=100)
    if refusal is not deltas.NotFinite:
        with pytest.raises(refusal):  # nor is it read if it changed on the disk
            encodings.read_delta(MANIFEST, body)


def test_only_the_encodings_of_the_task_are_taken() -> None:
    body = sent(VALUES, "f16")
    with pytest.raises(encodings.UnknownEncoding, match="one of f32, q8, got 'f16'"):
        encodings.check_update(
            MANIFEST, body, max_examples=100, encodings=("f32", "q8")
        )


@given(st.sampled_from(["f16", "q8", "topk"]), st.data())
def test_any_damage_is_read_or_refused(
    encoding: deltas.EncodingName, data: st.DataObject
) -> None:
    good = sent(VALUES, encoding)
    at = data.draw(st.integers(0, len(good) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=4))
    try:
        update = encodings.decode_update(
            MANIFEST, good[:at] + damage + good[at + len(damage) :], max_examples=100
        )
    except (tensors.MalformedTensors, deltas.InvalidUpdate):
        return
    assert update.delta.shape == (SIZE,)
    assert np.isfinite(update.delta).all()
