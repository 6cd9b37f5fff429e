"""What the API says of itself must be enough to write a device from."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import fastapi
import pydantic
import pytest
from fastapi.routing import APIRoute

from coordinator.api import (
    assignments,
    data_rights,
    devices,
    encryption,
    health,
    models,
    registry,
    secagg,
    tasks,
    tokens,
    uploads,
)
from coordinator.api import problems as api_problems
from coordinator.domain import errors
from coordinator.protocol import codings, digests, encodings, problems, tensors
from tests.support.federation import Federation
from tests.support.http import serve

ROUTERS = (
    devices,
    data_rights,
    assignments,
    encryption,
    secagg,
    uploads,
    models,
    registry,
    tasks,
    tokens,
    health,
)
#: Names that say all there is to say, wherever they stand.
SELF_EVIDENT = frozenset(
    {
        "accepted_at",
        "assignment",
        "at",
        "classes",
        "created_at",
        "ended_at",
        "enrolled_at",
        "erased_at",
        "expires_at",
        "exported_at",
        "id",
        "kind",
        "model",
        "name",
        "opened_at",
        "parameters",
        "plan",
        "published_at",
        "revoked_at",
        "rounds",
        "size_bytes",
        "status",
        "task",
        "tasks",
        "trainable_parameters",
        "versions",
    }
)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
async def app(federation: Federation) -> fastapi.FastAPI:
    async with serve(federation) as api:
        return api.app


@pytest.fixture
def spec(app: fastapi.FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def refers(details: dict[str, Any]) -> bool:
    """Whether a field's form is another schema, or a list of such."""
    forms = [details, details.get("items", {}), *details.get("anyOf", [])]
    return any("$ref" in form for form in forms)


def routes() -> list[APIRoute]:
    return [
        route
        for module in ROUTERS
        for route in module.router.routes
        if isinstance(route, APIRoute)
    ]


def test_every_operation_is_described(spec: dict[str, Any]) -> None:
    named = list(operations(spec))

    assert len(named) == len(routes()) > 0
    for name, operation in named:
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert set(operation["tags"]) <= {tag["name"] for tag in spec["tags"]}, name
    summaries = [operation["summary"] for _, operation in named]
    assert len(set(summaries)) == len(summaries)
    ids = [operation["operationId"] for _, operation in named]
    assert len(set(ids)) == len(ids)


def test_every_response_is_described(spec: dict[str, Any]) -> None:
    for name, operation in operations(spec):
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            assert response["description"] != "Successful Response" or (
                status in {"200", "201"}
            ), (name, status)


def test_refusals_are_problem_documents_with_an_example_each(
    spec: dict[str, Any],
) -> None:
    shown: set[str] = set()
    for name, operation in operations(spec):
        for status, response in operation["responses"].items():
            if status[0] not in "45":
                continue
            content = response["content"][problems.MEDIA_TYPE]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, name
            for slug, example in content["examples"].items():
                document = problems.Problem.model_validate(example["value"])
                assert document.type.endswith(slug), name
                assert str(document.status) == status, name
                assert f"`{document.type}`" in response["description"], name
                shown.add(slug)

    # These come from the server as a whole, not from one operation.
    everywhere = {problems.NOT_FOUND, problems.METHOD_NOT_ALLOWED}
    # Models are registered by a command, not by a route.
    everywhere.add(problems.MODEL_EXISTS)
    assert shown == {kind.slug for kind in set(problems.ALL) - everywhere}


def test_every_problem_type_can_be_sent() -> None:
    elsewhere = {
        problems.INVALID_REQUEST,
        problems.NOT_FOUND,
        problems.METHOD_NOT_ALLOWED,
        problems.BODY_TOO_LARGE,
        problems.INTERNAL,
        problems.UNAVAILABLE,
        problems.MALFORMED_HTTP,
        problems.HEAD_TOO_LONG,
        problems.TOO_SLOW,
        problems.NOT_READY,
        *problems.FILES,
    }

    assert set(api_problems.PROBLEMS.values()) | elsewhere == set(problems.ALL)


