"""A simulated device sends again only what is missing."""

import httpx
import numpy as np
import pytest

from coordinator.protocol import digests, paths, problems, uploads
from device_sim import behaviour, client, identity
from device_sim.uploads import RESUMED_FROM
from tests.device_sim.test_client import ManualTime, problem

PHONE = identity.Bearer("t")
PATH = paths.update("0" * 32)
BODY = np.random.default_rng(3).bytes(2 * RESUMED_FROM)
SHA256 = digests.sha256_hex(BODY)
RECEIPT = {
    "assignment": "0" * 32,
    "sha256": SHA256,
    "size_bytes": len(BODY),
    "examples": 1,
    "accepted_at": "2026-01-01T00:00:00Z",
}
DONE = httpx.Response(200, json=RECEIPT)
LOST = httpx.ReadError("gone")


def at(offset: int) -> httpx.Response:
    return httpx.Response(204, headers={uploads.OFFSET: str(offset)})


class Script:
    """Answers in turn, and notes what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._left = list(answers)
        self.asked: list[tuple[str, int]] = []
        self.requests: list[httpx.Request] = []
        self.time = ManualTime()
        http = httpx.AsyncClient(
            base_url="http://coordinator.test",
            transport=httpx.MockTransport(self._answer),
        )
        self.calls = client.Client(
            http,
            jitter=np.random.default_rng(1),
            sleep=self.time.sleep,
            monotonic=self.time.monotonic,
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked.append((request.method, len(request.content)))
        now = self._left.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    async def send(self, body: bytes = BODY) -> None:
        receipt = await self.calls.send_update(
            PHONE,
            PATH,
            body=body,
            sha256=digests.sha256_hex(body),
            deadline=self.time.now_s + 60,
        )
        assert receipt.sha256 == SHA256
        assert self._left == []


async def test_where_nothing_breaks_one_request_is_sent() -> None:
    script = Script(DONE)
    await script.send()
    assert script.asked == [("POST", len(BODY))]
    assert script.requests[0].headers[uploads.COMPLETE] == "?1"


async def test_after_a_break_only_what_is_missing_is_sent() -> None:
    script = Script(LOST, at(9000), LOST, LOST, at(20_000), DONE)
    await script.send()
    rest = len(BODY) - 9000, len(BODY) - 20_000
    assert script.asked == [
        ("POST", len(BODY)),
        ("HEAD", 0),
        ("PATCH", rest[0]),
        ("HEAD", 0),
        ("HEAD", 0),
        ("PATCH", rest[1]),
    ]
    last = script.requests[-1]
    assert last.url.path == paths.upload(PATH, SHA256)
    assert last.content == BODY[20_000:]
    assert last.headers[uploads.OFFSET] == "20000"
    assert last.headers[uploads.COMPLETE] == "?1"
    assert last.headers["Content-Type"] == uploads.MEDIA_TYPE
    assert digests.parse_content_digest(
        last.headers[digests.FIELD]
    ) == digests.sha256_hex(BODY[20_000:])
    assert script.calls.traffic.bytes_up == len(BODY) + sum(rest)


async def test_a_lost_answer_costs_no_second_body() -> None:
    script = Script(LOST, at(len(BODY)), DONE)
    await script.send()
    assert script.asked == [("POST", len(BODY)), ("HEAD", 0), ("PATCH", 0)]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404),
        httpx.Response(405),
        httpx.Response(204),
        at(len(BODY) + 1),
    ],
)
async def test_where_nothing_is_kept_all_is_sent_again(answer: httpx.Response) -> None:
    script = Script(LOST, answer, DONE)
    await script.send()
    assert script.asked == [("POST", len(BODY)), ("HEAD", 0), ("POST", len(BODY))]


async def test_short_bodies_are_sent_again_at_once() -> None:
    script = Script(LOST, DONE)
    await script.send(BODY[: RESUMED_FROM - 1])
    assert [method for method, _ in script.asked] == ["POST", "POST"]
    assert uploads.COMPLETE not in script.requests[0].headers


async def test_a_busy_coordinator_is_asked_what_came_in() -> None:
    busy = problem(problems.UNAVAILABLE, **{"Retry-After": "3"})
    script = Script(busy, httpx.Response(503), at(100), DONE)
    await script.send()
    assert [method for method, _ in script.asked] == ["POST", "HEAD", "HEAD", "PATCH"]
    assert script.time.slept[0] >= 3


async def test_a_part_at_the_wrong_place_is_followed_by_a_question() -> None:
    script = Script(LOST, at(5), problem(problems.MISMATCHING_OFFSET), at(50), DONE)
    await script.send()
    assert script.asked[-1] == ("PATCH", len(BODY) - 50)
    assert len(script.time.slept) == 2, "no hurry"


@pytest.mark.parametrize(
    "kind", [problems.UPLOAD_UNKNOWN, problems.DIGEST_MISMATCH], ids=lambda k: k.slug
)
async def test_parts_that_are_of_no_use_are_sent_again(
    kind: problems.ProblemType,
) -> None:
    script = Script(LOST, at(5), problem(kind), DONE)
    await script.send()
    assert script.asked[-1] == ("POST", len(BODY))


async def test_a_refusal_of_the_last_part_is_one_of_the_update() -> None:
    script = Script(LOST, at(5), problem(problems.LEASE_LAPSED))
    with pytest.raises(client.Refused) as refused:
        await script.send()
    assert refused.value.is_of(problems.LEASE_LAPSED)


async def test_a_whole_body_with_a_wrong_digest_is_refused() -> None:
    script = Script(problem(problems.DIGEST_MISMATCH))
    with pytest.raises(client.Refused):
        await script.send()


def test_a_seed_decides_which_bodies_break_off_and_where() -> None:
    habits = behaviour.Behaviour(devices=2, flaky=0.5, seed=4)
    first, again, other = (habits.network(device) for device in (0, 0, 1))
    cuts = [first(1000) for _ in range(400)]
    assert cuts == [again(1000) for _ in range(400)]
    assert cuts != [other(1000) for _ in range(400)]
    broken = [cut for cut in cuts if cut is not None]
    assert 150 < len(broken) < 250
    assert min(broken) >= 0
    assert max(broken) < 1000
    assert first(0) is None
    steady = behaviour.Behaviour(devices=2).network(0)
    assert {steady(1000) for _ in range(100)} == {None}
    with pytest.raises(ValueError, match="flaky"):
        behaviour.Behaviour(devices=2, flaky=1.0)
