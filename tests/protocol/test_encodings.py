import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coordinator.protocol import encodings, tensors
from coordinator.protocol.deltas import (
    InvalidUpdate,
    NotFinite,
    WrongDtype,
    WrongShape,
    WrongTensorNames,
)
from coordinator.protocol.encodings import UnknownEncoding, Update, WrongMetadata
from coordinator.protocol.manifest import Manifest, Vector
from tests.support import bodies
from tests.support.models import tiny_manifest, update_body

MANIFEST = tiny_manifest()
METADATA = {
    "encoding": "f32",
    "examples": "7",
    "train_loss": "1.5",
    "train_accuracy": "0.25",
}
VALUES = [0.5, -0.25, 1.0, 2.0, -3.0, 0.125, 0.0, 10.0, -0.0, 1e-30]
LAYOUT = (("dense/kernel", [2, 3]), ("dense/bias", [3]), ("scale", [1]))


def body_of(
    *,
    metadata: dict[str, str] | None = None,
    values: list[float] | None = None,
    layout: tuple[tuple[str, list[int]], ...] = LAYOUT,
) -> bytes:
    values = VALUES if values is None else values
    parts, start = [], 0
    for name, shape in layout:
        end = start + math.prod(shape)
        parts.append((name, shape, values[start:end]))
        start = end
    return bodies.update(parts, METADATA if metadata is None else metadata)


def decode(body: bytes, *, max_examples: int = 100) -> Update:
    return encodings.decode_update(MANIFEST, body, max_examples=max_examples)


def frozen_kernel() -> Manifest:
    kernel, *others = MANIFEST.tensors
    frozen = kernel.model_copy(update={"trainable": False})
    return MANIFEST.model_copy(update={"tensors": (frozen, *others)})


@given(
    hnp.arrays(np.float32, 10, elements=st.floats(width=32, allow_nan=False)).filter(
        lambda delta: bool(np.isfinite(delta).all())
    ),
    st.integers(1, encodings.MAX_EXAMPLES),
    st.floats(0, encodings.MAX_LOSS),
    st.floats(0, 1),
)
def test_an_update_arrives_as_it_was_sent(
    delta: Vector, examples: int, train_loss: float, train_accuracy: float
) -> None:
    update = Update(
        delta=delta,
        examples=examples,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
    )
    body = encodings.encode_update(MANIFEST, update)
    assert len(body) <= encodings.max_update_bytes(MANIFEST)
    received = decode(body, max_examples=encodings.MAX_EXAMPLES)
    assert received.delta.tobytes() == delta.tobytes()
    assert (received.examples, received.train_loss, received.train_accuracy) == (
        examples,
        train_loss,
        train_accuracy,
    )


def test_a_body_written_by_hand_is_understood() -> None:
    update = decode(body_of())
    np.testing.assert_array_equal(update.delta, np.array(VALUES, np.float32))
    assert update.delta.dtype == np.float32
    assert (update.examples, update.train_loss, update.train_accuracy) == (7, 1.5, 0.25)


def test_the_delta_is_a_view_of_the_body() -> None:
    body = np.frombuffer(bytearray(update_body([1.0] * 10)), np.uint8)
    update = encodings.decode_update(MANIFEST, body.data, max_examples=1)
    assert np.shares_memory(update.delta, body)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (np.zeros(9, np.float32), r"shape \(10,\), got \(9,\)"),
        (np.zeros((10, 1), np.float32), r"shape \(10,\), got \(10, 1\)"),
        (np.zeros(10, np.float64), "float32, got float64"),
    ],
)
def test_a_device_cannot_write_another_delta(delta: Vector, message: str) -> None:
    update = Update(delta=delta, examples=1, train_loss=0.0, train_accuracy=0.0)
    with pytest.raises(ValueError, match=message):
        encodings.encode_update(MANIFEST, update)


UNKNOWN = [None, "", "F32", "f64", "q4", "f32 ", "\ud800", "x" * 5000]


