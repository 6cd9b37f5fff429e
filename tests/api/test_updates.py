"""Posting an update: every way to be refused has its own type and changes nothing."""

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import pytest
import zstandard

from coordinator.protocol import digests, encodings, problems, tensors
from coordinator.protocol.problems import ProblemType
from tests.support.http import Api, assert_problem
from tests.support.models import tiny_manifest, update_body

BODY = update_body([0.5] * 10, examples=3)
OTHER_BODY = update_body([0.25] * 10, examples=3)
MAX_BYTES = encodings.max_update_bytes(tiny_manifest())
METADATA = {
    "encoding": "f32",
    "examples": "3",
    "train_loss": "1.0",
    "train_accuracy": "0.5",
}


def container(
    changes: Mapping[str, Any] | None = None,
    *,
    metadata: Mapping[str, str | None] | None = None,
    order: tuple[str, ...] = ("dense/kernel", "dense/bias", "scale"),
) -> bytes:
    """An update's tensors, some of them in another dtype, shape or order."""
    arrays = {
        "dense/kernel": np.ones((2, 3), np.float32),
        "dense/bias": np.ones(3, np.float32),
        "scale": np.ones(1, np.float32),
    } | dict(changes or {})
    fields = METADATA | dict(metadata or {})
    return tensors.write(
        [(name, arrays[name]) for name in order],
        {name: value for name, value in fields.items() if value is not None},
    )


def with_header(header: Mapping[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


BAD_BODIES: dict[str, tuple[bytes, ProblemType]] = {
    "empty": (b"", problems.MALFORMED_TENSORS),
    "text": (b"this is no safetensors body", problems.MALFORMED_TENSORS),
    "header cut off": (BODY[:40], problems.MALFORMED_TENSORS),
    "data cut off": (BODY[:-1], problems.MALFORMED_TENSORS),
    "header is a list": (
        with_header([], b""),  # type: ignore[arg-type]  # on purpose
        problems.MALFORMED_TENSORS,
    ),
    "leftover byte": (BODY + b"\0", problems.LEFTOVER_BYTES),
    "no encoding": (container(metadata={"encoding": None}), problems.UNKNOWN_ENCODING),
    "other encoding": (
        container(metadata={"encoding": "q8"}),
        problems.UNKNOWN_ENCODING,
    ),
    "no examples": (container(metadata={"examples": None}), problems.WRONG_METADATA),
    "zero examples": (container(metadata={"examples": "0"}), problems.WRONG_METADATA),
    "negative examples": (
        container(metadata={"examples": "-1"}),
        problems.WRONG_METADATA,
    ),
    "fractional examples": (
        container(metadata={"examples": "1.5"}),
        problems.WRONG_METADATA,
    ),
    "too many examples": (
        container(metadata={"examples": "10001"}),
        problems.WRONG_METADATA,
    ),
    "loss is no number": (
        container(metadata={"train_loss": "low"}),
        problems.WRONG_METADATA,
    ),
    "loss is NaN": (container(metadata={"train_loss": "nan"}), problems.WRONG_METADATA),
    "accuracy above one": (
        container(metadata={"train_accuracy": "1.01"}),
        problems.WRONG_METADATA,
    ),
    "tensor missing": (
        container(order=("dense/kernel", "dense/bias")),
        problems.WRONG_TENSOR_NAMES,
    ),
    "tensors in another order": (
        container(order=("dense/bias", "dense/kernel", "scale")),
        problems.WRONG_TENSOR_NAMES,
    ),
    "unknown tensor": (
        container(
            {"extra": np.ones(1, np.float32)},
            order=("dense/kernel", "dense/bias", "scale", "extra"),
        ),
        problems.WRONG_TENSOR_NAMES,
    ),
    "half precision": (
        container({"scale": np.ones(1, np.float16)}),
        problems.WRONG_DTYPE,
    ),
    "integers": (container({"scale": np.ones(1, np.int32)}), problems.WRONG_DTYPE),
    "transposed": (
        container({"dense/kernel": np.ones((3, 2), np.float32)}),
        problems.WRONG_SHAPE,
    ),
    "flat": (
        container({"dense/kernel": np.ones(6, np.float32)}),
        problems.WRONG_SHAPE,
    ),
    "NaN": (update_body([0.0] * 9 + [np.nan]), problems.NOT_FINITE),
    "infinity": (update_body([-np.inf] + [0.0] * 9), problems.NOT_FINITE),
}
CODED: dict[str, tuple[bytes, str, ProblemType]] = {
    "gzip bomb": (
        gzip.compress(bytes(1_000_000)),
        "gzip",
        problems.INFLATES_TOO_FAR,
    ),
    "zstd bomb": (
        zstandard.compress(bytes(10_000_000)),
        "zstd",
        problems.INFLATES_TOO_FAR,
    ),
    "one byte too many": (
        gzip.compress(bytes(MAX_BYTES + 1)),
        "gzip",
        problems.INFLATES_TOO_FAR,
    ),
    "gzip cut off": (gzip.compress(BODY)[:-9], "gzip", problems.BAD_CODING),
    "gzip and more": (gzip.compress(BODY) + b"more", "gzip", problems.BAD_CODING),
    "zlib called gzip": (zlib.compress(BODY), "gzip", problems.BAD_CODING),
    "plain called gzip": (BODY, "gzip", problems.BAD_CODING),
    "zstd cut off": (zstandard.compress(BODY)[:-5], "zstd", problems.BAD_CODING),
    "plain called zstd": (BODY, "zstd", problems.BAD_CODING),
    "brotli": (BODY, "br", problems.UNSUPPORTED_CODING),
    "two codings": (gzip.compress(BODY), "gzip, gzip", problems.UNSUPPORTED_CODING),
}


async def test_an_update_gets_a_receipt(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)

    response = await api.submit(caller, assignment, BODY)

    assert response.status_code == 200
    assert response.json() == {
        "assignment": assignment["id"],
        "sha256": digests.sha256_hex(BODY),
        "size_bytes": len(BODY),
        "examples": 3,
        "accepted_at": "2026-01-01T12:00:00Z",
    }
    assert BODY in api.federation.files().values()


@pytest.mark.parametrize("name", list(BAD_BODIES))
async def test_a_bad_body_is_refused_and_changes_nothing(api: Api, name: str) -> None:
    body, kind = BAD_BODIES[name]
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()

    document = assert_problem(await api.submit(caller, assignment, body), kind)

    assert document["detail"]
    assert api.federation.state() == before
    assert (await api.submit(caller, assignment, BODY)).status_code == 200


@pytest.mark.parametrize("name", list(CODED))
async def test_a_bad_coding_is_refused_and_changes_nothing(api: Api, name: str) -> None:
    body, coding, kind = CODED[name]
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()

    response = await api.submit(caller, assignment, body, content_encoding=coding)

    assert_problem(response, kind)
    assert api.federation.state() == before


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", gzip.compress(BODY)), ("zstd", zstandard.compress(BODY))],
    ids=["gzip", "zstd"],
)
async def test_a_compressed_update_is_taken(api: Api, coding: str, body: bytes) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)

    response = await api.submit(caller, assignment, body, content_encoding=coding)

    assert response.status_code == 200
    assert response.json()["sha256"] == digests.sha256_hex(BODY)
    assert response.json()["size_bytes"] == len(body)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha-256=:not base64:",
        "sha-256=:AAAA:",
        "md5=:" + base64.b64encode(bytes(16)).decode() + ":",
        digests.sha256_hex(BODY),
    ],
)
async def test_an_update_needs_a_digest(api: Api, digest: str) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()

    response = await api.submit(caller, assignment, BODY, content_digest=digest)

    assert_problem(response, problems.DIGEST_NEEDED)
    assert api.federation.state() == before


