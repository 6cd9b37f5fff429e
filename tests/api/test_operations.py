"""The operator's routes, and what everybody gets when nothing fits."""

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.protocol import paths, problems
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.store.engine import Store
from coordinator.usecases import tasks
from tests.support.federation import Federation, plan
from tests.support.http import Api, Stream, assert_problem, serve

OPERATOR_ROUTES = [
    ("GET", paths.DEVICES),
    ("GET", paths.MODELS),
    ("GET", paths.TASKS),
    ("POST", paths.TASKS),
    ("GET", paths.task("task")),
    ("POST", paths.task("task") + "/stop"),
    ("GET", paths.rounds("task")),
    ("GET", paths.metrics("task")),
    ("POST", paths.metrics("task")),
    ("GET", paths.privacy("task")),
    ("GET", paths.EVENTS),
    ("GET", paths.METRICS),
]
BODIES: dict[str, dict[str, Any]] = {
    paths.TASKS: {"id": "new", "plan": {"model": "tiny"}},
    paths.metrics("task"): {
        "version": 0,
        "score": {"examples": 10, "loss": 1.0, "accuracy": 0.5},
    },
}


def drop(federation: Federation, table: str) -> None:
    """Break the database, as far as a table goes."""
    with federation.store.engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {table}"))


@pytest.mark.parametrize(("method", "path"), OPERATOR_ROUTES)
async def test_operating_needs_the_operators_token(
    api: Api, method: str, path: str
) -> None:
    api.federation.start()
    device = api.enrol()
    before = api.federation.state()

    for headers, kind in (
        ({}, problems.UNAUTHENTICATED),
        ({"authorization": "Bearer unknown"}, problems.UNAUTHENTICATED),
        ({"authorization": "Bearer "}, problems.UNAUTHENTICATED),
        (device.headers, problems.FORBIDDEN),
    ):
        response = await api.client.request(
            method, path, headers=headers, json=BODIES.get(path)
        )
        assert_problem(response, kind)

    assert api.federation.state() == before


async def test_a_task_is_started_and_looked_at(api: Api) -> None:
    api.federation.register()

    response = await api.client.post(
        paths.TASKS,
        headers=api.operator,
        json={"id": "new", "plan": {"model": "tiny", "rounds": 2}},
    )

    assert response.status_code == 201
    state = response.json()
    assert (state["id"], state["status"], state["version"]) == ("new", "running", 0)
    assert state["plan"]["rounds"] == 2
    assert [round_["phase"] for round_ in state["open_rounds"]] == ["collecting"]
    looked = await api.client.get(paths.task("new"), headers=api.operator)
    assert looked.json() == state
    listed = await api.client.get(paths.TASKS, headers=api.operator)
    assert listed.json() == {"tasks": [state]}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"id": "task", "plan": {"model": "tiny"}}, problems.TASK_EXISTS),
        ({"id": "new", "plan": {"model": "none"}}, problems.MODEL_UNKNOWN),
        ({"id": "a task", "plan": {}}, problems.INVALID_REQUEST),
        ({"id": "new"}, problems.INVALID_REQUEST),
        ({"id": "new", "plan": {"rounds": 0}}, problems.INVALID_REQUEST),
        ({"id": "new", "plan": {"round": {"goal": 1}}}, problems.INVALID_REQUEST),
        (
            {"id": "new", "plan": {"server": {"nesterov": True}}},
            problems.INVALID_REQUEST,
        ),
    ],
)
async def test_a_bad_task_is_refused_and_changes_nothing(
    api: Api, body: dict[str, object], kind: problems.ProblemType
) -> None:
    api.federation.start()
    before = api.federation.state()

    response = await api.client.post(paths.TASKS, headers=api.operator, json=body)

    assert_problem(response, kind)
    assert api.federation.rows() == before[0]


async def test_a_task_is_stopped_once(api: Api) -> None:
    api.federation.start()
    stop = paths.task("task") + "/stop"

    response = await api.client.post(stop, headers=api.operator)

    assert response.status_code == 200
    assert response.json()["status"] == "stopped"
    assert response.json()["reason"] == "an operator stopped it"
    assert response.json()["open_rounds"] == []
    before = api.federation.state()
    again = await api.client.post(stop, headers=api.operator)
    assert_problem(again, problems.TASK_ENDED)
    assert api.federation.state() == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", paths.task("none")),
        ("POST", paths.task("none") + "/stop"),
        ("GET", paths.rounds("none")),
        ("GET", paths.metrics("none")),
        ("GET", paths.privacy("none")),
        ("POST", paths.metrics("none")),
    ],
)
async def test_an_unknown_task_is_refused(api: Api, method: str, path: str) -> None:
    body = BODIES[paths.metrics("task")] if path == paths.metrics("none") else None

    response = await api.client.request(method, path, headers=api.operator, json=body)

    assert_problem(response, problems.TASK_UNKNOWN)


