"""Masks: AES-256 in counter mode, added to a vector modulo 2**32.

A mask's words are little-endian, four bytes of the key stream each, from counter 0: a
key is for one mask. Modulo 2**32 a uniform mask makes any vector uniform.

Source: NIST SP 800-38A, section 6.5.
"""

import concurrent.futures
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words: TypeAlias = npt.NDArray[np.uint32]
Sign: TypeAlias = Literal[1, -1]
WORD_BYTES: Final = 4
_BLOCK: Final = 1 << 14  # words: key stream and sums fit a core's second cache
_ZEROS: Final = bytes(_BLOCK * WORD_BYTES)
_SPARE_BYTES: Final = 15  # that ``update_into`` insists on


def add(total: Words, key: bytes, sign: Sign) -> None:
    """Add the mask of a key to a vector, or take it away. Changes ``total``.

    Args:
        total: shape (length,), uint32.
        key: 32 bytes.
        sign: 1 adds, -1 takes away.
    """
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(len(_ZEROS) + _SPARE_BYTES)
    words = np.frombuffer(buffer, "<u4", _BLOCK)
    zeros = memoryview(_ZEROS)
    combine = np.add if sign > 0 else np.subtract
    for start in range(0, total.size, _BLOCK):
        part = total[start : start + _BLOCK]
        encryptor.update_into(zeros[: part.nbytes], buffer)
        combine(part, words[: part.size], out=part)


def add_all(
    total: Words, masks: Sequence[tuple[bytes, Sign]], *, threads: int = 1
) -> None:
    """Add many masks, each with its sign. Changes ``total``.

    Expanding and adding leave Python's lock, so threads help as far as cores go; each
    takes memory of one vector.
    """
    if threads == 1:
        for key, sign in masks:
            add(total, key, sign)
        return

    def part_of(first: int) -> Words:
        part = np.zeros_like(total)
        add_all(part, masks[first::threads])
        return part

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for part in pool.map(part_of, range(threads)):
            total += part
