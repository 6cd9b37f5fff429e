"""How much of a body is read before anybody has been asked who sent it."""

from collections.abc import AsyncIterator

import pytest

from coordinator.api.limits import MAX_JSON_BYTES
from coordinator.protocol import paths, problems
from tests.support.http import Api, assert_problem


@pytest.mark.parametrize("path", [paths.DEVICES, paths.CHECK_INS, paths.TASKS])
async def test_an_endless_body_is_cut_off(api: Api, path: str) -> None:
    before = api.federation.state()
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 100 * MAX_JSON_BYTES:
            read += 65_536
            yield b" " * 65_536

    response = await api.client.post(
        path, content=body(), headers={"Content-Type": "application/json"}
    )

    assert_problem(response, problems.BODY_TOO_LARGE)
    assert read < 2 * MAX_JSON_BYTES
    assert api.federation.state() == before


async def test_a_body_as_long_as_may_be_is_read(api: Api) -> None:
    padded = b'{"name": "phone"}'.ljust(MAX_JSON_BYTES)
    response = await api.client.post(
        paths.DEVICES, content=padded, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 201, response.text
