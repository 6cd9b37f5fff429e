"""Secrets of 32 bytes in shares: a threshold rebuilds one, fewer say nothing of it.

Polynomials over the field of 2**256 + 297 elements, so that any 32 bytes are one. A
share is 33 bytes, big-endian. Field arithmetic is Python's own and not constant in
time: nobody who could measure it is on the device.

Source: Shamir 1979, "How to Share a Secret".
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33


class Inconsistent(ValueError):
    """The shares are not of one secret of 32 bytes."""


def split(secret: bytes, threshold: int, indices: Sequence[int]) -> dict[int, bytes]:
    """Return one share for each index. Run by the device.

    Args:
        secret: 32 bytes.
        threshold: Shares that rebuild it.
        indices: Of those who get one, from 0, each once; index i is point i + 1.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"secret must be {SECRET_BYTES} bytes, got {len(secret)}")
    if not 1 <= threshold <= len(set(indices)) == len(indices):
        raise ValueError(f"{threshold} of {len(indices)} shares rebuild no secret")
    # Fresh coefficients for every secret, uniform in the field: what makes fewer
    # shares than the threshold say nothing.
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    shares = {}
    for index in indices:
        value = 0
        for coefficient in coefficients:
            value = (value * (index + 1) + coefficient) % PRIME
        shares[index] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of exactly a threshold of shares, by index. Run by the server.

    Raises:
        Inconsistent: A share is no element of the field, or no 32 bytes come out.
    """
    values = {}
    for index, share in shares.items():
        value = int.from_bytes(share, "big")
        if len(share) != SHARE_BYTES or value >= PRIME:
            raise Inconsistent(f"share of index {index} is no element of the field")
        values[index + 1] = value
    # Lagrange at 0 with one inversion: all denominators are brought to one product.
    product = 1
    for point in values:
        product = product * point % PRIME
    denominators = []
    for point in values:
        denominator = point
        for other in values:
            if other != point:
                denominator = denominator * (other - point) % PRIME
        denominators.append(denominator)
    total = 0
    for value, inverse in zip(values.values(), _invert(denominators), strict=True):
        total = (total + value * product * inverse) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise Inconsistent(f"{len(values)} shares give no secret of 32 bytes")
    return total.to_bytes(SECRET_BYTES, "big")


def _invert(numbers: Sequence[int]) -> list[int]:
    """Invert all of them in the field with one inversion (Montgomery's trick)."""
    products = [1]
    for number in numbers:
        products.append(products[-1] * number % PRIME)
    inverse = pow(products[-1], -1, PRIME)
    inverted = []
    for number, before in zip(reversed(numbers), reversed(products[:-1]), strict=True):
        inverted.append(inverse * before % PRIME)
        inverse = inverse * number % PRIME
    return inverted[::-1]