@pytest.mark.parametrize("encoding", UNKNOWN, ids=range(len(UNKNOWN)))
def test_an_unknown_encoding_is_refused(encoding: str | None) -> None:
    metadata = {key: value for key, value in METADATA.items() if key != "encoding"}
    if encoding is not None:
        metadata["encoding"] = encoding
    with pytest.raises(UnknownEncoding) as caught:
        decode(body_of(metadata=metadata))
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize(
    "layout",
    [
        (),
        LAYOUT[:2],
        (LAYOUT[1], LAYOUT[0], LAYOUT[2]),
        (*LAYOUT, ("extra", [1])),
        (LAYOUT[0], LAYOUT[1], ("Scale", [1])),
        (LAYOUT[0], LAYOUT[1], ("\ud800", [1])),
        (LAYOUT[0], LAYOUT[1], ("\x1b[2J\n", [1])),
    ],
)
def test_other_tensors_than_the_manifests_are_refused(
    layout: tuple[tuple[str, list[int]], ...],
) -> None:
    body = body_of(layout=layout, values=[*VALUES, 0.0])
    with pytest.raises(WrongTensorNames) as caught:
        decode(body)
    assert str(caught.value).encode().decode().isprintable()


@pytest.mark.parametrize(
    ("dtype", "itemsize"), [("F16", 2), ("F64", 8), ("I32", 4), ("I8", 1)]
)
@pytest.mark.parametrize("wrong", range(3))
def test_another_dtype_is_refused(dtype: str, itemsize: int, wrong: int) -> None:
    header: dict[str, object] = {"__metadata__": METADATA}
    start = 0
    for index, (name, shape) in enumerate(LAYOUT):
        is_wrong = index == wrong
        end = start + math.prod(shape) * (itemsize if is_wrong else 4)
        header[name] = bodies.entry(
            start, end, shape=shape, dtype=dtype if is_wrong else "F32"
        )
        start = end
    with pytest.raises(WrongDtype, match=f"{LAYOUT[wrong][0]} must be F32"):
        decode(bodies.container(header, bytes(start)))


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [(0, [3, 2]), (0, [6]), (0, [2, 3, 1]), (1, [2]), (1, [1, 3]), (2, []), (2, [2])],
)
def test_another_shape_is_refused(wrong: int, shape: list[int]) -> None:
    layout = list(LAYOUT)
    layout[wrong] = (LAYOUT[wrong][0], shape)
    with pytest.raises(WrongShape, match=f"tensor {LAYOUT[wrong][0]} must have shape"):
        decode(body_of(layout=tuple(layout), values=[*VALUES, 0.0]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", range(10))
def test_one_value_that_is_not_finite_is_enough(value: float, at: int) -> None:
    values = [*VALUES[:at], value, *VALUES[at + 1 :]]
    with pytest.raises(NotFinite):
        decode(body_of(values=values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("examples", text)
            for text in (
                *("", "0", "-1", "+1", "1.0", " 1", "1_0", "1e1", "nan", "seven"),
                *("\u0663", "\u00b2", "101", "99999999999", "9" * 5000, "\ud800"),
            )
        ],
        *[
            (key, text)
            for key in ("train_loss", "train_accuracy")
            for text in ("", "-1", "-1e-300", "nan", "inf", "-inf", "1e400", "good")
        ],
        ("train_accuracy", "1.0000001"),
    ],
)
def test_a_wrong_metadata_field_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(WrongMetadata, match=f"^{key} ") as caught:
        decode(body_of(metadata=METADATA | {key: value}))
    assert str(caught.value).encode().decode().isprintable()
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize("key", ["examples", "train_loss", "train_accuracy"])
def test_a_missing_metadata_field_is_refused_by_name(key: str) -> None:
    metadata = {name: value for name, value in METADATA.items() if name != key}
    with pytest.raises(WrongMetadata, match=f"^{key} "):
        decode(body_of(metadata=metadata))


def test_the_bounds_of_the_metadata_are_taken() -> None:
    low = METADATA | {"examples": "1", "train_loss": "0", "train_accuracy": "0"}
    high = METADATA | {
        "examples": "100",
        "train_loss": "1e9",
        "train_accuracy": "1",
    }
    assert decode(body_of(metadata=low)).examples == 1
    update = decode(body_of(metadata=high))
    assert (update.examples, update.train_accuracy) == (100, 1.0)


def test_no_plan_lets_a_device_count_more_than_is_exact() -> None:
    most = encodings.MAX_EXAMPLES
    exact = METADATA | {"examples": str(most)}
    assert decode(body_of(metadata=exact), max_examples=2 * most).examples == most
    beyond = METADATA | {"examples": str(most + 1)}
    with pytest.raises(WrongMetadata, match="examples"):
        decode(body_of(metadata=beyond), max_examples=2 * most)


def test_metadata_that_nobody_asked_for_is_passed_over() -> None:
    assert decode(body_of(metadata=METADATA | {"app": "1.0"})).examples == 7


def test_a_checked_delta_is_read_again_without_its_metadata() -> None:
    delta = encodings.read_delta(MANIFEST, body_of(metadata={"encoding": "f32"}))
    np.testing.assert_array_equal(delta, np.array(VALUES, np.float32))


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (body_of()[:-1], tensors.MalformedTensors),
        (body_of(metadata={"encoding": "q4"}), UnknownEncoding),
        (body_of(layout=LAYOUT[:2]), WrongTensorNames),
        (body_of(layout=(*LAYOUT[:2], ("scale", []))), WrongShape),
    ],
)
def test_a_delta_whose_bytes_changed_is_not_read(
    body: bytes, refusal: type[ValueError]
) -> None:
    with pytest.raises(refusal):
        encodings.read_delta(MANIFEST, body)


