"""Enrol, check in, evaluate, give up."""

import asyncio
import math
from typing import Any

import pytest

from coordinator.protocol import digests, paths, problems
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_training import TrainingPlan, UpdatePlan
from coordinator.usecases import tasks
from tests.support.federation import plan
from tests.support.http import PATIENCE_S, Api, Caller, assert_problem
from tests.support.models import TRAIN, update_body


async def test_a_device_enrols_and_its_token_works(api: Api) -> None:
    api.federation.start()

    response = await api.client.post(
        paths.DEVICES,
        json={"name": "pixel", "capabilities": {"runtime_version": "2.1"}},
    )

    assert response.status_code == 201
    content = response.json()
    assert set(content) == {"device_id", "token", "auth"}
    caller = Caller(id=content["device_id"], token=content["token"])
    assert (await api.check_in(caller)).json()["assignment"] is not None
    assert content["token"] not in repr(api.federation.rows())


async def test_two_enrolments_are_two_devices(api: Api) -> None:
    responses = [await api.client.post(paths.DEVICES, json={}) for _ in range(2)]

    assert len({response.json()["device_id"] for response in responses}) == 2
    assert len({response.json()["token"] for response in responses}) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"name"',
        b"\xff\xfe",
        b'{"name": 5}',
        b'{"name": "%s"}' % (b"a" * 81),
        b'{"unknown": 1}',
        b'{"capabilities": {"encodings": []}}',
        b'{"capabilities": {"encodings": ["f64"]}}',
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
    ],
)
async def test_an_enrolment_of_another_form_is_refused(api: Api, body: bytes) -> None:
    before = api.federation.state()

    response = await api.client.post(
        paths.DEVICES, content=body, headers={"Content-Type": "application/json"}
    )

    assert_problem(response, problems.INVALID_REQUEST)
    assert api.federation.state() == before


async def test_a_refused_form_names_its_fields(api: Api) -> None:
    response = await api.client.post(
        paths.DEVICES, json={"name": 5, "capabilities": {"runtime": ["litert"]}}
    )

    document = assert_problem(response, problems.INVALID_REQUEST)
    assert [fault["field"] for fault in document["errors"]] == [
        "body.name",
        "body.capabilities.runtime",
    ]
    assert "body.name" in document["detail"]


