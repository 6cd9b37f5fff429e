import struct

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from device_sim.data import examples

FLOATS, INTEGERS, BYTES = 2, 3, 1


def varint(value: int):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes):
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(name: bytes, kind: int, packed: bytes):
    value = field(kind, field(1, packed))
    return field(1, field(1, name) + field(2, value))


def encode(pixels: np.ndarray, label: int):
    return field(
        1,
        feature(b"label", INTEGERS, varint(label))
        + feature(b"pixels", FLOATS, np.asarray(pixels, "<f4").tobytes()),
    )


PIXELS = np.random.default_rng(0).random(784, dtype=np.float32)
GOOD = encode(PIXELS, 61)


def test_pixels_and_label_are_read():
    pixels, label = examples.decode(GOOD)
    assert np.array_equal(pixels, PIXELS)
    assert label == 61


@pytest.mark.tf
def test_what_tensorflow_writes_is_read():
    tf = pytest.importorskip("tensorflow")
    floats = tf.train.FloatList(value=PIXELS)
    integers = tf.train.Int64List(value=[7])
    content = {
        "pixels": tf.train.Feature(float_list=floats),
        "label": tf.train.Feature(int64_list=integers),
    }
    example = tf.train.Example(features=tf.train.Features(feature=content))
    pixels, label = examples.decode(example.SerializeToString())
    assert np.array_equal(pixels, PIXELS)
    assert label == 7


def test_every_truncation_is_refused():
    for length in range(len(GOOD)):
        with pytest.raises(examples.MalformedExample):
            examples.decode(GOOD[:length])


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_give_an_example_or_the_one_refusal(content: bytes):
    with pytest.raises(examples.MalformedExample):
        examples.decode(content)  # too short to hold 784 floats


@hypothesis.given(
    st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.binary(max_size=3)
)
def test_damage_never_shows_as_another_error(at: int, change: int, extra: bytes):
    damaged = bytearray(GOOD) + extra
    damaged[at] ^= change
    try:
        pixels, label = examples.decode(bytes(damaged))
    except examples.MalformedExample:
        return
    assert pixels.shape == (784,)
    assert 0 <= label < 62


LABEL = feature(b"label", INTEGERS, b"\x01")
INK = feature(b"pixels", FLOATS, bytes(784 * 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Example.features must be there once, got 0"),
        (field(1, LABEL), "no feature pixels"),
        (field(1, INK), "no feature label"),
        (field(1, LABEL + LABEL + INK), "feature b'label' must have one value"),
        (field(1, LABEL + INK) + field(1, b""), "Example.features .* got 2"),
        (field(1, feature(b"label", BYTES, b"\x01") + INK), "int64 list, got field 1"),
        (field(1, LABEL + feature(b"pixels", BYTES, b"")), "float list, got field 1"),
        (field(1, LABEL + feature(b"pixels", FLOATS, b"abc")), "784 floats, got 3"),
        (field(1, feature(b"label", INTEGERS, b"\x01\x02") + INK), "one integer"),
        (field(1, feature(b"label", INTEGERS, b"\x3e") + INK), "0 to 61, got 62"),
        (field(1, feature(b"label", INTEGERS, b"\xff" * 9 + b"\x01") + INK), "0 to 61"),
        (field(1, feature(b"label", INTEGERS, b"\xff" * 11) + INK), "longer than 64"),
        (field(1, feature(b"label", INTEGERS, b"") + INK), "cut short"),
        (b"\x0d" + struct.pack("<f", 1), "wire type 5"),
        (b"\x0a\xff\x01abc", "field of 255 bytes is cut short after 3"),
    ],
)
def test_another_layout_is_refused(content: bytes, message: str):
    with pytest.raises(examples.MalformedExample, match=message):
        examples.decode(content)