def test_every_refusal_has_its_problem() -> None:
    refusals = {
        kind
        for module in (errors, codings, encodings, tensors)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == module.__name__
    }
    bases = {errors.DomainError, encodings.InvalidUpdate}

    assert refusals - bases <= set(api_problems.PROBLEMS)
    types = list(api_problems.PROBLEMS.values())
    assert len(set(types)) == len(types)


def test_operations_that_need_a_token_say_which(spec: dict[str, Any]) -> None:
    for name, operation in operations(spec):
        refuses = "401" in operation["responses"]
        if name == "POST /v1/devices":  # has no identity yet
            continue
        assert refuses == ("security" in operation), name
        if refuses:
            schemes = {scheme for each in operation["security"] for scheme in each}
            if "{device_id}" in name and "device" in schemes:  # or its own device
                assert schemes == {"operator", "device", "signature"}, name
                continue
            assert schemes in ({"operator"}, {"device", "signature"}), name
            assert ("operator" in schemes) == ("operator" in operation["tags"])
            assert "403" in operation["responses"]


def test_every_parameter_says_what_it_is(spec: dict[str, Any]) -> None:
    obvious = {
        "model",
        "task",
        "assignment_id",
        "device_id",
        "token_id",
        "operator_id",
        "limit",
    }
    for name, operation in operations(spec):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description") or parameter["name"] in obvious, (
                name,
                parameter["name"],
            )


def test_every_field_says_what_it_is(spec: dict[str, Any]) -> None:
    silent = [
        f"{schema_name}.{field}"
        for schema_name, schema in spec["components"]["schemas"].items()
        for field, details in schema.get("properties", {}).items()
        if not details.get("description")
        and field not in SELF_EVIDENT
        and not refers(details)  # then the schema there says it
    ]

    assert not silent, "\n".join(silent)


def test_every_body_says_what_it_is(spec: dict[str, Any]) -> None:
    silent = [
        name
        for name, schema in spec["components"]["schemas"].items()
        if not schema.get("description")
    ]

    assert silent == []


def test_every_field_refuses_what_it_does_not_know(spec: dict[str, Any]) -> None:
    for name, operation in operations(spec):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        reference = content["application/json"]["schema"]["$ref"]
        schema = spec["components"]["schemas"][reference.rsplit("/", 1)[1]]
        assert schema["additionalProperties"] is False, name


def test_examples_are_of_their_form(spec: dict[str, Any]) -> None:
    checked = 0
    for name, operation in operations(spec):
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            for example in schema.get("examples", []):
                assert isinstance(example, str), name
                checked += 1
                if parameter["name"].lower() == "content-digest":
                    assert len(digests.parse_content_digest(example)) == 64
                else:
                    assert 1 <= len(example) <= 64
    for schema_name, schema in spec["components"]["schemas"].items():
        for field, details in schema.get("properties", {}).items():
            for example in details.get("examples", []):
                model = _model_named(schema_name)
                annotation: Any = model.model_fields[field].annotation
                pydantic.TypeAdapter(annotation).validate_python(example)
                checked += 1

    assert checked >= 3


def test_devices_and_operators_bodies_have_an_example(spec: dict[str, Any]) -> None:
    """A phone team needs /docs alone, so every JSON request shows one."""
    without = []
    for name, operation in operations(spec):
        content = operation.get("requestBody", {}).get("content", {})
        media = content.get("application/json")
        if media is None:
            continue
        reference = media["schema"]["$ref"].rsplit("/", 1)[1]
        schema = spec["components"]["schemas"][reference]
        if not (media.get("examples") or schema.get("examples")):
            without.append(name)

    assert not without, "\n".join(without)


def _model_named(name: str) -> type[pydantic.BaseModel]:
    for module in ("messages", "operations", "plans", "problems"):
        found = getattr(
            importlib.import_module(f"coordinator.protocol.{module}"), name, None
        )
        if isinstance(found, type) and issubclass(found, pydantic.BaseModel):
            return found
    raise LookupError(name)
