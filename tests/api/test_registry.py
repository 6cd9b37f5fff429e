"""Versions and tags over HTTP."""

import pytest

from coordinator.protocol import digests, paths, problems
from tests.support.federation import plan
from tests.support.http import Api, assert_problem

TAGGED = [
    (paths.tagged_weights("tiny", "production"), paths.weights),
    (paths.tagged_inference_file("tiny", "production"), paths.inference_file),
]


async def publish(api: Api) -> None:
    """Two versions, the first of them in production."""
    api.federation.start(settings=plan(goal=1))
    api.federation.take_part()
    api.federation.release(api.federation.must_claim())
    await promote(api, 0)


async def promote(api: Api, number: int) -> None:
    response = await api.client.put(
        paths.tag("tiny", "production"),
        headers=api.operator,
        json={"version": number},
    )
    assert response.status_code == 200, response.text
    assert response.json()["version"] == number


async def test_versions_are_listed(api: Api) -> None:
    await publish(api)

    response = await api.client.get(paths.versions("tiny"), headers=api.operator)

    second, first = response.json()["versions"]
    assert (second["version"], second["origin"], second["round"]) == (1, "round", 1)
    assert (second["base_version"], second["is_current"]) == (0, True)
    assert second["train"] == {"examples": 1, "loss": 1.0, "accuracy": 0.5}
    assert second["aggregate_norm"] == pytest.approx(10**0.5)
    assert (first["origin"], first["round"], first["tags"]) == (
        "seed",
        None,
        ["production"],
    )
    part = await api.client.get(
        paths.versions("tiny") + "?before=1&limit=5", headers=api.operator
    )
    assert part.json()["versions"] == [first]
    listed = await api.client.get(paths.MODELS, headers=api.operator)
    assert listed.json()["models"][0]["tags"] == {"production": 0}


@pytest.mark.parametrize(("path", "numbered"), TAGGED)
async def test_a_tag_leads_to_a_version_for_a_minute(
    api: Api, path: str, numbered: object
) -> None:
    assert callable(numbered)
    await publish(api)

    tagged = await api.client.get(path)
    own = await api.client.get(numbered("tiny", 0))

    assert tagged.status_code == 200
    assert tagged.content == own.content
    assert tagged.headers["ETag"] == own.headers["ETag"]
    assert tagged.headers["Repr-Digest"] == digests.content_digest(
        digests.sha256_hex(own.content)
    )
    assert tagged.headers["Cache-Control"] == "public, max-age=60"
    assert tagged.headers["Content-Location"] == numbered("tiny", 0)
    assert "immutable" in own.headers["Cache-Control"]


@pytest.mark.parametrize("path", [path for path, _ in TAGGED])
async def test_what_a_tag_led_to_is_sent_again_once_it_has_moved(
    api: Api, path: str
) -> None:
    await publish(api)
    etag = (await api.client.get(path)).headers["ETag"]

    same = await api.client.get(path, headers={"If-None-Match": etag})
    await promote(api, 1)
    moved = await api.client.get(path, headers={"If-None-Match": etag})

    assert (same.status_code, same.headers["Cache-Control"]) == (
        304,
        "public, max-age=60",
    )
    assert moved.status_code == 200
    assert moved.headers["ETag"] != etag
    assert "/versions/1/" in moved.headers["Content-Location"]


async def test_anyone_may_ask_where_a_tag_points(api: Api) -> None:
    await publish(api)

    response = await api.client.get(paths.tag("tiny", "production"))

    state = response.json()
    assert (state["tag"], state["version"]) == ("production", 0)
    weights = await api.client.get(state["weights"]["url"])
    assert digests.sha256_hex(weights.content) == state["weights"]["sha256"]
    assert state["inference_file"] == paths.inference_file("tiny", 0)
    assert response.headers["Cache-Control"] == "public, max-age=60"
    again = await api.client.get(
        paths.tag("tiny", "production"),
        headers={"If-None-Match": response.headers["ETag"]},
    )
    assert again.status_code == 304


async def test_a_tag_is_removed(api: Api) -> None:
    await publish(api)
    path = paths.tag("tiny", "production")

    response = await api.client.delete(path, headers=api.operator)

    assert (response.status_code, response.content) == (204, b"")
    for gone in (path, *(path for path, _ in TAGGED)):
        assert_problem(await api.client.get(gone), problems.TAG_UNKNOWN)
    again = await api.client.delete(path, headers=api.operator)
    assert_problem(again, problems.TAG_UNKNOWN)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("GET", paths.versions("none"), None, problems.MODEL_UNKNOWN),
        ("GET", paths.versions("tiny") + "?limit=0", None, problems.INVALID_REQUEST),
        ("PUT", paths.tag("none", "a"), {"version": 0}, problems.MODEL_UNKNOWN),
        ("PUT", paths.tag("tiny", "a"), {"version": 9}, problems.VERSION_UNKNOWN),
        ("PUT", paths.tag("tiny", "-a"), {"version": 0}, problems.INVALID_REQUEST),
        ("PUT", paths.tag("tiny", "a"), {"version": -1}, problems.INVALID_REQUEST),
        ("POST", paths.rollback("none"), {"version": 0}, problems.TASK_UNKNOWN),
        ("POST", paths.rollback("task"), {"version": 9}, problems.VERSION_UNKNOWN),
    ],
)
async def test_what_is_not_there_is_refused_and_changes_nothing(
    api: Api,
    method: str,
    path: str,
    body: dict[str, int] | None,
    kind: problems.ProblemType,
) -> None:
    await publish(api)
    before = api.federation.state()

    response = await api.client.request(method, path, headers=api.operator, json=body)

    assert_problem(response, kind)
    assert api.federation.state() == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", paths.versions("tiny")),
        ("PUT", paths.tag("tiny", "production")),
        ("DELETE", paths.tag("tiny", "production")),
        ("POST", paths.rollback("task")),
    ],
)
async def test_the_registry_is_the_operators(api: Api, method: str, path: str) -> None:
    await publish(api)
    before = api.federation.state()
    body = {"version": 1} if method in {"PUT", "POST"} else None

    for headers, kind in (
        ({}, problems.UNAUTHENTICATED),
        (api.enrol().headers, problems.FORBIDDEN),
    ):
        response = await api.client.request(method, path, headers=headers, json=body)
        assert_problem(response, kind)

    after = api.federation.state()
    assert (after[0]["tags"], after[0]["tasks"], after[1]) == (
        before[0]["tags"],
        before[0]["tasks"],
        before[1],
    )


async def test_a_task_is_rolled_back(api: Api) -> None:
    await publish(api)

    response = await api.client.post(
        paths.rollback("task"), headers=api.operator, json={"version": 0}
    )

    state = response.json()
    assert (state["version"], state["status"]) == (0, "running")
    (open_,) = state["open_rounds"]
    assert (open_["number"], open_["attempt"], open_["base_version"]) == (2, 2, 0)