async def test_an_assignment_says_all_that_a_device_must_know(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    api.federation.clock.advance(100)

    response = await api.check_in(caller)

    assert response.status_code == 200
    answer = response.json()
    assignment = answer["assignment"]
    assert (answer["wait_reason"], answer["retry_after_s"]) == (None, None)
    assert "Retry-After" not in response.headers
    assert {
        name: assignment[name]
        for name in ("kind", "task", "round", "attempt", "model", "version", "seed")
    } == {
        "kind": "train",
        "task": "task",
        "round": 1,
        "attempt": 1,
        "model": "tiny",
        "version": 0,
        "seed": 7,
    }
    assert assignment["training"]["batch_size"] == 20
    assert assignment["lease_s"] == pytest.approx(20)
    assert assignment["lease_expires_at"] == "2026-01-01T12:02:00Z"
    assert assignment["report_to"] == paths.update(assignment["id"])
    assert assignment["failure_to"] == paths.failure(assignment["id"])
    assert assignment["train_graph"]["sha256"] == digests.sha256_hex(TRAIN)


async def test_a_device_is_asked_for_the_learning_rate_of_its_round(api: Api) -> None:
    training = TrainingPlan(learning_rate=0.4, warmup_rounds=4)
    api.federation.start(settings=plan(training=training))
    assignment = (await api.check_in(api.enrol())).json()["assignment"]
    assert assignment["training"]["learning_rate"] == pytest.approx(0.1)
    assert assignment["training"]["warmup_rounds"] == 0


@pytest.mark.parametrize(
    ("known", "given"),
    [(None, "f32"), ([], "f32"), (["f16"], "f32"), (["f16", "topk"], "topk")],
)
async def test_a_device_is_asked_for_an_encoding_that_it_can_write(
    api: Api, known: list[str] | None, given: str
) -> None:
    update = UpdatePlan(encoding="topk", topk_share=0.2)
    api.federation.start(settings=plan(update=update))
    response = await api.check_in(api.enrol(), encodings=known)
    assignment = response.json()["assignment"]
    assert assignment["encoding"] == given
    assert assignment["topk_share"] == (0.2 if given == "topk" else None)
    assert assignment["error_feedback"] is (given == "topk")


async def test_every_download_of_an_assignment_is_what_it_says(api: Api) -> None:
    api.federation.start()
    assignment = await api.lease(api.enrol())

    for name in ("manifest", "train_graph", "weights"):
        download = assignment[name]
        response = await api.client.get(download["url"])
        assert response.status_code == 200
        assert len(response.content) == download["size_bytes"]
        assert digests.sha256_hex(response.content) == download["sha256"]


async def test_the_same_key_gets_the_same_assignment(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()

    answers = [await api.check_in(caller, key="the key") for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert len(api.federation.rows()["assignments"]) == 1


async def test_a_key_of_an_ended_assignment_is_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    await api.check_in(caller, key="the key")
    api.federation.clock.advance(60)
    before = api.federation.state()

    response = await api.check_in(caller, key="the key")

    assert_problem(response, problems.IDEMPOTENCY_KEY_REUSED)
    assert api.federation.state() == before


@pytest.mark.parametrize("key", [None, "", "k" * 65])
async def test_a_check_in_needs_a_key(api: Api, key: str | None) -> None:
    caller = api.enrol()
    headers = caller.headers | ({} if key is None else {"Idempotency-Key": key})
    before = api.federation.state()

    response = await api.client.post(paths.CHECK_INS, headers=headers, json={})

    assert_problem(response, problems.IDEMPOTENCY_KEY_NEEDED)
    assert api.federation.state() == before


@pytest.mark.parametrize("wait_s", ["-1", "61", "NaN", "Infinity", '"long"', "null"])
async def test_a_wait_out_of_range_is_refused(api: Api, wait_s: str) -> None:
    caller = api.enrol()

    response = await api.client.post(
        paths.CHECK_INS,
        headers=caller.headers
        | {"Idempotency-Key": "key", "Content-Type": "application/json"},
        content=f'{{"wait_s": {wait_s}}}',
    )

    assert_problem(response, problems.INVALID_REQUEST)


async def test_without_work_the_device_is_told_how_long_to_wait(api: Api) -> None:
    caller = api.enrol()

    waits: list[float] = []
    for _ in range(20):
        response = await api.check_in(caller)
        answer = response.json()
        assert answer["assignment"] is None
        assert answer["wait_reason"] == "no_open_round"
        assert int(response.headers["Retry-After"]) == max(
            1, round(answer["retry_after_s"])
        )
        waits.append(answer["retry_after_s"])

    now_s = api.federation.clock.now().timestamp()
    gathering = math.ceil(now_s / 5 + 0.25) * 5  # not before a quarter of the time
    assert all(gathering <= now_s + wait < gathering + 1 for wait in waits)
    assert len(set(waits)) > 1


async def test_more_devices_than_a_second_has_places_for_come_in_the_next(
    api: Api,
) -> None:
    api.federation.start(settings=plan(goal=1))
    api.federation.lease()
    caller = api.enrol()

    waits = [(await api.check_in(caller)).json()["retry_after_s"] for _ in range(31)]

    # 30 a second: three times 50, the least that is reckoned with, in 5 seconds.
    assert max(waits[:30]) - min(waits[:30]) < 1
    assert math.floor(waits[30]) == math.floor(min(waits[:30])) + 1


async def test_a_waiting_device_is_answered_as_soon_as_a_round_opens(api: Api) -> None:
    api.federation.register()
    caller = api.enrol()

    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(api.check_in(caller, wait_s=60))
        await api.watcher.somebody_waits.wait()
        assert not waiting.done()
        await asyncio.to_thread(api.federation.start)
        response = await waiting

    assert response.json()["assignment"]["round"] == 1


async def test_a_waiting_device_is_answered_as_soon_as_a_place_is_free(
    api: Api,
) -> None:
    api.federation.start(settings=plan(goal=1))
    holder = api.federation.lease()
    caller = api.enrol()

    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(api.check_in(caller, wait_s=60))
        await api.watcher.somebody_waits.wait()
        await asyncio.to_thread(api.federation.give_up, holder)
        response = await waiting

    assert response.json()["assignment"] is not None


async def test_a_waiting_device_is_told_when_the_last_task_ends(api: Api) -> None:
    api.federation.start(settings=plan(goal=1))
    api.federation.lease()
    caller = api.enrol()

    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(api.check_in(caller, wait_s=60))
        await api.watcher.somebody_waits.wait()
        await asyncio.to_thread(
            tasks.stop,
            api.federation.store,
            task_id="task",
            now=api.federation.clock.now(),
        )
        response = await waiting

    assert response.json()["wait_reason"] == "tasks_ended"


async def test_a_wait_ends_in_time(api: Api) -> None:
    caller = api.enrol()

    async with asyncio.timeout(PATIENCE_S):
        response = await api.check_in(caller, wait_s=0.01)

    assert response.json()["wait_reason"] == "no_open_round"


async def test_waiting_devices_are_let_go_when_the_server_stops(api: Api) -> None:
    caller = api.enrol()

    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(api.check_in(caller, wait_s=60))
        await api.watcher.somebody_waits.wait()
        api.watcher.stop_soon()
        response = await waiting

    assert response.json()["wait_reason"] == "no_open_round"


async def test_a_device_token_is_needed_to_check_in(api: Api) -> None:
    api.federation.start()
    before = api.federation.state()
    for headers in ({}, {"Authorization": "Bearer unknown"}, api.operator):
        response = await api.client.post(
            paths.CHECK_INS, headers=headers | {"Idempotency-Key": "key"}, json={}
        )
        assert_problem(response, problems.UNAUTHENTICATED)
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert api.federation.state() == before


async def evaluation(
    api: Api, caller: Caller, *, personalize_epochs: int = 0
) -> dict[str, Any]:
    """Lease the evaluation of the only version to a device."""
    asked = EvaluationPlan(every=1, goal=3, personalize_epochs=personalize_epochs)
    training = TrainingPlan(learning_rate=0.4, warmup_rounds=4)
    settings = plan(goal=1, rounds=1, evaluation=asked, training=training)
    api.federation.start(settings=settings)
    api.federation.take_part()
    api.federation.release(api.federation.must_claim())
    return await api.lease(caller)


SUMS = {"examples": 10, "loss_sum": 5.0, "correct": 7}


async def test_an_evaluation_is_accepted_once(api: Api) -> None:
    caller = api.enrol()
    assignment = await evaluation(api, caller)
    assert (assignment["kind"], assignment["training"]) == ("evaluate", None)
    assert (assignment["personalization"], assignment["signature"]) == (None, None)
    assert assignment["report_to"] == paths.evaluation(assignment["id"])

    receipts = [
        await api.client.post(
            assignment["report_to"], headers=caller.headers, json=SUMS
        )
        for _ in range(2)
    ]

    assert [receipt.status_code for receipt in receipts] == [200, 200]
    assert receipts[0].json() == receipts[1].json()
    before = api.federation.state()
    response = await api.client.post(
        assignment["report_to"], headers=caller.headers, json=SUMS | {"correct": 8}
    )
    assert_problem(response, problems.ALREADY_REPORTED)
    assert api.federation.state() == before


async def test_a_device_is_told_how_to_fine_tune_and_reports_both_scores(
    api: Api,
) -> None:
    caller = api.enrol()
    assignment = await evaluation(api, caller, personalize_epochs=4)
    asked = TrainingPlan(learning_rate=0.1, epochs=4)  # the rate that its round had

    assert assignment["training"] is None
    assert assignment["personalization"] == asked.model_dump()
    assert assignment["signature"] == asked.signature
    response = await api.client.post(
        assignment["report_to"],
        headers=caller.headers,
        json=SUMS | {"personalized": {"loss_sum": 1.0, "correct": 10}},
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (
            {"personalized": {"loss_sum": 1.0, "correct": 5}},  # nobody asked
            problems.INVALID_EVALUATION,
        ),
        ({"personalized": {"loss_sum": 1.0}}, problems.INVALID_REQUEST),
        ({"correct": 11}, problems.INVALID_EVALUATION),
        ({"correct": -1}, problems.INVALID_REQUEST),
        ({"examples": 0, "correct": 0}, problems.INVALID_REQUEST),
        ({"examples": 2**28 + 1}, problems.INVALID_REQUEST),
        ({"loss_sum": -0.1}, problems.INVALID_REQUEST),
        ({"loss_sum": "low"}, problems.INVALID_REQUEST),
        ({"more": 1}, problems.INVALID_REQUEST),
    ],
)
async def test_bad_sums_are_refused_and_change_nothing(
    api: Api, change: dict[str, object], kind: problems.ProblemType
) -> None:
    caller = api.enrol()
    assignment = await evaluation(api, caller)
    before = api.federation.state()

    response = await api.client.post(
        assignment["report_to"], headers=caller.headers, json=SUMS | change
    )

    assert_problem(response, kind)
    assert api.federation.state() == before


async def test_a_result_of_another_kind_is_refused(api: Api) -> None:
    caller = api.enrol()
    assignment = await evaluation(api, caller)
    before = api.federation.state()

    response = await api.submit(
        caller, {"report_to": paths.update(assignment["id"])}, b"body"
    )

    assert_problem(response, problems.WRONG_KIND)
    assert api.federation.state() == before


async def test_a_device_gives_up_once(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    report = {"reason": "out_of_memory", "detail": "at batch 3"}

    first = await api.client.post(
        assignment["failure_to"], headers=caller.headers, json=report
    )
    before = api.federation.state()
    again = await api.client.post(
        assignment["failure_to"], headers=caller.headers, json=report
    )

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert first.json()["ended_at"] == "2026-01-01T12:00:00Z"
    assert api.federation.state() == before
    assert "at batch 3" in repr(before)


async def test_bad_failures_are_refused_and_change_nothing(api: Api) -> None:
    api.federation.start()
    caller, thief = api.enrol(), api.enrol()
    assignment = await api.lease(caller)
    before = api.federation.state()
    fair = {"reason": "interrupted"}
    unknown = paths.failure("f" * 32)

    for path, who, body, kind in (
        (assignment["failure_to"], caller, {}, problems.INVALID_REQUEST),
        (
            assignment["failure_to"],
            caller,
            {"reason": "bored"},
            problems.INVALID_REQUEST,
        ),
        (
            assignment["failure_to"],
            caller,
            fair | {"detail": "d" * 501},
            problems.INVALID_REQUEST,
        ),
        (assignment["failure_to"], thief, fair, problems.FOREIGN_ASSIGNMENT),
        (unknown, caller, fair, problems.ASSIGNMENT_UNKNOWN),
    ):
        response = await api.client.post(path, headers=who.headers, json=body)
        assert_problem(response, kind)
    response = await api.client.post(assignment["failure_to"], json=fair)
    assert_problem(response, problems.UNAUTHENTICATED)
    api.federation.clock.advance(60)
    response = await api.client.post(
        assignment["failure_to"], headers=caller.headers, json=fair
    )
    assert_problem(response, problems.LEASE_LAPSED)
    assert api.federation.state() == before


async def test_a_failure_after_the_result_is_refused(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    await api.submit(caller, assignment, update_body([1.0] * 10))
    before = api.federation.state()

    response = await api.client.post(
        assignment["failure_to"],
        headers=caller.headers,
        json={"reason": "interrupted"},
    )

    assert_problem(response, problems.ALREADY_REPORTED)
    assert api.federation.state() == before
