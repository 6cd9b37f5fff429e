import json
import math
import pathlib
import typing
from typing import Any

import pydantic
import pytest

from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.manifest import Manifest
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
    "participation.max_rounds": (1, 0, 1_000_000, 1_000_001),
    "participation.min_separation": (1, 0, 1_000_000, 1_000_001),
    "asynchronous.concurrency": (1, 0, 100_000, 100_001),
    "asynchronous.max_staleness": (0, -1, 1_000_000, 1_000_001),
    "asynchronous.staleness_exponent": (0, -TINY, 10, 10.001),
    "training.learning_rate": (TINY, 0, 10, 10.001),
    "training.batch_size": (1, 0, 1024, 1025),
    "training.epochs": (1, 0, 100, 101),
    "training.momentum": (0, -TINY, 1 - 2**-53, 1),
    # What float32 would round to 1 or to 0 makes NaN in the graph.
    "training.beta_1": (0, -TINY, 0.99999, 0.999991),
    "training.beta_2": (0, -TINY, 0.99999, 0.999991),
    "training.epsilon": (1e-12, 1e-13, 1, 1.0001),
    "training.proximal": (0, -TINY, 1000, 1000.1),
    "training.clip_norm": (0, -TINY, 1e6, 1e6 + 1),
    "training.max_shift": (0, -1, 8, 9),
    "training.max_rotation": (0, -TINY, 45, 45.1),
    "training.max_scale": (0, -TINY, 0.5, 0.501),
    "training.max_brightness": (0, -TINY, 1, 1.001),
    "training.max_contrast": (0, -TINY, 0.9, 0.901),
    "training.max_examples": (1, 0, MAX_EXAMPLES, MAX_EXAMPLES + 1),
    "update.topk_share": (TINY, 0, 0.5, 0.5001),
    "server.learning_rate": (TINY, 0, 100, 100.1),
    "server.momentum": (0, -TINY, 1 - 2**-53, 1),
    "server.beta_1": (0, -TINY, 1 - 2**-53, 1),
    "server.beta_2": (0, -TINY, 1 - 2**-53, 1),
    "server.epsilon": (TINY, 0, 1, 1.0001),
    "training.decay_rounds": (1, 0, 1_000_000, 1_000_001),
    "training.decay_rate": (TINY, 0, 1 - 2**-53, 1),
    "training.warmup_rounds": (0, -1, 1_000_000, 1_000_001),
    "server.decay_rounds": (1, 0, 1_000_000, 1_000_001),
    "server.decay_rate": (TINY, 0, 1 - 2**-53, 1),
    "server.warmup_rounds": (0, -1, 1_000_000, 1_000_001),
    "aggregation.trim": (0.04, 0, 0.5 - 2**-54, 0.5),  # of 25: 1 value at least
    "aggregation.byzantine": (1, -1, 11, 4097),  # the least minimum by default is 25
    "aggregation.keep": (0, -1, 22, 4097),
    "aggregation.iterations": (1, 0, 10_000, 10_001),
    "aggregation.max_norm": (TINY, 0, None, None),
    "aggregation.clip_quantile": (TINY, 0, 1 - 2**-53, 1),
    "aggregation.clip_rate": (TINY, 0, 10, 10.1),
    "aggregation.zero_quantile": (TINY, 0, 1 - 2**-53, 1),
    "aggregation.zero_multiple": (1, 0.999, 1e6, 1.001e6),
    "aggregation.zero_rate": (TINY, 0, 10, 10.1),
    "evaluation.every": (1, 0, None, None),
    "evaluation.goal": (1, 0, 100_000, 100_001),
    "evaluation.minimum": (1, 0, 50, 51),
    "evaluation.lease_s": (TINY, 0, 86_400, 86_400.1),
    "evaluation.deadline_s": (TINY, 0, 604_800, 604_800.1),
    "evaluation.personalize_epochs": (0, -1, 20, 21),
    "gate.window": (1, 0, 100, 101),
    "gate.max_loss_rise": (TINY, 0, 1000, 1000.1),
    "gate.max_norm_ratio": (1 + 2**-52, 1, 1e6, 1_000_000.1),
    "gate.max_accuracy_drop": (TINY, 0, 1 - 2**-53, 1),
    "privacy.population": (2, 1, 10_000_000, 10_000_001),
    "privacy.epsilon": (TINY, 0, 1000, 1000.1),
    "privacy.delta": (1e-15, 9e-16, 0.499, 1),  # of a population of 2
    "privacy.noise_multiplier": (0.01, 0.0099, 1000, 1000.1),
    "privacy.clip_norm": (1e-6, 9e-7, 1e6, 1_000_000.1),
    "privacy.clip_quantile": (TINY, 0, 1 - 2**-53, 1),
    "privacy.clip_rate": (TINY, 0, 10, 10.1),
    "privacy.count_noise": (1e-3, 9e-4, 10, 10.1),
    "privacy.sampling_rate": (1e-5, 9e-6, 1 - 2**-53, 1),
    "privacy.cap": (25, 0, 100_000, 100_001),  # 25 is the least minimum by default
    "privacy.bands": (2, 1, 256, 257),
    "secagg.clip_norm": (1e-6, 9e-7, 1e6, 1_000_000.1),
    "secagg.max_examples": (1, 0, MAX_EXAMPLES, MAX_EXAMPLES + 1),
    "secagg.dropout": (0, -TINY, 0.45, 0.46),
    "secagg.collusion": (0.05, 0.049, 0.4, 0.41),
    "secagg.cohort_size": (5, 4, 200, 201),
    "secagg.cohort_minimum": (5, 4, 25, 201),  # 25 is the least minimum by default
    "he.clip_norm": (1e-6, 9e-7, 1e6, 1_000_000.1),
    "he.max_examples": (1, 0, MAX_EXAMPLES, MAX_EXAMPLES + 1),
    "he.minimum": (2, 1, 25, 10_001),  # 25 is the least minimum by default
    "secagg.step_s": (TINY, 0, 86_400, 86_400.1),
    "reference.held_out_accuracy": (0, -TINY, 1, 1.0001),
}
#: What a plan must say beside a field for the field to be of use.
#: Coins, for without them a plan is refused that one release would break.
BY_COIN = """population = 1000
delta = 1e-8
sampling = "poisson"
sampling_rate = 0.05
"""
COMPANY: dict[str, str] = {
    "reference.held_out_accuracy": 'source = "x"',
    "privacy.population": "delta = 1e-8",
    "privacy.epsilon": BY_COIN,
    "privacy.delta": "population = 2\nepsilon = 100",
    "privacy.noise_multiplier": BY_COIN,
    "privacy.clip_norm": "population = 9\ndelta = 1e-8",
    "privacy.clip_quantile": "population = 9\ndelta = 1e-8",
    "privacy.clip_rate": "population = 9\ndelta = 1e-8\nclip_quantile = 0.5",
    "privacy.count_noise": BY_COIN + "clip_quantile = 0.5\nnoise_multiplier = 0.01",
    "privacy.sampling_rate": "population = 10_000_000\ndelta = 1e-8\ncap = 100\n"
    'sampling = "poisson"',
    "privacy.cap": "population = 1_000_000\ndelta = 1e-8\nsampling_rate = 0.05\n"
    'sampling = "poisson"',
    "privacy.bands": 'population = 9\ndelta = 1e-8\nmechanism = "central_bsr"\n',
    "aggregation.trim": 'rule = "trimmed_mean"',
    "aggregation.byzantine": 'rule = "krum"',
    "aggregation.keep": 'rule = "multi_krum"\nbyzantine = 3',
    "aggregation.iterations": 'rule = "geometric_median"',
    "aggregation.clip_rate": "clip_quantile = 0.8",
    "aggregation.zero_multiple": "zero_quantile = 0.98",
    "aggregation.zero_rate": "zero_quantile = 0.98",
    "training.beta_1": 'optimizer = "adam"',
    "training.beta_2": 'optimizer = "adam"',
    "training.epsilon": 'optimizer = "adam"',
    "server.beta_1": 'optimizer = "adam"',
    "server.beta_2": 'optimizer = "yogi"',
    "server.epsilon": 'optimizer = "adagrad"',
    "training.decay_rounds": 'schedule = "step"',
    "training.decay_rate": 'schedule = "exponential"\ndecay_rounds = 10',
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


def toml(field: str, value: object) -> str:
    """A plan in which one field is set."""
    table, _, key = field.rpartition(".")
    # TOML writes numbers, nan and inf as Python does, and text as JSON does.
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    company = COMPANY.get(field, "")
    if table == "gate" and key != "max_loss_rise":
        company = "max_loss_rise = 1.0"
    if table in {"secagg", "he"} and key != "clip_norm":
        company = "clip_norm = 1.0"
    before = "[participation]\nmin_separation = 256\n" if key == "bands" else ""
    if not table:
        return f"{key} = {text}\n"
    return f"{before}[{table}]\n{company}\n{key} = {text}\n"


def value_of(plan: object, field: str) -> object:
    for part in field.split("."):
        plan = getattr(plan, part)
    return plan


def numbers_of(
    record: type[pydantic.BaseModel],
    prefix: str = "",
    wanted: tuple[type, ...] = (int, float),
) -> set[str]:
    """The dotted names of all numbers of a record that are of a wanted type."""
    found: set[str] = set()
    for name, field in record.model_fields.items():
        kinds = typing.get_args(field.annotation) or (field.annotation,)
        for kind in kinds:
            if kind in wanted:
                found.add(prefix + name)
            elif isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                found |= numbers_of(kind, f"{prefix}{name}.", wanted)
    return found


REALS = sorted(numbers_of(Plan, wanted=(float,)))
WHOLE = sorted(numbers_of(Plan, wanted=(int,)))


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


@pytest.mark.parametrize(
    "text",
    [
        "model",
        "= 1",
        "rounds = 1\nrounds = 2",
        "a = [1",
        "seed = " + "1" * 5000,
        "seed = " + "[" * 3000 + "]" * 3000,
    ],
    ids=lambda text: text[:12],
)
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
        ('[training]\noptimizer = "yogi"', "training.optimizer"),
        ('[server]\noptimizer = "lamb"', "server.optimizer"),
        ('[server]\nschedule = "linear"', "server.schedule"),
        ('[aggregation]\nrule = "bulyan"', "aggregation.rule"),
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


def test_a_gate_needs_a_rule() -> None:
    assert parse("[gate]\nmax_norm_ratio = 3.0").gate is not None
    for text in ("[gate]", "[gate]\nwindow = 3"):
        with pytest.raises(InvalidPlan, match=r"^gate: .*a gate needs max_loss_rise"):
            parse(text)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trim = 0.2", "rule mean takes no trim, got 0.2"),
        ('rule = "median"\ntrim = 0.2', "rule median takes no trim, got 0.2"),
        ('rule = "trimmed_mean"\nbyzantine = 2', "takes no byzantine, got 2"),
        ('rule = "krum"\nbyzantine = 2\nkeep = 3', "rule krum takes no keep, got 3"),
        ('rule = "krum"', "rule krum needs byzantine above 0"),
        ('rule = "multi_krum"', "rule multi_krum needs byzantine above 0"),
        ("iterations = 5", "rule mean takes no iterations, got 5"),
        ("clip_rate = 0.5", "without clip_quantile takes no clip_rate, got 0.5"),
        ("zero_multiple = 3.0", "without zero_quantile takes no zero_multiple"),
        ("zero_rate = 0.5", "without zero_quantile takes no zero_rate, got 0.5"),
    ],
)
def test_a_setting_that_its_rule_makes_no_use_of_is_refused(
    text: str, message: str
) -> None:
    with pytest.raises(InvalidPlan, match=f"^aggregation: .*{message}"):
        parse(f"[aggregation]\n{text}")


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ('rule = "median"', 3),
        ('rule = "geometric_median"', 3),
        ('rule = "trimmed_mean"\ntrim = 0.1', 10),
        ('rule = "trimmed_mean"\ntrim = 0.49', 3),
        ('rule = "trimmed_mean"\ntrim = 0.3', 4),
        ('rule = "krum"\nbyzantine = 1', 5),
        ('rule = "krum"\nbyzantine = 3', 9),
        ('rule = "multi_krum"\nbyzantine = 3', 9),
    ],
)
def test_a_rule_needs_a_minimum_with_which_it_holds(text: str, least: int) -> None:
    parse(f"[round]\nminimum = {least}\n[aggregation]\n{text}")
    with pytest.raises(
        InvalidPlan,
        match=f"^plan: .*needs round\\.minimum at least {least}, got {least - 1}",
    ):
        parse(f"[round]\nminimum = {least - 1}\n[aggregation]\n{text}")


