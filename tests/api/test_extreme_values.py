"""Values at the edge of what JSON can say: refused or taken, never a failure.

On both databases, because they differ in what they can store.
"""

import pytest

from coordinator.protocol import paths, problems
from coordinator.protocol.encodings import MAX_EXAMPLES, MAX_LOSS
from coordinator.protocol.plan_rounds import EvaluationPlan
from tests.support.databases import ON_BOTH
from tests.support.federation import plan
from tests.support.http import Api, Stream, assert_problem
from tests.support.models import update_body

HUGE_NUMBER = 2**70
SCORE = {"examples": 10, "loss": 1.0, "accuracy": 0.5}


@pytest.fixture(params=ON_BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.mark.parametrize(
    "name",
    ["a\0b", "\U0001f4f1" * 80, "a'; DROP TABLE x; --"],
    ids=["zero byte", "phones", "quotes"],
)
async def test_any_name_is_taken_or_refused(api: Api, name: str) -> None:
    response = await api.client.post(paths.DEVICES, json={"name": name})

    if response.status_code != 201:
        assert_problem(response, problems.INVALID_REQUEST)
        return
    listed = await api.client.get(paths.DEVICES, headers=api.operator)
    assert [device["name"] for device in listed.json()["devices"]] == [name]


async def test_any_detail_of_a_failure_is_taken_or_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)

    response = await api.client.post(
        assignment["failure_to"],
        headers=caller.headers,
        json={"reason": "runtime_error", "detail": "a\0b"},
    )

    if response.status_code != 200:
        assert_problem(response, problems.INVALID_REQUEST)


async def test_any_key_is_taken_or_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()

    for key in (b"\xff" * 64, "schlüssel".encode(), b"a'b\"c"):
        response = await api.client.post(
            paths.CHECK_INS,
            headers=[
                (b"Authorization", caller.headers["authorization"].encode()),
                (b"Idempotency-Key", key),
            ],
            json={},
        )
        assert response.status_code == 200, response.text


async def test_any_token_is_refused(api: Api) -> None:
    for token in (b"\xff" * 10, b"a" * 10_000, "schlüssel".encode()):
        response = await api.client.get(
            paths.TASKS, headers=[(b"Authorization", b"Bearer " + token)]
        )
        assert_problem(response, problems.UNAUTHENTICATED)


@pytest.mark.parametrize(
    "body",
    [
        {"version": HUGE_NUMBER, "score": SCORE},
        {"version": 0, "score": SCORE | {"examples": HUGE_NUMBER}},
    ],
)
async def test_a_figure_out_of_range_is_refused(
    api: Api, body: dict[str, object]
) -> None:
    api.federation.start()
    before = api.federation.state()

    response = await api.client.post(
        paths.metrics("task"), headers=api.operator, json=body
    )

    assert response.status_code in {404, 422}, response.text
    assert api.federation.state() == before


@pytest.mark.parametrize("field", ["query", "header"])
async def test_a_position_out_of_range_is_refused(api: Api, field: str) -> None:
    api.federation.start()
    path = f"{paths.EVENTS}?after={HUGE_NUMBER}" if field == "query" else paths.EVENTS
    headers = {} if field == "query" else {"Last_Event_ID": str(HUGE_NUMBER)}

    async with Stream(api.app, path, **api.operator, **headers) as stream:
        assert stream.status == 422


async def test_a_device_cannot_break_the_metrics(api: Api) -> None:
    api.federation.start(settings=plan(goal=1))
    body = update_body([0.0] * 10, examples=10, train_loss=MAX_LOSS)
    api.federation.submit(api.federation.lease(), body)
    api.federation.release(api.federation.must_claim())

    for path in (
        paths.TASKS,
        paths.task("task"),
        paths.rounds("task"),
        paths.metrics("task"),
    ):
        response = await api.client.get(path, headers=api.operator)
        assert response.status_code == 200, path


async def test_devices_cannot_break_the_rounds(api: Api) -> None:
    evaluation = EvaluationPlan(every=1, goal=3)
    api.federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    api.federation.take_part()
    api.federation.release(api.federation.must_claim())
    for _ in range(2):
        api.federation.evaluate(
            api.federation.lease(), loss_sum=MAX_LOSS * MAX_EXAMPLES
        )

    for path in (paths.TASKS, paths.task("task"), paths.rounds("task")):
        response = await api.client.get(path, headers=api.operator)
        assert response.status_code == 200, path
