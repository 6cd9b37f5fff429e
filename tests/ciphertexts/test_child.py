"""Strangers' ciphertexts are parsed by a child, which may die of them."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from coordinator import ciphertexts
from coordinator.ciphertexts import CiphertextLost
from coordinator.protocol.he import bfv, parameters

LENGTH, SKIP = 7, 3
KEY = b"k" * 32
Add = Callable[..., ciphertexts.Added]


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return bfv.generate()


@pytest.fixture
def add(keys: tuple[bytes, bytes]) -> Add:
    def call(files: dict[str, pathlib.Path], **more: object) -> ciphertexts.Added:
        settings = {
            "skip": SKIP,
            "public_key": keys[1],
            "blinding_key": KEY,
            "length": LENGTH,
            "on_progress": lambda _: None,
        }
        return ciphertexts.add_up(files, **(settings | more))  # type: ignore[arg-type]

    return call


def write(
    folder: pathlib.Path, public_key: bytes, count: int
) -> dict[str, pathlib.Path]:
    files = {}
    for number in range(count):
        numbers = np.full(LENGTH, number + 1, np.uint64)
        files[f"a{number}"] = folder / f"{number}"
        files[f"a{number}"].write_bytes(b"abc" + bfv.encrypt(public_key, numbers))
    return files


def sum_of(added: ciphertexts.Added, secret_key: bytes) -> list[int]:
    found = ciphertexts.decrypt(added.ciphertext, secret_key=secret_key, length=LENGTH)
    blinding = parameters.blinding(KEY, LENGTH)
    whole: list[int] = parameters.subtract(found, blinding).tolist()
    return whole


def test_files_are_added_and_blinded(
    add: Add, keys: tuple[bytes, bytes], tmp_path: pathlib.Path
) -> None:
    added = add(write(tmp_path, keys[1], 3))
    assert added.summed == ("a0", "a1", "a2")
    assert not added.left_out
    assert sum_of(added, keys[0]) == [6] * LENGTH
    seen = ciphertexts.decrypt(added.ciphertext, secret_key=keys[0], length=LENGTH)
    assert seen.tolist() != [6] * LENGTH


def test_what_is_no_ciphertext_is_left_out_and_so_is_what_ends_the_child(
    add: Add, keys: tuple[bytes, bytes], tmp_path: pathlib.Path
) -> None:
    files = write(tmp_path, keys[1], 4)
    files["a1"].write_bytes(b"abc" + bytes(200))
    files["a2"].unlink()  # the child ends with an error that nobody catches
    added = add(files)
    assert added.summed == ("a0", "a3")
    assert "a ciphertext of 0 bytes" in added.left_out["a1"]
    assert "the child ended with code 1" in added.left_out["a2"]
    assert sum_of(added, keys[0]) == [5] * LENGTH


def test_nothing_to_add_is_no_sum(
    add: Add, keys: tuple[bytes, bytes], tmp_path: pathlib.Path
) -> None:
    files = write(tmp_path, keys[1], 2)
    for path in files.values():
        path.write_bytes(b"")
    for few in (files, {}):
        with pytest.raises(CiphertextLost, match="no ciphertext could be added"):
            add(few)


def test_a_key_that_is_none_is_no_reason_to_leave_devices_out(
    add: Add, keys: tuple[bytes, bytes], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(CiphertextLost, match="the child ended with code 1"):
        add(write(tmp_path, keys[1], 2), public_key=b"none")


def test_what_cannot_be_decrypted_is_refused(keys: tuple[bytes, bytes]) -> None:
    for bad in (b"", b"x" * 50):
        with pytest.raises(CiphertextLost):
            ciphertexts.decrypt(bad, secret_key=keys[0], length=LENGTH)
    body = bfv.encrypt(keys[1], np.ones(LENGTH, np.uint64))
    with pytest.raises(CiphertextLost):
        ciphertexts.decrypt(body, secret_key=b"none", length=LENGTH)


def test_the_child_knows_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_AUTHORITY_TOKEN", "secret")
    assert "SHOAL_AUTHORITY_TOKEN" not in ciphertexts._environment()
