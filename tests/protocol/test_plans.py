import json
import math
import pathlib
import typing
from typing import Any

import pydantic
import pytest

from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.plans import InvalidPlan, Plan, parse

SHIPPED = sorted((pathlib.Path(__file__).parents[2] / "plans").glob("*.toml"))
TINY = 5e-324
#: Each number of a plan: the least and the most it may be, and what lies just beyond.
BOUNDS: dict[str, tuple[float, float, float | None, float | None]] = {
    "rounds": (1, 0, 1_000_000, 1_000_001),
    "seed": (0, -1, 2**32 - 1, 2**32),
    "round.goal": (25, 24, 100_000, 100_001),  # 25 is the least minimum by default
    "round.minimum": (1, 0, 50, 51),  # 50 is the goal by default
    "round.over_select": (0, -TINY, 4, 4.0001),
    "round.lease_s": (TINY, 0, 86_400, 86_400.1),
    "round.deadline_s": (TINY, 0, 604_800, 604_800.1),
    "round.max_attempts": (1, 0, 100, 101),
    "training.learning_rate": (TINY, 0, 10, 10.001),
    "training.batch_size": (1, 0, 1024, 1025),
    "training.epochs": (1, 0, 100, 101),
    "training.max_shift": (0, -1, 8, 9),
    "training.max_examples": (1, 0, MAX_EXAMPLES, MAX_EXAMPLES + 1),
    "update.topk_share": (TINY, 0, 0.5, 0.5001),
    "server.learning_rate": (TINY, 0, 100, 100.1),
    "server.momentum": (0, -TINY, 1 - 2**-53, 1),
    "server.beta_1": (0, -TINY, 1 - 2**-53, 1),
    "server.beta_2": (0, -TINY, 1 - 2**-53, 1),
    "server.epsilon": (TINY, 0, 1, 1.0001),
    "server.decay_rounds": (1, 0, 1_000_000, 1_000_001),
    "server.decay_rate": (TINY, 0, 1 - 2**-53, 1),
    "server.warmup_rounds": (0, -1, 1_000_000, 1_000_001),
    "evaluation.every": (1, 0, None, None),
    "evaluation.goal": (1, 0, 100_000, 100_001),
    "evaluation.minimum": (1, 0, 50, 51),
    "evaluation.lease_s": (TINY, 0, 86_400, 86_400.1),
    "evaluation.deadline_s": (TINY, 0, 604_800, 604_800.1),
    "reference.held_out_accuracy": (0, -TINY, 1, 1.0001),
}
#: What a plan must say beside a field for the field to be of use.
COMPANY: dict[str, str] = {
    "reference.held_out_accuracy": 'source = "x"',
    "server.beta_1": 'optimizer = "adam"',
    "server.beta_2": 'optimizer = "yogi"',
    "server.epsilon": 'optimizer = "adagrad"',
    "server.decay_rounds": 'schedule = "step"',
    "server.decay_rate": 'schedule = "exponential"\ndecay_rounds = 10',
}
OUTSIDE = [
    (field, beyond)
    for field, (_, below, _, above) in BOUNDS.items()
    for beyond in (below, above)
    if beyond is not None
]
INSIDE = [
    (field, bound)
    for field, (least, _, most, _) in BOUNDS.items()
    for bound in (least, most)
    if bound is not None
]
REALS = [
    field
    for field in BOUNDS
    if field.endswith(
        ("_s", "rate", "select", "momentum", "accuracy", "share", "_1", "_2", "epsilon")
    )
]
WHOLE = [field for field in BOUNDS if field not in REALS]


def toml(field: str, value: object) -> str:
    """A plan in which one field is set."""
    table, _, key = field.rpartition(".")
    # TOML writes numbers, nan and inf as Python does, and text as JSON does.
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    company = COMPANY.get(field, "")
    return f"[{table}]\n{company}\n{key} = {text}\n" if table else f"{key} = {text}\n"


def value_of(plan: object, field: str) -> object:
    for part in field.split("."):
        plan = getattr(plan, part)
    return plan


def numbers_of(record: type[pydantic.BaseModel], prefix: str = "") -> set[str]:
    """The dotted names of all whole and real numbers of a record."""
    found: set[str] = set()
    for name, field in record.model_fields.items():
        kinds = typing.get_args(field.annotation) or (field.annotation,)
        for kind in kinds:
            if kind in (int, float):
                found.add(prefix + name)
            elif isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                found |= numbers_of(kind, f"{prefix}{name}.")
    return found


def test_the_bounds_of_every_number_are_tested() -> None:
    assert numbers_of(Plan) == set(BOUNDS)


@pytest.mark.parametrize(("field", "value"), INSIDE)
def test_a_bound_itself_is_taken(field: str, value: float) -> None:
    assert value_of(parse(toml(field, value)), field) == value


@pytest.mark.parametrize(("field", "value"), OUTSIDE)
def test_a_number_beyond_a_bound_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidPlan) as caught:
        parse(toml(field, value))
    assert_names(str(caught.value), field)


