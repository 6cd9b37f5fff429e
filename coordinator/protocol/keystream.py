"""Secret random numbers that can be drawn again: AES-256 in counter mode."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words: TypeAlias = npt.NDArray[np.uint64]
KEY_BYTES: Final = 32
_WORD_BYTES: Final = 8


class Keystream:
    """Uniform words that only who holds the key can tell from chance.

    A key is for one stream: two of one key are the same words.

    Source: NIST SP 800-38A, section 6.5.
    """

    def __init__(self, key: bytes) -> None:
        """Begin the stream of ``key``.

        Raises:
            ValueError: The key is not 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must be {KEY_BYTES} bytes, got {len(key)}")
        # A key is used once, so the counter may begin at 0.
        self._encryptor = Cipher(
            algorithms.AES256(key), modes.CTR(bytes(16))
        ).encryptor()

    def words(self, count: int) -> Words:
        """Return the next words, shape (count,), uint64."""
        return np.frombuffer(
            self._encryptor.update(bytes(_WORD_BYTES * count)), np.dtype("<u8")
        ).astype(np.uint64, copy=False)

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Return numbers in [0, 1), shape (count,), multiples of 2**-53."""
        return (self.words(count) >> np.uint64(11)) * np.float64(2.0**-53)
