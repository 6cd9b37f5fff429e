import json
import pathlib
import re
from http import HTTPStatus

import pytest

from coordinator.protocol import problems
from coordinator.protocol.problems import Problem, ProblemType

VECTORS = pathlib.Path(__file__).parent / "vectors"
PUBLISHED: dict[str, int] = json.loads((VECTORS / "problems.json").read_text())


def test_every_type_is_unique() -> None:
    assert len({kind.type for kind in problems.ALL}) == len(problems.ALL)
    assert len({kind.title for kind in problems.ALL}) == len(problems.ALL)


@pytest.mark.parametrize("kind", problems.ALL, ids=lambda kind: kind.slug)
def test_a_type_has_its_form(kind: ProblemType) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.slug)
    registry = "https://iana.org/assignments/http-problem-types#"
    prefix = registry if kind.is_registered else "urn:shoal:problem:"
    assert kind.type == prefix + kind.slug
    assert 400 <= kind.status <= 599
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")


def test_a_published_type_never_changes() -> None:
    now = {kind.type: int(kind.status) for kind in problems.ALL}
    assert {name: now.get(name) for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("kind", problems.ALL, ids=lambda kind: kind.slug)
def test_a_document_without_details_holds_no_null(kind: ProblemType) -> None:
    document = problems.document(kind)
    assert document == {
        "type": kind.type,
        "title": kind.title,
        "status": int(kind.status),
    }
    assert type(document["status"]) is int
    problem = Problem.model_validate(document)
    assert (problem.detail, problem.retry_after_s) == (None, None)


def test_a_document_holds_its_details_and_extensions() -> None:
    document = problems.document(
        problems.INTERNAL, "why", retry_after_s=2.5, errors=[{"field": "x"}], none=None
    )
    assert document == {
        "type": "urn:shoal:problem:internal",
        "title": "The coordinator failed",
        "status": 500,
        "detail": "why",
        "retry_after_s": 2.5,
        "errors": [{"field": "x"}],
    }
    problem = Problem.model_validate_json(json.dumps(document))
    assert problem.detail == "why"
    assert problem.model_extra == {"errors": [{"field": "x"}]}


def test_what_passes_by_itself_is_worth_the_same_request_again() -> None:
    for kind in problems.ALL:
        passes = kind.status in {
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.REQUEST_TIMEOUT,
        }
        passes |= kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        assert kind.retry == passes
