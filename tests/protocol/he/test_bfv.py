"""Ciphertexts add up exactly, and whatever is none is refused."""

import hypothesis
import numpy as np
import pytest
import tenseal
from hypothesis import strategies

from coordinator.protocol.he import bfv, framing, parameters
from coordinator.protocol.he.framing import MalformedCiphertext

LENGTH = parameters.DEGREE + 3


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return bfv.generate()


def vectors(count: int, most: int = 2**26) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        rng.integers(-most, most, LENGTH, endpoint=True).astype(np.int32)
        for _ in range(count)
    ]


def sealed(public: bytes, vector: np.ndarray) -> bytes:
    return bfv.encrypt(public, parameters.to_residues(vector.view(np.uint32)))


def test_a_blinded_sum_is_exact_and_uniform_without_its_key(
    keys: tuple[bytes, bytes],
) -> None:
    secret, public = keys
    parts = vectors(20)
    total = bfv.Sum(public, LENGTH)
    for part in parts:
        total.add(sealed(public, part))
    blinding = parameters.blinding(b"k" * 32, LENGTH)
    total.add_plain(blinding)
    seen = bfv.decrypt(secret, total.serialize(), LENGTH)
    whole = parameters.centred(parameters.subtract(seen, blinding))
    np.testing.assert_array_equal(whole, np.sum(parts, axis=0, dtype=np.int64))
    # What the authority sees: uniform numbers, of mean a half.
    assert abs(seen.mean() / parameters.MODULUS - 0.5) < 6 / np.sqrt(12 * LENGTH)
    assert abs(np.corrcoef(seen.astype(float), whole.astype(float))[0, 1]) < 0.06


def test_many_ciphertexts_of_the_largest_numbers_still_decrypt(
    keys: tuple[bytes, bytes],
) -> None:
    secret, public = keys
    largest = np.full(LENGTH, 2**21, np.int32)
    body, total = sealed(public, largest), bfv.Sum(public, LENGTH)
    for _ in range(1000):
        total.add(body)
    found = parameters.centred(bfv.decrypt(secret, total.serialize(), LENGTH))
    assert set(found.tolist()) == {1000 * 2**21}


def test_the_public_key_holds_no_secret(keys: tuple[bytes, bytes]) -> None:
    _, public = keys
    body = sealed(public, vectors(1)[0])
    with pytest.raises((ValueError, RuntimeError), match="secret"):
        bfv.decrypt(public, body, LENGTH)


def test_a_key_of_other_parameters_is_refused() -> None:
    other = tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        poly_modulus_degree=4096,
        plain_modulus=1032193,
        coeff_mod_bit_sizes=[54, 55],
    ).serialize()
    for bad in (other, b"", b"x" * 1000):
        with pytest.raises(MalformedCiphertext):
            bfv.load(bad)


def test_a_refused_ciphertext_leaves_the_sum_as_it_was(
    keys: tuple[bytes, bytes],
) -> None:
    secret, public = keys
    good = vectors(1)[0]
    body = sealed(public, good)
    short = bfv.encrypt(public, np.zeros(5, np.uint64))
    total = bfv.Sum(public, LENGTH)
    total.add(body)
    for bad in (
        b"",
        body[:-1],
        body + b"x",
        b"\0" * len(body),
        framing.join([short[4:], short[4:]]),
    ):
        with pytest.raises(MalformedCiphertext):
            total.add(bad)
    found = parameters.centred(bfv.decrypt(secret, total.serialize(), LENGTH))
    np.testing.assert_array_equal(found, good)


@hypothesis.given(strategies.binary(max_size=400))
def test_any_bytes_are_framed_or_refused(content: bytes) -> None:
    try:
        parts = framing.split(content, LENGTH)
    except MalformedCiphertext:
        return
    assert framing.join(map(bytes, parts)) == content


def test_blinding_is_of_its_key_and_below_the_modulus() -> None:
    one = parameters.blinding(b"a" * 32, 1000)
    assert (one == parameters.blinding(b"a" * 32, 1000)).all()
    assert (one != parameters.blinding(b"b" * 32, 1000)).any()
    assert one.max() < parameters.MODULUS


def test_residues_of_negative_numbers_come_back() -> None:
    vector = np.array([0, 1, -1, 2**31 - 1, -(2**31)], np.int32)
    found = parameters.centred(parameters.to_residues(vector.view(np.uint32)))
    assert found.tolist() == vector.tolist()
