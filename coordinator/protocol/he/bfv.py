"""The BFV scheme, as TenSEAL has it: keys, and ciphertexts of 8,192 numbers each.

What comes from others is parsed by native code: only a process under limits does that,
see ``coordinator.ciphertexts``. A device encrypts, and parses the round's key, which
the key authority signed.
"""

import functools
from typing import Any

import numpy as np
import tenseal

from coordinator.protocol.he.framing import MalformedCiphertext, join, split
from coordinator.protocol.he.parameters import (
    COEFFICIENT_BITS,
    DEGREE,
    MODULUS,
    Residues,
)


def generate() -> tuple[bytes, bytes]:
    """Draw a key pair. Returns the secret key and the public key."""
    context = _draw()
    return _serialize(context, secret=True), _serialize(context, secret=False)


def encrypt(public_key: bytes, numbers: Residues) -> bytes:
    """Return the ciphertexts of numbers, each behind its length.

    Raises:
        MalformedCiphertext: The key is none.
    """
    context = load(public_key)
    parts = [
        tenseal.bfv_vector(context, numbers[start : start + DEGREE].tolist())
        for start in range(0, numbers.size, DEGREE)
    ]
    return join(part.serialize() for part in parts)


class Sum:
    """Ciphertexts that are added up."""

    def __init__(self, public_key: bytes, length: int) -> None:
        """Begin with nothing."""
        self._context = load(public_key)
        self._length = length
        self._parts: list[Any] = []

    def add(self, content: Any) -> None:  # noqa: ANN401 - any buffer
        """Add the ciphertexts of a vector; on an error nothing is added.

        Raises:
            MalformedCiphertext: They are none of this length under this key.
        """
        parts = read(self._context, content, self._length)
        if not self._parts:
            self._parts = parts
            return
        try:
            added = [a + b for a, b in zip(self._parts, parts, strict=True)]
        except (ValueError, RuntimeError) as error:
            raise MalformedCiphertext(str(error)) from error
        self._parts = added

    def add_plain(self, numbers: Residues) -> None:
        """Add the encryption of numbers."""
        self.add(encrypt(_serialize(self._context, secret=False), numbers))

    def serialize(self) -> bytes:
        """Return the ciphertexts of the sum."""
        return join(part.serialize() for part in self._parts)


def decrypt(secret_key: bytes, content: Any, length: int) -> Residues:  # noqa: ANN401
    """Return the numbers in ciphertexts, shape (length,).

    Raises:
        MalformedCiphertext: They are none of this length under this key.
    """
    context = load(secret_key)
    numbers = [
        np.array(part.decrypt(), np.int64) for part in read(context, content, length)
    ]
    # TenSEAL hands out the nearest to 0.
    return (np.concatenate(numbers) % MODULUS).astype(np.uint64)


def load(key: bytes) -> Any:  # noqa: ANN401 - TenSEAL has no types
    """Read a key.

    Raises:
        MalformedCiphertext: It is none of this scheme.
    """
    try:
        context = tenseal.context_from(key, n_threads=1)
    except (ValueError, RuntimeError) as error:
        raise MalformedCiphertext(f"not a key: {error}") from error
    if _parameters_of(context) != _parameters():
        raise MalformedCiphertext("a key of other parameters")
    return context


def read(context: Any, content: Any, length: int) -> list[Any]:  # noqa: ANN401
    """Read ciphertexts.

    Raises:
        MalformedCiphertext: They are none of this length under this key.
    """
    found = []
    for place, part in enumerate(split(content, length)):
        expected = min(DEGREE, length - place * DEGREE)
        try:
            vector = tenseal.bfv_vector_from(context, bytes(part))
            size = vector.size()
        except (ValueError, RuntimeError) as error:
            raise MalformedCiphertext(str(error)) from error
        if size != expected:
            raise MalformedCiphertext(f"{size} numbers in place of {expected}")
        found.append(vector)
    return found


def _serialize(context: Any, *, secret: bool) -> bytes:  # noqa: ANN401
    content: bytes = context.serialize(
        save_public_key=not secret,
        save_secret_key=secret,
        save_galois_keys=False,
        save_relin_keys=False,
    )
    return content


def _draw() -> Any:  # noqa: ANN401
    return tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        poly_modulus_degree=DEGREE,
        plain_modulus=MODULUS,
        coeff_mod_bit_sizes=list(COEFFICIENT_BITS),
        encryption_type=tenseal.ENCRYPTION_TYPE.ASYMMETRIC,
        n_threads=1,
    )


@functools.cache
def _parameters() -> object:
    return _parameters_of(_draw())


def _parameters_of(context: Any) -> object:  # noqa: ANN401
    """Return SEAL's digest of a key's scheme, degree and moduli."""
    return context.seal_context().data.key_parms_id()