async def test_a_wrong_digest_is_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()

    response = await api.submit(
        caller,
        assignment,
        BODY,
        content_digest=digests.content_digest(digests.sha256_hex(OTHER_BODY)),
    )

    assert_problem(response, problems.DIGEST_MISMATCH)
    assert api.federation.state() == before


async def test_other_digests_beside_sha_256_are_passed_over(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    fitting = digests.content_digest(digests.sha256_hex(BODY))

    response = await api.submit(
        caller, assignment, BODY, content_digest=f"sha-512=:AAAA:, {fitting}"
    )

    assert response.status_code == 200


async def test_a_body_that_says_it_is_too_large_is_refused_unread(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            read.append(1)
            yield bytes(1000)

    response = await api.client.post(
        assignment["report_to"],
        content=body(),
        headers=caller.headers
        | {
            "Content-Digest": digests.content_digest("0" * 64),
            "Content-Length": str(MAX_BYTES + 1),
        },
    )

    assert_problem(response, problems.UPDATE_TOO_LARGE)
    assert read == []
    assert api.federation.state() == before


async def test_a_body_that_turns_out_too_large_is_cut_off(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(1000):
            read.append(1)
            yield bytes(1000)

    response = await api.client.post(
        assignment["report_to"],
        content=body(),
        headers=caller.headers | {"Content-Digest": digests.content_digest("0" * 64)},
    )

    assert_problem(response, problems.UPDATE_TOO_LARGE)
    assert len(read) < 10
    assert api.federation.state() == before


async def test_the_announced_limit_is_the_one_that_holds(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)

    for size, kind in (
        (assignment["max_report_bytes"], problems.MALFORMED_TENSORS),
        (assignment["max_report_bytes"] + 1, problems.UPDATE_TOO_LARGE),
    ):
        response = await api.submit(caller, assignment, b"\xff" * size)
        assert_problem(response, kind)


async def test_a_body_that_breaks_off_leaves_nothing(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()
    sent: Iterator[MutableMapping[str, Any]] = iter(
        [
            {"type": "http.request", "body": BODY[:100], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> MutableMapping[str, Any]:
        return next(sent)

    async def send(_: Mapping[str, Any]) -> None:
        return None

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": assignment["report_to"],
        "raw_path": assignment["report_to"].encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"authorization", caller.headers["authorization"].encode()),
            (b"content-digest", digests.content_digest("0" * 64).encode()),
        ],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    (outcome,) = await asyncio.gather(
        api.app(scope, receive, send), return_exceptions=True
    )

    assert outcome is None or type(outcome).__name__ == "ClientDisconnect"
    assert api.federation.state() == before
