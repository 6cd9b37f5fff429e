"""Requests that nobody sends by accident: refused as problems, changing nothing."""

import json
from typing import Any

import pytest

from coordinator.protocol import paths, problems
from tests.support.http import Api, assert_problem

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (paths.TASKS, "GET, POST"),
        (paths.tag("tiny", "production"), "DELETE, GET, PUT"),
        (paths.update("0" * 32), "OPTIONS, POST"),
    ],
)
async def test_a_wrong_method_is_told_all_that_the_path_takes(
    api: Api, path: str, allowed: str
):
    response = await api.client.request("TRACE", path)

    assert_problem(response, problems.METHOD_NOT_ALLOWED)
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize("value", ["false", "true", '"1"', "[1]", "{}", "null"])
async def test_a_number_is_read_out_of_nothing_else(api: Api, value: str):
    response = await api.client.post(
        paths.CHECK_INS,
        headers=api.enrol().headers | JSON | {"Idempotency-Key": "a"},
        content=f'{{"wait_s": {value}}}',
    )

    assert_problem(response, problems.INVALID_REQUEST)


BODIES: dict[str, bytes] = {
    "deep": b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"name": ' + b"1" * 200_000 + b"}",
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "zero byte": b'{"name": "a\\u0000"}',
    "half a surrogate": b'{"name": "\\ud800"}',
    "half a surrogate as a field": b'{"\\ud800": 1}',
    "NaN": b'{"name": NaN}',
    "infinity": b'{"name": -Infinity}',
    "many unknown fields": json.dumps(
        dict.fromkeys(map(str, range(20_000)), 0)
    ).encode(),
    "a long field": json.dumps({"a" * 250_000: 0}).encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
async def test_a_body_that_is_meant_to_break_is_refused_in_few_words(
    api: Api, body: bytes
):
    before = api.federation.state()

    response = await api.client.post(paths.DEVICES, content=body, headers=JSON)

    assert_problem(response, problems.INVALID_REQUEST)
    assert len(response.content) < 20_000
    assert api.federation.state() == before


BAD_IDS = (
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a%00b",
    "%2e%2e",
    "%ff",
    "%ed%a0%80",
    "a" * 5000,
)


@pytest.mark.parametrize("name", BAD_IDS, ids=lambda name: name[:12])
async def test_a_path_leads_nowhere_else(api: Api, name: str):
    before = api.federation.state()
    caller = api.enrol()
    everything: dict[str, dict[str, Any]] = api.app.openapi()["paths"]
    asked = 0
    for path, methods in everything.items():
        if "{" not in path:
            continue
        for method in methods:
            address = "".join(
                name if part.startswith("{") else part
                for part in path.replace("{", "\n{").replace("}", "}\n").split("\n")
            )
            is_device = "/assignments/" in path
            response = await api.client.request(
                method, address, headers=caller.headers if is_device else api.operator
            )
            assert response.status_code in {400, 404, 422}, (method, address)
            assert response.headers["Content-Type"] == problems.MEDIA_TYPE
            asked += 1
    assert asked > 20
    assert api.federation.files() == before[1]