async def test_what_a_task_gives_away_is_stated(api: Api) -> None:
    settings = PrivacyPlan(population=100, delta=1e-5, noise_multiplier=2.0)
    api.federation.start(settings=plan(goal=1, rounds=2, privacy=settings))
    for _ in range(2):
        api.federation.take_part(examples=4)
        api.federation.release(api.federation.must_claim())

    response = await api.client.get(paths.privacy("task"), headers=api.operator)
    rounds = await api.client.get(paths.rounds("task"), headers=api.operator)
    metrics = await api.client.get(paths.metrics("task"), headers=api.operator)

    report = response.json()
    assert (report["task"], report["mechanism"]) == ("task", "central_gaussian")
    # delta 1e-5 = F(m/2 - e/m) - exp(e) F(-m/2 - e/m), m = sqrt(1, 2) / 2
    epsilons = [release["epsilon"] for release in report["releases"]]
    assert epsilons == pytest.approx([1.99309, 2.94323], rel=1e-5)
    assert report["epsilon"] == epsilons[-1]
    assert (report["delta"], report["budget"]) == (1e-5, 8.0)
    assert report["accountant"] == "dp-accounting 0.6.0 gaussian"
    for name in ("unit", "adjacency", "trusted", "observer"):
        assert report[name]
    for name in ("assumptions", "withheld", "not_covered"):
        assert len(report[name]) >= 2
    assert {r["train_loss"] for r in rounds.json()["rounds"]} == {None}
    assert {r["examples"] for r in rounds.json()["rounds"]} == {0}
    assert {v["train"] for v in metrics.json()["versions"]} == {None}


async def test_a_task_without_privacy_says_so(api: Api) -> None:
    api.federation.start()

    response = await api.client.get(paths.privacy("task"), headers=api.operator)

    report = response.json()
    assert (report["mechanism"], report["epsilon"]) == ("off", None)
    assert report["not_covered"] == [
        "everything: this task has no differential privacy"
    ]


async def test_rounds_and_metrics_are_listed(api: Api) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    settings = plan(goal=1, rounds=1, evaluation=evaluation)
    api.federation.start(settings=settings)
    api.federation.take_part(examples=4)
    api.federation.release(api.federation.must_claim())
    api.federation.evaluate(api.federation.lease())
    api.federation.release(api.federation.must_claim())

    rounds = await api.client.get(paths.rounds("task"), headers=api.operator)
    metrics = await api.client.get(paths.metrics("task"), headers=api.operator)

    training, evaluating = rounds.json()["rounds"]
    assert (training["kind"], training["phase"]) == ("train", "committed")
    assert (training["accepted"], training["examples"]) == (1, 4)
    assert training["bytes_up"] > 0
    assert (training["base_version"], training["result_version"]) == (0, 1)
    assert (evaluating["kind"], evaluating["result_version"]) == ("evaluate", None)
    first, second = metrics.json()["versions"]
    assert (first["version"], first["round"], first["train"]) == (0, None, None)
    assert second["train"] == {"examples": 4, "loss": 1.0, "accuracy": 0.5}
    assert second["federated"] == {"examples": 10, "loss": 0.5, "accuracy": 0.5}
    assert second["federated_devices"] == 1


async def test_metrics_are_distributed_over_devices(api: Api) -> None:
    evaluation = EvaluationPlan(every=1, goal=11, personalize_epochs=1)
    api.federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    api.federation.take_part()
    api.federation.release(api.federation.must_claim())
    for right in range(11):
        api.federation.evaluate(
            api.federation.lease(), correct=right, personalized=(2.5, 10)
        )
    api.federation.release(api.federation.must_claim())

    metrics = await api.client.get(paths.metrics("task"), headers=api.operator)
    versions = await api.client.get(paths.versions("tiny"), headers=api.operator)

    first, second = metrics.json()["versions"]
    assert (first["federated_distribution"], first["personalized"]) == (None, None)
    assert second["federated"]["accuracy"] == 0.5
    assert second["federated_distribution"] == pytest.approx(
        {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9}
        | {"worst_tenth": 0.05}
    )
    personalized = second["personalized"]
    assert personalized["devices"] == 11
    assert personalized["score"] == {"examples": 110, "loss": 0.25, "accuracy": 1.0}
    assert set(personalized["distribution"].values()) == {1.0}
    assert personalized["change"] == pytest.approx(
        {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9}
        | {"worst_tenth": 0.05}
    )
    listed = versions.json()["versions"][0]
    for name in ("federated", "federated_distribution", "personalized"):
        assert listed[name] == second[name]


async def test_a_held_out_figure_is_recorded(api: Api) -> None:
    api.federation.start()
    path = paths.metrics("task")

    response = await api.client.post(path, headers=api.operator, json=BODIES[path])

    assert response.status_code == 200
    assert response.json()["held_out"] == BODIES[path]["score"]
    before = api.federation.state()
    for change, kind in (
        ({"version": 5}, problems.VERSION_UNKNOWN),
        ({"version": -1}, problems.INVALID_REQUEST),
        (
            {"score": {"examples": 1, "loss": 1, "accuracy": 1.5}},
            problems.INVALID_REQUEST,
        ),
    ):
        response = await api.client.post(
            path, headers=api.operator, json=BODIES[path] | change
        )
        assert_problem(response, kind)
    assert api.federation.state() == before


