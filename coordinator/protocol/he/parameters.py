"""Numbers on which devices, coordinator and key authority agree.

Source: Microsoft SEAL 4.1, the 128-bit table: 120 of the 218 bits that degree 8192 may
    have.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from coordinator.protocol.keystream import Keystream
from coordinator.protocol.secagg.masks import Words

Residues: TypeAlias = npt.NDArray[np.uint64]  #: each below ``MODULUS``

DEGREE: Final = 8192  #: and numbers in a ciphertext
COEFFICIENT_BITS: Final = (60, 60)
MODULUS: Final = 8_590_163_969  #: of the numbers; prime, and 1 modulo 2 * DEGREE
MAX_CIPHERTEXT_BYTES: Final = 140_000  #: one has 131,208, give or take its packing
MAX_LENGTH: Final = 50_000_000  #: numbers in a vector
MAX_DEVICES: Final = 10_000  #: whose results are in a sum
_HALF: Final = MODULUS // 2
_FAIR: Final = np.uint64((1 << 64) // MODULUS * MODULUS)


def to_residues(vector: Words) -> Residues:
    """Return a vector of int32, held as uint32, modulo ``MODULUS``."""
    whole = vector.view(np.int32).astype(np.int64)
    return (whole % MODULUS).astype(np.uint64)


def centred(residues: Residues) -> npt.NDArray[np.int64]:
    """Return the whole numbers nearest to 0 with these residues."""
    whole = residues.astype(np.int64)
    whole[whole > _HALF] -= MODULUS
    return whole


def blinding(key: bytes, length: int) -> Residues:
    """Return uniform residues, shape (length,), that only who has the key can tell.

    Args:
        key: 32 secret bytes, for this vector alone.
        length: How many.
    """
    stream = Keystream(key)
    fair = np.empty(0, np.uint64)
    while fair.size < length:  # again with a chance of 2**-31 for each number
        words = stream.words(length)
        fair = np.concatenate([fair, words[words < _FAIR]])
    return fair[:length] % np.uint64(MODULUS)


def subtract(total: Residues, part: Residues) -> Residues:
    """Return ``total - part`` modulo ``MODULUS``."""
    return (total + (np.uint64(MODULUS) - part)) % np.uint64(MODULUS)
