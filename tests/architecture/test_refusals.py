"""Every refusal can happen, and every one has its problem type."""

import ast
import functools
import inspect
import pathlib
from types import ModuleType

import pytest

from coordinator.api import connections
from coordinator.api import problems as mapping
from coordinator.domain import errors
from coordinator.protocol import codings, encodings, problems, tensors

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = [
    ast.parse(path.read_text()) for path in sorted((ROOT / "coordinator").rglob("*.py"))
]
#: Answers to what no function of ours refuses: forms, routes, crashes.
GENERIC = {
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
    problems.STORAGE_UNAVAILABLE,
    problems.BLOB_LOST,
}


def refusals_of(module: ModuleType) -> set[type[Exception]]:
    """The exceptions that a module defines, without those that are only a base."""
    kinds = {
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == module.__name__
    }
    return kinds - {errors.DomainError, encodings.InvalidUpdate}


@functools.cache
def raised() -> set[str]:
    """The names of all exceptions that some ``raise`` statement makes."""
    made = {
        node.exc.func
        for tree in SOURCES
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    return {
        func.attr if isinstance(func, ast.Attribute) else func.id
        for func in made
        if isinstance(func, ast.Attribute | ast.Name)
    }


@pytest.mark.parametrize(
    "module",
    [errors, encodings, codings, tensors],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_every_refusal_has_a_problem_type(module: ModuleType) -> None:
    assert refusals_of(module)
    assert refusals_of(module) <= set(mapping.PROBLEMS)


def test_every_problem_type_is_of_one_refusal() -> None:
    mapped = list(mapping.PROBLEMS.values())
    assert len(set(mapped)) == len(mapped)
    assert not set(mapped) & GENERIC
    assert {kind.slug for kind in problems.ALL} == {
        kind.slug for kind in {*mapped, *GENERIC}
    }


@pytest.mark.parametrize("kind", mapping.PROBLEMS, ids=lambda kind: kind.__name__)
def test_every_refusal_is_raised_somewhere(kind: type[Exception]) -> None:
    assert kind.__name__ in raised()


@pytest.mark.parametrize("kind", sorted(GENERIC, key=str), ids=lambda kind: kind.slug)
def test_every_generic_problem_is_answered_somewhere(
    kind: problems.ProblemType,
) -> None:
    source = inspect.getsource(mapping) + inspect.getsource(connections)
    name = kind.slug.replace("-", "_").upper()
    assert f"problems.{name}" in source
