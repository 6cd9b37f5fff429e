"""Masks are the key stream, and cancel."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.secagg import masks

BLOCK = 1 << 14
SIZES = [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5]


def stream(key: bytes, size: int) -> np.ndarray:
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * size)), "<u4")


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_one_uninterrupted_key_stream(size: int) -> None:
    total = np.zeros(size, np.uint32)
    masks.add(total, bytes(range(32)), 1)
    assert np.array_equal(total, stream(bytes(range(32)), size))


def test_the_stream_is_that_of_nist() -> None:
    """NIST CAVP, CTR over a zero counter: AES-256 of the zero block under key 0."""
    total = np.zeros(4, np.uint32)
    masks.add(total, bytes(32), 1)
    assert total.tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@given(key=st.binary(min_size=32, max_size=32), size=st.integers(0, 100))
def test_a_mask_taken_away_leaves_what_was(key: bytes, size: int) -> None:
    before = np.arange(size, dtype=np.uint32) * np.uint32(2**31 - 1)
    total = before.copy()
    masks.add(total, key, 1)
    masks.add(total, key, -1)
    assert np.array_equal(total, before)


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_many_masks_add_up_whatever_the_threads(threads: int) -> None:
    keys = [bytes([number]) * 32 for number in range(7)]
    total = np.full(BLOCK + 3, 5, np.uint32)
    masks.add_all(
        total, [(key, 1 if key[0] % 3 else -1) for key in keys], threads=threads
    )
    expected = np.full(BLOCK + 3, 5, np.uint32)
    for key in keys:
        expected += stream(key, BLOCK + 3) * np.uint32(1 if key[0] % 3 else 2**32 - 1)
    assert np.array_equal(total, expected)