async def test_models_and_devices_are_listed(api: Api) -> None:
    api.federation.start()
    work = api.federation.take_part()

    models = await api.client.get(paths.MODELS, headers=api.operator)
    devices = await api.client.get(paths.DEVICES + "?limit=1", headers=api.operator)

    (model,) = models.json()["models"]
    assert (model["id"], model["parameters"], model["versions"]) == ("tiny", 10, 1)
    assert model["newest_version"] == 0
    (device,) = devices.json()["devices"]
    assert (device["id"], device["accepted"]) == (work.assignment.device_id, 1)
    for limit in ("0", "10001", "many"):
        response = await api.client.get(
            f"{paths.DEVICES}?limit={limit}", headers=api.operator
        )
        assert_problem(response, problems.INVALID_REQUEST)


async def test_events_are_streamed_as_they_happen(api: Api) -> None:
    api.federation.register()

    async with Stream(api.app, paths.EVENTS, **api.operator) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        first = await stream.event()
        assert (first["id"], first["event"]) == ("1", "model_registered")
        assert json.loads(first["data"])["data"] == {"model": "tiny"}

        async with asyncio.timeout(20):
            await api.watcher.somebody_waits.wait()
        await asyncio.to_thread(api.federation.start)
        names = [(await stream.event())["event"] for _ in range(2)]

    assert names == ["task_created", "round_opened"]


@pytest.mark.parametrize("how", ["header", "query", "both"])
async def test_a_stream_goes_on_where_it_broke_off(api: Api, how: str) -> None:
    api.federation.start()
    query = {"header": "", "query": "?after=2", "both": "?after=1"}[how]
    headers = {} if how == "query" else {"Last_Event_ID": "2"}

    path = paths.EVENTS + query
    async with Stream(api.app, path, **api.operator, **headers) as stream:
        event = await stream.event()

    assert (event["id"], event["event"]) == ("3", "round_opened")


@pytest.mark.parametrize("last", ["-1", "first"])
async def test_a_position_of_another_form_is_refused(api: Api, last: str) -> None:
    for path, headers in (
        (f"{paths.EVENTS}?after={last}", {}),
        (paths.EVENTS, {"Last-Event-ID": last}),
    ):
        response = await api.client.get(path, headers=api.operator | headers)
        assert_problem(response, problems.INVALID_REQUEST)


async def test_streams_end_when_the_server_stops(api: Api) -> None:
    api.federation.start()

    async with asyncio.timeout(20):
        reading = asyncio.create_task(
            api.client.get(paths.EVENTS, headers=api.operator)
        )
        await api.watcher.somebody_waits.wait()
        api.watcher.stop_soon()
        response = await reading

    assert response.status_code == 200
    assert "event: round_opened" in response.text


async def test_an_unknown_path_is_a_problem(api: Api) -> None:
    for path in ("/", "/v1", "/v2/devices", "/v1/tasks/task/none"):
        assert_problem(await api.client.get(path), problems.NOT_FOUND)


async def test_a_wrong_method_is_a_problem(api: Api) -> None:
    response = await api.client.delete(paths.TASKS, headers=api.operator)

    assert_problem(response, problems.METHOD_NOT_ALLOWED)
    assert response.headers["Allow"]


async def test_a_failing_route_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the password is 1234")

    monkeypatch.setattr(tasks, "list_tasks", fail)

    response = await api.client.get(paths.TASKS, headers=api.operator)

    document = assert_problem(response, problems.INTERNAL)
    assert "detail" not in document
    assert "1234" not in response.text
    assert "GET /v1/tasks failed" in caplog.text


async def test_a_database_that_is_away_is_worth_another_try(api: Api) -> None:
    drop(api.federation, "tasks")

    response = await api.client.get(paths.TASKS, headers=api.operator)

    document = assert_problem(response, problems.UNAVAILABLE)
    assert "detail" not in document


async def test_news_reach_who_waits_although_the_database_was_away_at_the_start(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([sa.exc.OperationalError("SELECT", {}, OSError("away")), None])
    last_event_id = tasks.last_event_id

    def away_at_first(store: Store) -> int:
        error = next(answers, None)
        if error is not None:
            raise error
        return last_event_id(store)

    monkeypatch.setattr(tasks, "last_event_id", away_at_first)
    federation.register()

    async with serve(federation) as api, asyncio.timeout(5):
        waiting = asyncio.create_task(api.check_in(api.enrol(), wait_s=60))
        await api.watcher.somebody_waits.wait()
        await asyncio.to_thread(federation.start)
        response = await waiting

    assert response.json()["assignment"] is not None


async def test_a_living_process_says_so(api: Api) -> None:
    response = await api.client.get(paths.HEALTH)

    assert (response.status_code, response.json()) == (200, {"status": "ok"})