def test_multi_krum_keeps_fewer_than_may_be_honest() -> None:
    text = '[round]\nminimum = 9\n[aggregation]\nrule = "multi_krum"\nbyzantine = 3\n'
    assert parse(f"{text}keep = 6").aggregation.keep == 6
    with pytest.raises(InvalidPlan, match=r"at most round\.minimum less byzantine, 6,"):
        parse(f"{text}keep = 7")


def test_a_rule_that_compares_updates_takes_no_crowd() -> None:
    crowd = "[round]\ngoal = 5000\n[aggregation]\n"
    assert parse(f"{crowd}clip_quantile = 0.8\nzero_quantile = 0.98").round.goal == 5000
    with pytest.raises(
        InvalidPlan, match=r"round\.goal must be at most 4096, got 5000"
    ):
        parse(f'{crowd}rule = "median"')


def test_the_mean_of_updates_as_they_are_is_the_default() -> None:
    assert parse("").aggregation.is_plain
    for text in ("max_norm = 1.0", "clip_quantile = 0.8", "zero_quantile = 0.98"):
        assert not parse(f"[aggregation]\n{text}").aggregation.is_plain
    assert not parse('[aggregation]\nrule = "median"').aggregation.is_plain


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("", "train_epoch"),
        ("clip_norm = 1.0", "train_epoch_proximal"),
        ("proximal = 0.1", "train_epoch_proximal"),
        ("proximal = 0.1\nclip_norm = 1.0", "train_epoch_proximal"),
        ("momentum = 0.9\nclip_norm = 1.0", "train_epoch_momentum"),
        ("momentum = 0.9\nproximal = 0.1", "train_epoch_momentum_proximal"),
        ('optimizer = "adam"', "train_epoch_adam"),
        ('optimizer = "adam"\nclip_norm = 1.0', "train_epoch_adam"),
        ('optimizer = "adam"\nproximal = 0.1', "train_epoch_adam_proximal"),
    ],
)
def test_a_training_plan_names_the_signature_that_does_it(
    text: str, signature: str
) -> None:
    plan = parse(f"[training]\n{text}").training
    assert plan.signature == signature
    # It takes every setting that the plan makes use of.
    artefacts = pathlib.Path(__file__).parents[2] / "tflite_models" / "artefacts"
    shipped = (artefacts / "cnn" / "manifest.json").read_text()
    inputs = Manifest.model_validate_json(shipped).signatures[signature].inputs
    set_here = plan.model_fields_set - {"optimizer"}
    assert set_here <= {argument.name for argument in inputs}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('optimizer = "adam"\nmomentum = 0.9', "adam takes no momentum, got 0.9"),
        ('optimizer = "adam"\nnesterov = true', "adam takes no nesterov"),
        ("beta_1 = 0.5", "sgd takes no beta_1"),
        ("nesterov = true", "nesterov needs a momentum above 0"),
        ("clip_norm = 1e-7", "clip_norm must be 0 or at least 1e-06, got 1e-07"),
    ],
)
def test_settings_of_another_device_optimizer_are_refused(
    text: str, message: str
) -> None:
    with pytest.raises(InvalidPlan, match=message):
        parse(f"[training]\n{text}")


def test_an_asynchronous_plan_takes_no_over_selection():
    with pytest.raises(InvalidPlan, match=r"takes no round\.over_select, got 0\.3"):
        parse("[round]\nover_select = 0.3\n[asynchronous]\nconcurrency = 10")


def test_a_plan_without_the_table_is_synchronous():
    assert parse("").asynchronous is None
    assert parse("[asynchronous]").asynchronous is not None


def test_fine_tuning_is_training_for_epochs_of_its_own() -> None:
    text = "[training]\nepochs = 3\nlearning_rate = 0.5\nmax_shift = 1\n"
    plan = parse(text + "[evaluation]\npersonalize_epochs = 2")

    assert plan.personalization == plan.training.model_copy(update={"epochs": 2})
    assert parse(text).personalization is None
    assert parse(text + "[evaluation]\nevery = 1").personalization is None
