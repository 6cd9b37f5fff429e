"""What a plan may promise: combinations that cannot hold are refused, saying why."""

from typing import Any

import dp_accounting
import pydantic
import pytest

from coordinator.protocol.plans import Plan

NONE: dict[str, Any] = {"population": 1000, "delta": 1e-4}
POISSON = {**NONE, "sampling": "poisson", "sampling_rate": 0.05}
BSR = {**NONE, "mechanism": "central_bsr", "bands": 8}
LOCAL = {**NONE, "mechanism": "local_gaussian"}
ADAPTIVE = {**NONE, "clip_quantile": 0.5}
ROUND = {"goal": 50, "minimum": 25}


def plan(
    privacy: dict[str, Any],
    **others: Any,  # noqa: ANN401 - any table of a plan
) -> Plan:
    return Plan.model_validate({"round": ROUND, "privacy": privacy, **others})


@pytest.mark.parametrize(
    ("privacy", "others"),
    [
        (NONE, {}),
        (NONE, {"participation": {"max_rounds": 3, "min_separation": 5}}),
        (NONE, {"update": {"encoding": "topk"}}),
        (NONE, {"update": {"encoding": "q8"}, "server": {"optimizer": "adam"}}),
        (NONE, {"gate": {"max_accuracy_drop": 0.05}}),
        (NONE, {"round": {**ROUND, "over_select": 0.3}}),
        (POISSON, {}),
        ({**POISSON, "clip_quantile": 0.5}, {}),
        (ADAPTIVE, {}),
        (BSR, {"participation": {"min_separation": 8}}),
        (LOCAL, {"participation": {"max_rounds": 3}}),
    ],
)
def test_plans_whose_promise_holds_are_taken(
    privacy: dict[str, Any], others: dict[str, Any]
) -> None:
    taken = plan(privacy, **others)

    assert Plan.model_validate_json(taken.model_dump_json()) == taken


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 60.0, 1000.0])
def test_the_least_noise_that_is_taken_is_the_accountants(epsilon: float) -> None:
    least = dp_accounting.get_sigma_gaussian(epsilon, 1e-4)
    settings = {**NONE, "epsilon": epsilon}

    plan({**settings, "noise_multiplier": 1.0001 * least})
    with pytest.raises(pydantic.ValidationError, match="too little"):
        plan({**settings, "noise_multiplier": 0.9999 * least})


@pytest.mark.parametrize(
    ("privacy", "others", "why"),
    [
        ({**NONE, "delta": 1e-3}, {}, "delta must be below 1 / population, 0.001"),
        ({"population": 1000}, {}, "delta"),
        ({"delta": 1e-4}, {}, "population"),
        (NONE, {"asynchronous": {}}, "no asynchronous rounds"),
        ({**NONE, "noise_multiplier": 0.3}, {}, "too little: one release would pass"),
        ({**LOCAL, "clip_quantile": 0.5}, {}, "local_gaussian takes no clip_quantile"),
        ({**POISSON, **LOCAL}, {}, "local_gaussian takes no sampling: the coordinator"),
        (LOCAL, {"update": {"encoding": "q8"}}, "takes no update.encoding, got q8"),
        (LOCAL, {"secagg": {}}, "local_gaussian takes no secagg: under it distributed"),
        (POISSON, {"asynchronous": {}}, "no asynchronous rounds"),
        (NONE, {"aggregation": {"rule": "median"}}, "rule mean alone, got median"),
        (NONE, {"aggregation": {"max_norm": 1.0}}, "privacy.clip_norm clips"),
        (NONE, {"aggregation": {"clip_quantile": 0.5}}, "privacy.clip_norm clips"),
        (NONE, {"aggregation": {"zero_quantile": 0.98}}, "no max_norm, clip_quantile"),
        (NONE, {"gate": {"max_loss_rise": 0.5}}, "no gate.max_loss_rise"),
        (NONE, {"gate": {"max_norm_ratio": 3.0}}, "gate.max_norm_ratio"),
        ({**NONE, "sampling_rate": 0.1}, {}, "sampling none takes no sampling_rate"),
        ({**NONE, "cap": 70}, {}, "sampling none takes no cap"),
        ({**NONE, "sampling": "poisson"}, {}, "poisson needs a sampling_rate"),
        (POISSON, {"participation": {"max_rounds": 2}}, "no participation limits"),
        (POISSON, {"participation": {"min_separation": 2}}, "no participation limits"),
        (POISSON, {"round": {**ROUND, "over_select": 0.3}}, "no round.over_select"),
        ({**POISSON, "cap": 1001}, {}, "at most the population 1000, got 1001"),
        (POISSON, {"round": {"goal": 50, "minimum": 36}}, "at most 35 where 50 dev"),
        ({**POISSON, "cap": 24}, {}, "round.minimum must be at most"),
        (BSR, {}, "min_separation of at least bands 8, got None"),
        (BSR, {"participation": {"min_separation": 7}}, "at least bands 8, got 7"),
        (
            {**BSR, "sampling": "poisson", "sampling_rate": 0.05},
            {"participation": {"min_separation": 8}},
            "central_bsr takes no sampling",
        ),
        (
            {**BSR, "clip_quantile": 0.5},
            {"participation": {"min_separation": 8}},
            "central_bsr takes no clip_quantile",
        ),
        (
            BSR,
            {"participation": {"min_separation": 8}, "rounds": 2001},
            "at most 2000 rounds, got 2001",
        ),
        ({**NONE, "bands": 4}, {}, "central_gaussian takes no bands"),
        ({**NONE, "clip_rate": 0.5}, {}, "without clip_quantile takes no clip_rate"),
        ({**NONE, "count_noise": 0.5}, {}, "clip_quantile takes no count_noise"),
        (
            {**ADAPTIVE, "noise_multiplier": 5.0},
            {},
            "noise_multiplier must be below 5, twice the noise of the counts",
        ),
    ],
)
def test_plans_whose_promise_cannot_hold_are_refused(
    privacy: dict[str, Any], others: dict[str, Any], why: str
) -> None:
    with pytest.raises(pydantic.ValidationError, match=why):
        plan(privacy, **others)


@pytest.mark.parametrize(
    ("settings", "expected", "most"),
    [
        ({}, 50.0, 75),
        ({"cap": 60}, 50.0, 60),
        ({"sampling_rate": 0.0501}, 50.1, 76),
    ],
)
def test_the_cap_is_half_as_many_again_as_are_expected(
    settings: dict[str, Any], expected: float, most: int
) -> None:
    privacy = plan({**POISSON, **settings}).privacy

    assert privacy is not None
    assert privacy.expected == pytest.approx(expected)
    assert privacy.most_chosen == most
