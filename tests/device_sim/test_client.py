"""What the HTTP client repeats, how long it waits, and which bytes it believes."""

import email.utils
import json
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pytest

from coordinator.protocol import digests, messages, paths, problems
from device_sim import client, identity

Handler = Callable[[httpx.Request], httpx.Response]
PHONE = identity.Bearer("t")
ENROLMENT = {"device_id": "0" * 32, "token": "secret"}
CONTENT = b"immutable bytes"


class ManualTime:
    """A clock that only sleeping turns on."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def calls_to(handler: Handler, time: ManualTime) -> client.Client:
    http = httpx.AsyncClient(
        base_url="http://coordinator.test", transport=httpx.MockTransport(handler)
    )
    return client.Client(
        http,
        jitter=np.random.default_rng(1),
        sleep=time.sleep,
        monotonic=time.monotonic,
    )


def in_turn(*answers: httpx.Response | Exception) -> tuple[Handler, list[bytes]]:
    """Answer with each in turn; the second value collects the bodies that came."""
    left = list(answers)
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        now = left.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    return answer, bodies


async def streamed(content: bytes) -> AsyncIterator[bytes]:
    yield content


def problem(kind: problems.ProblemType, **fields: str) -> httpx.Response:
    return httpx.Response(
        int(kind.status), json=problems.document(kind), headers=fields
    )


async def test_a_lost_connection_and_a_broken_server_are_tried_again():
    handler, bodies = in_turn(
        httpx.ConnectError("no route"),
        httpx.Response(502, text="<html>bad gateway</html>"),
        problem(problems.UNAVAILABLE),
        httpx.Response(201, json=ENROLMENT),
    )
    time = ManualTime()
    enrolment = await calls_to(handler, time).enrol(messages.EnrolRequest())
    assert enrolment.device_id == ENROLMENT["device_id"]
    assert len(time.slept) == 3
    assert len(set(bodies)) == 1, "a repetition must be the same request"


async def test_backoff_is_jittered_and_bounded_by_a_growing_ceiling():
    handler, _ = in_turn(
        *[httpx.ConnectError("no route")] * 9, httpx.Response(201, json=ENROLMENT)
    )
    time = ManualTime()
    await calls_to(handler, time).enrol(messages.EnrolRequest())
    ceilings = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]
    assert all(
        0 <= wait <= ceiling for wait, ceiling in zip(time.slept, ceilings, strict=True)
    )
    assert len(set(time.slept)) == 9


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"Retry-After": "7"}, 7),
        (
            {
                "Retry-After": email.utils.formatdate(1_000_030, usegmt=True),
                "Date": email.utils.formatdate(1_000_000, usegmt=True),
            },
            30,
        ),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-5"}, 0),
    ],
)
async def test_retry_after_is_waited_for(fields: dict[str, str], least: float):
    handler, _ = in_turn(
        problem(problems.UNAVAILABLE, **fields), httpx.Response(201, json=ENROLMENT)
    )
    time = ManualTime()
    await calls_to(handler, time).enrol(messages.EnrolRequest())
    assert least <= time.slept[0] <= least + 0.2


@pytest.mark.parametrize("seconds", ["-1e9", "NaN", "Infinity", '"x"'])
async def test_a_wait_in_a_problem_that_is_none_is_passed_over(seconds: str):
    body = json.dumps(problems.document(problems.UNAVAILABLE))
    broken = body[:-1] + f', "retry_after_s": {seconds}}}'
    handler, _ = in_turn(
        httpx.Response(503, text=broken), httpx.Response(201, json=ENROLMENT)
    )
    time = ManualTime()
    await calls_to(handler, time).enrol(messages.EnrolRequest())
    assert 0 <= time.slept[0] <= 0.2


@pytest.mark.parametrize("seconds", ["-1", "NaN", "Infinity"])
async def test_a_check_in_whose_wait_is_none_is_unexpected(seconds: str):
    text = '{"assignment": null, "wait_reason": "round_full", "retry_after_s": %s}'
    handler, _ = in_turn(httpx.Response(200, text=text % seconds))
    with pytest.raises(client.UnexpectedAnswer):
        await calls_to(handler, ManualTime()).check_in(
            identity.Bearer("t"), key="k", wait_s=0
        )


async def test_a_deadline_ends_the_repetitions_without_sleeping_past_it():
    handler, bodies = in_turn(*[httpx.ConnectError("no route")] * 100)
    time = ManualTime()
    with pytest.raises(client.Unreachable, match=r"ConnectError no route"):
        await calls_to(handler, time).send_update(
            PHONE, "/u", body=b"x", sha256="0" * 64, deadline=103.0
        )
    assert time.now_s <= 103.0
    assert len(bodies) == len(time.slept) + 1


async def test_a_refusal_that_stays_is_raised_at_once_with_its_type():
    handler, bodies = in_turn(problem(problems.LEASE_LAPSED))
    time = ManualTime()
    with pytest.raises(client.Refused) as refusal:
        await calls_to(handler, time).send_update(
            PHONE, "/u", body=b"x", sha256="0" * 64, deadline=200.0
        )
    assert refusal.value.is_of(problems.ROUND_CLOSED, problems.LEASE_LAPSED)
    assert not refusal.value.is_of(problems.ROUND_CLOSED)
    assert (len(bodies), time.slept) == (1, [])


async def test_a_refusal_that_is_no_problem_document_is_raised_too():
    handler, _ = in_turn(httpx.Response(404, text="<html>nothing</html>"))
    with pytest.raises(client.Refused, match="Not Found"):
        await calls_to(handler, ManualTime()).enrol(messages.EnrolRequest())


async def test_an_answer_of_another_form_is_said_to_be_one():
    handler, _ = in_turn(httpx.Response(200, text="<html>log in</html>"))
    with pytest.raises(client.UnexpectedAnswer, match="log in"):
        await calls_to(handler, ManualTime()).enrol(messages.EnrolRequest())


async def test_an_update_names_its_digest_and_type():
    seen: list[httpx.Request] = []
    receipt = {
        "assignment": "0" * 32,
        "sha256": digests.sha256_hex(b"body"),
        "size_bytes": 4,
        "examples": 1,
        "accepted_at": "2026-01-01T00:00:00Z",
    }

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=receipt)

    calls = calls_to(answer, ManualTime())
    sha256 = digests.sha256_hex(b"body")
    await calls.send_update(PHONE, "/u", body=b"body", sha256=sha256, deadline=200.0)
    headers = seen[0].headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Authorization"] == "Bearer t"
    assert digests.parse_content_digest(headers["Content-Digest"]) == sha256
    assert calls.traffic.bytes_up == 4


async def test_a_download_with_a_wrong_digest_is_fetched_again():
    handler, _ = in_turn(
        httpx.Response(200, content=streamed(CONTENT[:-1])),  # cut short
        httpx.Response(200, content=streamed(b"I" + CONTENT[1:])),  # changed
        httpx.Response(200, content=streamed(CONTENT)),
    )
    calls = calls_to(handler, ManualTime())
    fetched = await calls.fetch("/w", sha256=digests.sha256_hex(CONTENT))
    assert fetched == CONTENT
    assert calls.traffic.bytes_down == 3 * len(CONTENT) - 1


async def test_a_download_that_never_has_its_digest_is_corrupt():
    handler, bodies = in_turn(*[httpx.Response(200, content=b"no")] * 9)
    with pytest.raises(client.CorruptDownload, match="3 times"):
        await calls_to(handler, ManualTime()).fetch(
            "/w", sha256=digests.sha256_hex(CONTENT)
        )
    assert len(bodies) == 3


async def test_a_download_that_never_ends_is_not_read_to_its_end():
    parts_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal parts_read
        while True:
            parts_read += 1
            yield b"x" * 1000

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=endless())

    with pytest.raises(client.CorruptDownload):
        await calls_to(answer, ManualTime()).fetch(
            "/w", sha256="0" * 64, size_bytes=5000
        )
    assert parts_read <= 3 * 6


async def test_a_lost_download_is_fetched_again():
    handler, _ = in_turn(
        httpx.RemoteProtocolError("peer closed connection"),
        httpx.Response(503),
        httpx.Response(200, content=CONTENT),
    )
    calls = calls_to(handler, ManualTime())
    assert await calls.fetch("/w", sha256=digests.sha256_hex(CONTENT)) == CONTENT


@pytest.mark.parametrize("field", ["Content-Digest", "Repr-Digest"])
async def test_without_a_known_digest_the_announced_one_counts(field: str):
    announced = {field: digests.content_digest(digests.sha256_hex(CONTENT))}
    handler, _ = in_turn(
        httpx.Response(200, content=b"changed", headers=announced),
        httpx.Response(200, content=CONTENT, headers=announced),
    )
    assert await calls_to(handler, ManualTime()).fetch("/w") == CONTENT


async def test_bytes_that_nobody_vouches_for_are_not_believed():
    silent, _ = in_turn(*[httpx.Response(200, content=CONTENT)] * 3)
    with pytest.raises(client.CorruptDownload):
        await calls_to(silent, ManualTime()).fetch("/w")


async def test_a_check_in_sends_its_idempotency_key():
    seen: list[httpx.Request] = []
    nothing = {"assignment": None, "wait_reason": "round_full", "retry_after_s": 1.5}

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=nothing)

    calls = calls_to(answer, ManualTime())
    assert (
        await calls.check_in(identity.Bearer("t"), key="k1", wait_s=10)
    ).retry_after_s == 1.5
    assert seen[0].headers["Idempotency-Key"] == "k1"
    assert seen[0].url.path == paths.CHECK_INS
    assert messages.CheckInRequest.model_validate_json(seen[0].content).wait_s == 10
