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
