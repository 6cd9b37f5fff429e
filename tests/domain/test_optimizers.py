import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.optimizers import ServerOptimizer
from coordinator.protocol.plans import ServerPlan

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
    optimizer = ServerOptimizer(
        name=plan.optimizer,
        learning_rate=plan.learning_rate,
        momentum=plan.momentum,
        nesterov=plan.nesterov,
    )
    assert optimizer.learning_rate == learning_rate
    assert optimizer.momentum == momentum


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
