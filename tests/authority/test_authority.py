"""The key authority: one blinded sum of enough devices, and nothing else."""

import asyncio
import base64
import hashlib
import pathlib
import sqlite3
from collections.abc import Sequence

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coordinator.authority import service
from coordinator.authority.vault import Vault
from coordinator.protocol import device_keys
from coordinator.protocol.he import bfv, framing, parameters
from coordinator.protocol.he.messages import (
    HEADER_BYTES,
    IssuedKey,
    KeyRequest,
    KeyStatement,
    Summand,
    open_envelope,
    seal,
)

LENGTH = 6
SESSION = "ab" * 32
MINIMUM = 3
DEVICES = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)] + [
    ed25519.Ed25519PrivateKey.generate()
]


class Authority:
    """An authority over HTTP, and the coordinator's side of it."""

    def __init__(
        self, folder: pathlib.Path, roster: frozenset[str] | None = None
    ) -> None:
        self.vault = Vault(folder, roster=roster)
        self.token = f"Bearer {self.vault.token}"

    def call(self, method: str, path: str, json: object = None) -> httpx.Response:
        async def body() -> httpx.Response:
            transport = httpx.ASGITransport(service.create(self.vault))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://authority"
            ) as http:
                headers = {"Authorization": self.token}
                return await http.request(method, path, json=json, headers=headers)

        return asyncio.run(body())

    def issue(self, **more: object) -> IssuedKey:
        request = {"session": SESSION, "length": LENGTH, "minimum": MINIMUM} | more
        answer = self.call("POST", "/v1/keys", request)
        assert answer.status_code == 201, answer.text
        return IssuedKey.model_validate_json(answer.content)

    def ask(
        self, key_id: str, ciphertext: bytes, summands: Sequence[Summand]
    ) -> httpx.Response:
        return self.call(
            "POST",
            f"/v1/keys/{key_id}/sum",
            {
                "ciphertext": base64.b64encode(ciphertext).decode(),
                "summands": [each.model_dump(mode="json") for each in summands],
            },
        )


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> Authority:
    return Authority(tmp_path / "authority")


def results(
    key: IssuedKey, devices: Sequence[device_keys.PrivateKey] = DEVICES
) -> tuple[bytes, list[Summand]]:
    """The sum of what devices send, device ``i`` the number ``i + 1``."""
    total, signed = bfv.Sum(key.public, key.key.statement.length), []
    for index, device in enumerate(devices):
        numbers = np.full(key.key.statement.length, index + 1, np.uint64)
        body = seal(bfv.encrypt(key.public, numbers), key.key.statement, device)
        signed.append(signature(body, device, key.key.statement))
        total.add(memoryview(body)[HEADER_BYTES:])
    return total.serialize(), signed


def signature(
    body: bytes, device: device_keys.PrivateKey, statement: KeyStatement
) -> Summand:
    spki = device_keys.of(device.public_key()).spki
    return open_envelope(memoryview(body), spki, statement)