@pytest.mark.parametrize("field", REALS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "much"])
def test_a_real_number_is_a_finite_number(field: str, value: object) -> None:
    with pytest.raises(InvalidPlan, match=field):
        parse(toml(field, value))


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", [30.5, math.nan, "many"])
def test_a_whole_number_has_no_fraction(field: str, value: object) -> None:
    with pytest.raises(InvalidPlan, match=field):
        parse(toml(field, value))


def assert_names(message: str, field: str) -> None:
    """The message names the field, or its table and key for a rule of two fields."""
    table, _, key = field.rpartition(".")
    by_rule = {"goal", "minimum"}
    if key in by_rule and f"{field}: " not in message:
        assert message.startswith(f"{table}: ")
        assert "minimum must be at most the goal" in message
        return
    assert message.startswith(f"{field}: ")


def test_an_empty_text_is_the_plan_of_defaults() -> None:
    plan = parse("")
    assert plan == Plan()
    assert (plan.model, plan.rounds, plan.seed) == ("cnn", 10, 0)
    assert (plan.evaluation, plan.reference) == (None, None)
    assert plan.server.learning_rate == 1.0  # FedAvg
    assert plan.server.momentum == 0.0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_plan_that_ships_is_one(path: pathlib.Path) -> None:
    plan = parse(path.read_text())
    assert plan.round.lease_s <= plan.round.deadline_s
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_plans_ship() -> None:
    assert {path.stem for path in SHIPPED} >= {"default", "seed"}


@pytest.mark.parametrize("text", ["model", "= 1", "rounds = 1\nrounds = 2", "a = [1"])
def test_a_text_that_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlan, match="not TOML"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("round_s = 1", "round_s"),
        ("[round]\ngaol = 5", "round.gaol"),
        ("[training]\nseed = 1", "training.seed"),
        ("[server]\nrate = 1.0", "server.rate"),
        ("[evaluation]\nover_select = 0.0", "evaluation.over_select"),
        ("[reference]\nheld_out_accuracy = 0.5", "reference.source"),
        ('round = "fast"', "round"),
        ('model = "../cnn"', "model"),
        ('[training]\noptimizer = "adam"', "training.optimizer"),
        ('[server]\noptimizer = "lamb"', "server.optimizer"),
        ('[server]\nschedule = "linear"', "server.schedule"),
        (f'[reference]\nsource = "{"x" * 201}"', "reference.source"),
    ],
)
def test_a_field_that_is_no_setting_is_refused_by_name(text: str, field: str) -> None:
    with pytest.raises(InvalidPlan) as caught:
        parse(text)
    assert f"{field}: " in str(caught.value)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidPlan) as caught:
        parse("rounds = 0\nseed = -1\n[training]\nepochs = 0")
    faults = str(caught.value).split("; ")
    assert [fault.split(":")[0] for fault in faults] == [
        "rounds",
        "seed",
        "training.epochs",
    ]


@pytest.mark.parametrize("table", ["round", "evaluation"])
def test_the_minimum_is_at_most_the_goal(table: str) -> None:
    plan: Any = parse(f"[{table}]\ngoal = 7\nminimum = 7")
    assert value_of(plan, f"{table}.minimum") == 7
    with pytest.raises(InvalidPlan, match="at most the goal 7, got 8"):
        parse(f"[{table}]\ngoal = 7\nminimum = 8")


def test_nesterov_needs_a_momentum() -> None:
    assert parse("[server]\nnesterov = true\nmomentum = 0.9").server.nesterov
    with pytest.raises(InvalidPlan, match=r"^server: .*nesterov needs a momentum"):
        parse("[server]\nnesterov = true")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('optimizer = "adam"\nmomentum = 0.9', "adam takes no momentum, got 0.9"),
        (
            'optimizer = "yogi"\nmomentum = 0.9\nnesterov = true',
            "yogi takes no momentum, got 0.9",
        ),
        ('optimizer = "adagrad"\nbeta_1 = 0.5', "adagrad takes no beta_1, got 0.5"),
        ("beta_2 = 0.9", "sgd takes no beta_2, got 0.9"),
        ("epsilon = 0.1", "sgd takes no epsilon, got 0.1"),
        ('schedule = "cosine"', "schedule cosine needs decay_rounds"),
        ("decay_rounds = 5", "schedule constant takes no decay_rounds, got 5"),
        ("decay_rate = 0.5", "schedule constant takes no decay_rate, got 0.5"),
    ],
)
def test_a_setting_that_its_server_step_makes_no_use_of_is_refused(
    text: str, message: str
) -> None:
    with pytest.raises(InvalidPlan, match=f"^server: .*{message}$"):
        parse(f"[server]\n{text}")


@pytest.mark.parametrize(
    "text",
    [
        'optimizer = "adam"\nbeta_1 = 0.5\nbeta_2 = 0.9\nepsilon = 0.1',
        'optimizer = "yogi"\nbeta_1 = 0.5\nbeta_2 = 0.9\nepsilon = 0.1',
        'optimizer = "adagrad"\nepsilon = 0.1',
        'schedule = "cosine"\ndecay_rounds = 5\nwarmup_rounds = 2',
    ],
)
def test_a_server_step_survives_being_kept(text: str) -> None:
    plan = parse(f"[server]\n{text}")
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
