"""Lines of the log: of a form, and with the ids of what they are about."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator import logs
from coordinator.store.blobs import BlobStore
from coordinator.store.files import StorageUnavailable
from tests.support.federation import plan
from tests.support.http import Api
from tests.support.models import update_body
from tests.support.worker import worker

BODY = update_body([0.5] * 10, examples=3)


class Written:
    """What a handler has written."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def line(self, said: str) -> dict[str, Any]:
        """The one line whose message holds these words."""
        (found,) = [line for line in self.lines if said in line["message"]]
        return found


@pytest.fixture
def written() -> Iterator[Written]:
    """The log of the package as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    package = logging.getLogger("coordinator")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.DEBUG)
    yield Written(stream)
    package.removeHandler(handler)
    package.setLevel(level)


async def test_a_request_is_logged_with_the_ids_that_it_is_about(
    api: Api, written: Written
) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)
    await api.submit(caller, assignment, BODY[:-1])
    await api.submit(caller, assignment, BODY)

    ids = {"device": caller.id, "round": 1, "assignment": assignment["id"]}
    checked_in = written.line("POST /v1/check-ins: 200")
    assert {name: checked_in[name] for name in ids} == ids
    refused = written.line("/update: 422")
    assert {name: refused[name] for name in ids} == ids
    assert refused["problem"] == "malformed-tensors"
    accepted = written.line("/update: 200")
    assert {name: accepted[name] for name in ids} == ids
    assert "problem" not in accepted
    assert caller.token not in json.dumps(written.lines)


async def test_a_failure_is_logged_with_the_ids_that_it_is_about(
    api: Api, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.federation.start()
    caller = api.enrol()
    assignment = await api.lease(caller)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(BlobStore, "keep_update", crash)
    await api.submit(caller, assignment, BODY)

    failed = written.line("failed")
    assert (failed["device"], failed["round"]) == (caller.id, 1)
    assert failed["level"] == "error"
    assert failed["traceback"].endswith("RuntimeError: a bug")


def test_a_workers_lines_name_their_round(
    api: Api, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = api.federation
    federation.start(settings=plan(goal=1))
    federation.take_part()

    def fill(*_: object) -> str:
        raise StorageUnavailable("no space")

    with monkeypatch.context() as patch:
        patch.setattr(BlobStore, "put", fill)
        worker(federation).step()
    federation.clock.advance(5)
    worker(federation).step()

    ids = {"worker": "ann", "task": "task", "round": 1}
    for said in ("waits: no space", "1 results, version 1"):
        line = written.line(said)
        assert {name: line[name] for name in ids} == ids
    logging.getLogger("coordinator.worker").warning("idle")
    assert "round" not in written.line("idle")


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("a.b", logging.INFO, "f", 1, message, arguments, None)


def test_a_json_line_is_one_line_whatever_is_said() -> None:
    with logs.about(round=3):
        line = logs.JsonLines().format(record("%s\nsaid “%s”", "two", 'x"y'))

    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed.pop("at").endswith("+00:00")
    assert parsed == {
        "level": "info",
        "logger": "a.b",
        "message": 'two\nsaid “x"y”',
        "round": 3,
    }


def test_a_text_line_ends_with_its_ids() -> None:
    lines = logs.TextLines()
    assert lines.format(record("done")).endswith(" INFO    a.b: done")

    with logs.about(task="t"), logs.about(round=3):
        logs.note(device="d")
        line = lines.format(record("done"))
    assert line.endswith(" INFO    a.b: done [task=t round=3 device=d]")
    logs.note(device="nobody")
    assert lines.format(record("done")).endswith("done")