def numbers(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    content = base64.b64decode(answer.json()["residues"])
    return np.frombuffer(content, "<u8").tolist()


def test_it_decrypts_one_sum_and_the_same_again(authority: Authority) -> None:
    key = authority.issue()
    ciphertext, signed = results(key)
    key_id = key.key.statement.key_id
    assert numbers(authority.ask(key_id, ciphertext, signed)) == [10] * LENGTH
    assert numbers(authority.ask(key_id, ciphertext, signed)) == [10] * LENGTH
    other, signed = results(key)
    answer = authority.ask(key_id, other, signed)
    assert answer.status_code == 409
    assert "another sum was decrypted" in answer.json()["detail"]


def test_a_spent_key_has_no_secret_half_left(
    authority: Authority, tmp_path: pathlib.Path
) -> None:
    key = authority.issue()
    ciphertext, signed = results(key)
    file = tmp_path / "authority" / "authority.db"

    def secret() -> bytes | None:
        with sqlite3.connect(file) as database:
            (found,) = database.execute("SELECT secret FROM keys").fetchone()
        return found

    assert secret() is not None
    authority.ask(key.key.statement.key_id, ciphertext, signed)
    assert secret() is None


def test_too_few_devices_are_refused_and_the_key_is_not_spent(
    authority: Authority,
) -> None:
    key = authority.issue()
    key_id = key.key.statement.key_id
    ciphertext, signed = results(key)
    for few in ([], signed[:2], [signed[0]] * 5):
        answer = authority.ask(key_id, ciphertext, few)
        assert answer.status_code == 403
        assert "the key needs 3" in answer.json()["detail"]
    assert numbers(authority.ask(key_id, ciphertext, signed[:3])) == [10] * LENGTH


def test_signatures_for_another_key_or_of_others_are_refused(
    authority: Authority,
) -> None:
    key, foreign = authority.issue(), authority.issue()
    ciphertext, _ = results(key)
    _, of_another = results(foreign)
    forged = [
        each.model_copy(update={"device_key": of_another[0].device_key})
        for each in results(key)[1]
    ]
    changed = [
        each.model_copy(update={"sha256": hashlib.sha256(b"other").hexdigest()})
        for each in results(key)[1]
    ]
    for wrong in (of_another, forged, changed):
        answer = authority.ask(key.key.statement.key_id, ciphertext, wrong)
        assert answer.status_code == 403
        assert "not signed by its device" in answer.json()["detail"]


def test_a_key_that_it_did_not_make_is_unknown(
    authority: Authority, tmp_path: pathlib.Path
) -> None:
    foreign = Authority(tmp_path / "other").issue()
    ciphertext, signed = results(foreign)
    answer = authority.ask(foreign.key.statement.key_id, ciphertext, signed)
    assert answer.status_code == 404


def test_bytes_that_are_no_ciphertexts_are_refused(authority: Authority) -> None:
    key = authority.issue()
    _, signed = results(key)
    for bad in (b"", b"x" * 99, framing.join([b"x" * 99])):
        key = authority.issue()
        _, signed = results(key)
        answer = authority.ask(key.key.statement.key_id, bad, signed)
        assert answer.status_code == 422, answer.text


def test_devices_that_are_not_on_the_roster_do_not_count(
    tmp_path: pathlib.Path,
) -> None:
    known = [device_keys.of(each.public_key()) for each in DEVICES]
    authority = Authority(tmp_path, roster=frozenset(key.id for key in known[:3]))
    key = authority.issue()
    ciphertext, signed = results(key)
    answer = authority.ask(key.key.statement.key_id, ciphertext, signed)
    assert answer.status_code == 403
    assert f"{known[3].id} is not on the roster" in answer.json()["detail"]
    assert authority.ask(key.key.statement.key_id, ciphertext, signed[:3]).is_success


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", "Basic x"])
def test_nobody_but_the_coordinator_is_answered(
    authority: Authority, token: str
) -> None:
    key = authority.issue()
    ciphertext, signed = results(key)
    authority.token = token
    assert authority.call("POST", "/v1/keys", {}).status_code == 401
    answer = authority.ask(key.key.statement.key_id, ciphertext, signed)
    assert answer.status_code == 401
    assert (
        authority.call("GET", "/healthz").json()["public_key"] == authority.vault.public
    )


def test_it_adds_noise_to_the_update_alone_and_the_same_again(
    authority: Authority,
) -> None:
    size, stddev = 4000, 50.0
    key = authority.issue(length=size + 5, noisy=size, noise_stddev=stddev)
    ciphertext, signed = results(key)
    first = numbers(authority.ask(key.key.statement.key_id, ciphertext, signed))
    noise = parameters.centred(np.array(first, np.uint64)) - 10
    assert noise[size:].tolist() == [0] * 5
    assert abs(noise[:size].std() - stddev) < 5 * stddev / np.sqrt(2 * size)
    assert abs(noise[:size].mean()) < 5 * stddev / np.sqrt(size)
    again = authority.ask(key.key.statement.key_id, ciphertext, signed)
    assert numbers(again) == first


def test_who_it_is_outlives_a_restart_and_is_nobody_elses(
    tmp_path: pathlib.Path,
) -> None:
    first, second = Vault(tmp_path), Vault(tmp_path)
    assert (first.public, first.token) == (second.public, second.token)
    assert (tmp_path / "authority.pub").read_text().strip() == first.public
    for name in ("authority.key", "coordinator.token", "authority.db"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    assert Vault(tmp_path / "other").public != first.public


@pytest.mark.parametrize(
    "wrong",
    [{"minimum": 1}, {"length": 0}, {"session": "x"}, {"noise_stddev": -1.0}],
)
def test_a_key_for_too_little_is_refused(
    authority: Authority, wrong: dict[str, object]
) -> None:
    request = {"session": SESSION, "length": LENGTH, "minimum": MINIMUM} | wrong
    assert authority.call("POST", "/v1/keys", request).status_code == 422
    with pytest.raises(ValueError, match="validation error"):
        KeyRequest.model_validate(request)
