import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain import optimizers
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.protocol.plan_server import ServerPlan

RATES = st.floats(0, 100, exclude_min=True)


@given(
    learning_rate=RATES,
    momentum=st.floats(0, 1, exclude_max=True),
    nesterov=st.booleans(),
)
def test_every_plan_of_a_server_step_makes_an_optimizer(
    learning_rate: float, momentum: float, *, nesterov: bool
) -> None:
    fields = {
        "learning_rate": learning_rate,
        "momentum": momentum,
        "nesterov": nesterov and momentum > 0,
    }
    plan = ServerPlan.model_validate(fields)
    assert optimizers.of_round(plan, 1) == ServerOptimizer(**fields)  # type: ignore[arg-type]


def test_an_adaptive_plan_makes_its_optimizer() -> None:
    plan = ServerPlan(optimizer="yogi", beta_1=0.5, beta_2=0.8, epsilon=0.01)
    assert optimizers.of_round(plan, 3) == ServerOptimizer(
        name="yogi", beta_1=0.5, beta_2=0.8, epsilon=0.01
    )


def rates(rounds: int, **fields: object) -> list[float]:
    plan = ServerPlan.model_validate({"learning_rate": 8.0, **fields})
    return [
        optimizers.of_round(plan, number).learning_rate
        for number in range(1, rounds + 1)
    ]


def test_a_rate_is_constant_unless_a_schedule_says_otherwise() -> None:
    assert rates(3) == [8.0, 8.0, 8.0]


def test_an_exponential_schedule_leaves_the_same_share_every_round() -> None:
    assert rates(5, schedule="exponential", decay_rounds=2, decay_rate=0.25) == [
        8.0,
        4.0,
        2.0,
        1.0,
        0.5,
    ]


def test_a_step_schedule_falls_all_at_once() -> None:
    assert rates(5, schedule="step", decay_rounds=2, decay_rate=0.25) == [
        8.0,
        8.0,
        2.0,
        2.0,
        0.5,
    ]


def test_a_cosine_schedule_falls_slowly_at_its_ends_and_stays_at_its_last() -> None:
    fallen = rates(6, schedule="cosine", decay_rounds=4, decay_rate=0.25)
    # From 8 to 2: the mean of both half-way, and the same way from either end.
    assert fallen == pytest.approx([8.0, 5 + 3 * 0.5**0.5, 5.0, 5 - 3 * 0.5**0.5, 2, 2])


@pytest.mark.parametrize("schedule", ["exponential", "step", "cosine"])
def test_a_schedule_starts_after_the_warm_up(schedule: str) -> None:
    fields = {"schedule": schedule, "decay_rounds": 3}
    warmed = rates(8, **fields, warmup_rounds=4)
    assert warmed == [2.0, 4.0, 6.0, 8.0, *rates(4, **fields)]


def test_a_rate_that_fell_for_ever_is_still_above_zero() -> None:
    (last,) = rates(1, learning_rate=5e-324, warmup_rounds=1_000_000)
    assert last > 0
    plan = ServerPlan(schedule="exponential", decay_rounds=1, decay_rate=1e-300)
    assert optimizers.of_round(plan, 1_000_000).learning_rate > 0


@pytest.mark.parametrize("learning_rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_is_finite_and_above_zero(learning_rate: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, got {learning_rate}"):
        ServerOptimizer(learning_rate=learning_rate)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
def test_a_momentum_lies_below_one(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"got {momentum}"):
        ServerOptimizer(momentum=momentum)


def test_nesterov_has_a_momentum_to_look_ahead_with() -> None:
    with pytest.raises(ValueError, match="momentum above 0"):
        ServerOptimizer(nesterov=True)


@pytest.mark.parametrize("field", ["beta_1", "beta_2"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_what_is_kept_of_a_moment_lies_below_one(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} must lie in \[0, 1\), got {value}"):
        ServerOptimizer(name="adam", **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.0, math.nan, math.inf])
def test_an_epsilon_is_finite_and_above_zero(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon .* above 0, got {epsilon}"):
        ServerOptimizer(name="adam", epsilon=epsilon)
