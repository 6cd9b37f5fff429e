import math
from typing import Any

import pydantic
import pytest

from coordinator.protocol import messages, operations
from coordinator.protocol.encodings import MAX_EXAMPLES, MAX_LOSS
from coordinator.protocol.manifest import Record
from coordinator.protocol.vocabulary import FailureReason, Kind

EVALUATION = {"examples": 8, "loss_sum": 4.5, "correct": 3}
SCORE = {"examples": 8, "loss": 0.5, "accuracy": 0.5}
ASSIGNMENT: dict[str, Any] = {
    "id": "0a" * 16,
    "kind": "evaluate",
    "task": "digits",
    "round": 1,
    "attempt": 1,
    "model": "tiny",
    "version": 0,
    "seed": 0,
    "training": None,
    **{
        name: {"url": f"/{name}", "sha256": "0" * 64, "size_bytes": 1}
        for name in ("manifest", "train_graph", "weights")
    },
    "report_to": "/r",
    "failure_to": "/f",
    "lease_expires_at": "2026-01-01T12:00:00Z",
    "lease_s": 60.0,
    "max_report_bytes": 1000,
}
BOUNDS: list[tuple[type[Record], dict[str, Any], str, list[Any], list[Any]]] = [
    (
        messages.CheckInRequest,
        {},
        "wait_s",
        [0, 0.5, 60],
        [-0.1, 60.1, math.nan, math.inf, "soon", None],
    ),
    (
        messages.EvaluationReport,
        EVALUATION,
        "examples",
        [1, MAX_EXAMPLES],
        [0, -1, 1.5, MAX_EXAMPLES + 1, math.nan, None],
    ),
    (
        messages.EvaluationReport,
        EVALUATION,
        "loss_sum",
        [0, MAX_LOSS * MAX_EXAMPLES],
        [-1e-300, 1e300, math.nan, math.inf, None],
    ),
    (messages.EvaluationReport, EVALUATION, "correct", [0, 9], [-1, 0.5, None]),
    (
        messages.EvaluationReport,
        EVALUATION,
        "personalized",
        [
            None,
            {"loss_sum": 0, "correct": 0},
            {"loss_sum": MAX_LOSS * MAX_EXAMPLES, "correct": 9},
        ],
        [
            {},
            {"loss_sum": 1.0},
            {"correct": 1},
            {"loss_sum": math.nan, "correct": 1},
            {"loss_sum": -0.1, "correct": 1},
            {"loss_sum": 1.0, "correct": -1},
            {"loss_sum": 1.0, "correct": 0.5},
            {"loss_sum": 1.0, "correct": 1, "examples": 9},
            {"loss_sum": 1.0, "correct": 1, "weights": [0.5]},
        ],
    ),
    (
        messages.FailureReport,
        {"reason": "interrupted"},
        "reason",
        list(FailureReason),
        ["bored", "", None],
    ),
    (
        messages.FailureReport,
        {"reason": "interrupted"},
        "detail",
        [None, "", "x" * 500],
        ["x" * 501, "a\0b", 5],
    ),
    (messages.EnrolRequest, {}, "name", [None, "x" * 80], ["x" * 81, 5]),
    (
        messages.CheckInRequest,
        {},
        "encodings",
        [["f32"], [], ["f16", "q8", "topk"]],
        [["f64"], "f32", None, ["q8"] * 9],
    ),
    (messages.Capabilities, {}, "runtime", ["", "x" * 40], ["x" * 41, None]),
    (
        messages.Assignment,
        ASSIGNMENT,
        "id",
        ["0" * 32],
        ["0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n", ""],
    ),
    (
        messages.Assignment,
        ASSIGNMENT,
        "lease_expires_at",
        ["2026-01-01T12:00:00+02:00"],
        ["2026-01-01T12:00:00", "noon", None],
    ),
    (operations.Score, SCORE, "examples", [1], [0, None]),
    (operations.Score, SCORE, "loss", [0, 1e300], [-1e-300, math.nan, math.inf]),
    (operations.Score, SCORE, "accuracy", [0, 1], [-1e-300, 1.0001, math.nan]),
    (operations.HeldOutReport, {"version": 0, "score": SCORE}, "version", [0], [-1]),
    (
        operations.TaskRequest,
        {"id": "digits", "plan": {}},
        "id",
        ["a", "A.b_c-9", "a" * 64],
        ["", ".", "..", "a/b", "a b", "-a", "a\n", "a" * 65],
    ),
]
CASES = [
    (record, fields, name, value, is_taken)
    for record, fields, name, taken, refused in BOUNDS
    for is_taken, values in ((True, taken), (False, refused))
    for value in values
]


@pytest.mark.parametrize(
    ("record", "fields", "name", "value", "is_taken"),
    CASES,
    ids=[f"{case[0].__name__}.{case[2]}-{i}" for i, case in enumerate(CASES)],
)
def test_a_field_is_taken_within_its_bounds(
    record: type[Record],
    fields: dict[str, Any],
    name: str,
    value: object,
    *,
    is_taken: bool,
) -> None:
    body = fields | {name: value}
    if is_taken:
        record.model_validate(body)
        return
    with pytest.raises(pydantic.ValidationError) as caught:
        record.model_validate(body)
    assert {fault["loc"][0] for fault in caught.value.errors()} == {name}


def test_an_assignment_survives_its_json() -> None:
    assignment = messages.Assignment.model_validate(ASSIGNMENT)
    text = assignment.model_dump_json()
    assert messages.Assignment.model_validate_json(text) == assignment
    assert assignment.kind is Kind.EVALUATE
    assert assignment.encoding == "f32"


@pytest.mark.parametrize(
    "record",
    [
        kind
        for module in (messages, operations)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ],
    ids=lambda record: record.__name__,
)
def test_a_record_is_frozen_and_takes_no_field_that_it_does_not_know(
    record: type[Record],
) -> None:
    assert record.model_config["frozen"] is True
    with pytest.raises(pydantic.ValidationError) as caught:
        record.model_validate({"surprise": 1})
    faults = {fault["loc"]: fault["type"] for fault in caught.value.errors()}
    assert faults[("surprise",)] == "extra_forbidden"