def test_a_frozen_tensor_is_never_in_an_update() -> None:
    manifest = frozen_kernel()
    body = update_body([1.0, 2.0, 3.0, 4.0], manifest=manifest)
    update = encodings.decode_update(manifest, body, max_examples=1)
    assert update.delta.tolist() == [1.0, 2.0, 3.0, 4.0]
    names = [entry.name for entry in tensors.read(body).entries]
    assert names == ["dense/bias", "scale"]
    with pytest.raises(WrongTensorNames):
        encodings.decode_update(manifest, body_of(), max_examples=100)


def test_weights_hold_every_tensor_in_manifest_order() -> None:
    manifest = frozen_kernel()
    weights = np.arange(10, dtype=np.float32)
    body = encodings.encode_weights(manifest, weights)
    np.testing.assert_array_equal(encodings.decode_weights(manifest, body), weights)
    container = tensors.read(body)
    assert container.metadata == {"model": "tiny"}
    assert [(entry.name, entry.shape) for entry in container.entries] == [
        ("dense/kernel", (2, 3)),
        ("dense/bias", (3,)),
        ("scale", (1,)),
    ]


@pytest.mark.parametrize(
    ("layout", "refusal"),
    [(LAYOUT[:2], WrongTensorNames), ((*LAYOUT[:2], ("scale", [])), WrongShape)],
)
def test_weights_of_another_model_are_refused(
    layout: tuple[tuple[str, list[int]], ...], refusal: type[InvalidUpdate]
) -> None:
    with pytest.raises(refusal):
        encodings.decode_weights(MANIFEST, body_of(layout=layout))


def test_truncated_weights_are_refused() -> None:
    body = encodings.encode_weights(MANIFEST, np.zeros(10, np.float32))
    with pytest.raises(tensors.MalformedTensors):
        encodings.decode_weights(MANIFEST, body[:-1])


GOOD = body_of()


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
def test_any_damage_is_decoded_or_refused(at: int, damage: bytes) -> None:
    decode_or_refuse(lambda: decode(GOOD[:at] + damage + GOOD[at + len(damage) :]))


@given(st.dictionaries(st.sampled_from(sorted(METADATA)), st.text(max_size=12)))
def test_any_metadata_is_decoded_or_refused(changes: dict[str, str]) -> None:
    decode_or_refuse(lambda: decode(body_of(metadata=METADATA | changes)))


def decode_or_refuse(act: Callable[[], Update]) -> None:
    try:
        update = act()
    except (tensors.MalformedTensors, InvalidUpdate):
        return
    assert update.delta.shape == (10,)
    assert np.isfinite(update.delta).all()
    assert 1 <= update.examples <= 100
    assert 0 <= update.train_loss < math.inf
    assert 0 <= update.train_accuracy <= 1
