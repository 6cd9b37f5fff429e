"""The stream that noise and rounding are drawn from."""

import numpy as np
import pytest

from coordinator.protocol.keystream import Keystream


def test_the_stream_is_aes_256_in_counter_mode() -> None:
    # NIST's known answer: the zero block under the zero key (AESAVS, KAT of 256 bits).
    expected = bytes.fromhex("dc95c078a2408989ad48a21492842087")

    words = Keystream(bytes(32)).words(4)

    assert words[:2].tobytes() == expected
    assert words[2:].tobytes() != expected


def test_it_goes_on_where_it_was() -> None:
    whole, pieces = Keystream(bytes(32)), Keystream(bytes(32))

    expected = whole.words(1000)

    got = np.concatenate([pieces.words(count) for count in (1, 0, 7, 992)])
    np.testing.assert_array_equal(got, expected)


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    uniforms = Keystream(b"u" * 32).uniforms(100_000)

    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    counts, _ = np.histogram(uniforms, bins=100, range=(0, 1))
    # 99 degrees of freedom: above 160 once in 10,000 keys, and the key is fixed
    assert ((counts - 1000) ** 2 / 1000).sum() < 160
    np.testing.assert_array_equal(uniforms * 2.0**53, np.rint(uniforms * 2.0**53))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"key must be 32 bytes, got {length}"):
        Keystream(bytes(length))
