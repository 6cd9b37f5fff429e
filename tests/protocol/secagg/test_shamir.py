"""Shares of secrets: a threshold rebuilds, one fewer says nothing at all."""

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.secagg import shamir
from coordinator.protocol.secagg.shamir import PRIME

INDICES = [0, 3, 4, 9, 198]


def rebuild_by_definition(shares: dict[int, bytes]) -> int:
    """Lagrange's formula at 0, as it is printed."""
    total = 0
    for index, share in shares.items():
        term = int.from_bytes(share, "big")
        for other in shares:
            if other != index:
                term = term * (other + 1) * pow(other - index, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def test_the_field_is_one() -> None:
    """Fermat for many bases: 2**256 + 297 is prime."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 60))


@given(secret=st.binary(min_size=32, max_size=32), threshold=st.integers(1, 5))
def test_any_threshold_of_shares_rebuilds(secret: bytes, threshold: int) -> None:
    shares = shamir.split(secret, threshold, INDICES)
    assert all(len(share) == 33 for share in shares.values())
    for chosen in itertools.combinations(INDICES, threshold):
        some = {index: shares[index] for index in chosen}
        assert shamir.combine(some) == secret
        assert rebuild_by_definition(some) == int.from_bytes(secret, "big")


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32], ids=["least", "most"])
def test_the_ends_of_the_range_are_secrets_too(secret: bytes) -> None:
    shares = shamir.split(secret, 3, INDICES)
    assert shamir.combine({index: shares[index] for index in (0, 4, 198)}) == secret


@given(
    secret=st.binary(min_size=32, max_size=32),
    other=st.binary(min_size=32, max_size=32),
    threshold=st.integers(2, 5),
)
def test_one_share_fewer_is_consistent_with_every_secret(
    secret: bytes, other: bytes, threshold: int
) -> None:
    """For any other secret there is a last share that gives it with the ones known."""
    shares = shamir.split(secret, threshold, INDICES)
    known = {index: shares[index] for index in INDICES[: threshold - 1]}
    last = INDICES[threshold - 1]
    # The line through all: solve for the last share that makes the sum the other one.
    with_zero = rebuild_by_definition({**known, last: bytes(33)})
    with_one = rebuild_by_definition({**known, last: (1).to_bytes(33, "big")})
    weight = (with_one - with_zero) % PRIME
    needed = (int.from_bytes(other, "big") - with_zero) * pow(weight, -1, PRIME)
    completed = {**known, last: (needed % PRIME).to_bytes(33, "big")}
    assert shamir.combine(completed) == other
    if other != secret:
        assert completed[last] != shares[last]


def test_shares_of_one_secret_are_new_each_time() -> None:
    secret = secrets.token_bytes(32)
    once, again = (shamir.split(secret, 2, INDICES) for _ in range(2))
    assert all(once[index] != again[index] for index in INDICES)


def test_a_share_is_spread_over_the_field() -> None:
    """The top bits of a single share of one secret are all there."""
    shares = [shamir.split(bytes(32), 2, [7, 8])[7] for _ in range(200)]
    tops = {share[1] >> 5 for share in shares}
    assert tops == {*range(8)}


def test_too_few_or_mixed_shares_give_nothing() -> None:
    one = shamir.split(b"\1" * 32, 3, INDICES)
    other = shamir.split(b"\2" * 32, 3, INDICES)
    assert _combined({0: one[0], 3: one[3]}) != b"\1" * 32
    assert _combined({0: one[0], 3: one[3], 4: other[4]}) not in (
        b"\1" * 32,
        b"\2" * 32,
    )


def _combined(shares: dict[int, bytes]) -> bytes | None:
    try:
        return shamir.combine(shares)
    except shamir.Inconsistent:
        return None


@pytest.mark.parametrize(
    "share", [PRIME.to_bytes(33, "big"), b"\xff" * 33, b"", bytes(32), bytes(34)]
)
def test_what_is_no_share_is_refused(share: bytes) -> None:
    with pytest.raises(shamir.Inconsistent, match="index 3"):
        shamir.combine({0: bytes(33), 3: share})


def test_a_sum_that_is_no_secret_is_refused() -> None:
    with pytest.raises(shamir.Inconsistent, match="no secret"):
        shamir.combine({0: (2**256).to_bytes(33, "big")})


@pytest.mark.parametrize(
    ("secret", "threshold", "indices"),
    [
        (bytes(31), 2, [0, 1]),
        (bytes(33), 2, [0, 1]),
        (bytes(32), 0, [0, 1]),
        (bytes(32), 3, [0, 1]),
        (bytes(32), 2, [0, 1, 1]),
    ],
)
def test_a_split_that_is_none_is_a_bug(
    secret: bytes, threshold: int, indices: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"32 bytes|rebuild no secret"):
        shamir.split(secret, threshold, indices)
