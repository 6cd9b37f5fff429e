"""The server optimizer: how an aggregate becomes the next version's weights.

Decides what settings make sense and which rate a round has. The arithmetic is
``compute.server_step``'s.
"""

import dataclasses
import math

from coordinator.domain.schedules import rate_of_round
from coordinator.protocol.plan_server import ServerOptimizerName, ServerPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """Settings of the optimizer whose gradient is ``-aggregate``, in one round.

    SGD with rate 1 and no momentum is FedAvg; with momentum it is FedAvgM. Adam, Yogi
    and Adagrad are FedAdam, FedYogi and FedAdagrad.

    Raises:
        ValueError: A setting is out of range, or Nesterov is set without momentum.

    Source: Reddi et al. 2021, "Adaptive Federated Optimization", algorithms 1 and 2;
        Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for
        Federated Visual Classification", section 4.3.
    """

    name: ServerOptimizerName = "sgd"
    learning_rate: float = 1.0  #: finite, above 0
    momentum: float = 0.0  #: in [0, 1); SGD's alone
    nesterov: bool = False
    beta_1: float = 0.9  #: in [0, 1); Adam's and Yogi's
    beta_2: float = 0.99  #: in [0, 1); Adam's and Yogi's
    epsilon: float = 1e-3  #: finite, above 0; the paper's tau; not SGD's

    def __post_init__(self) -> None:
        """Check the settings against each other."""
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        for name in ("momentum", "beta_1", "beta_2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, got 0")


def of_round(plan: ServerPlan, number: int) -> ServerOptimizer:
    """Return the optimizer of a task's round, with the rate that this round has.

    Args:
        plan: The same in every round of a task.
        number: The round's number within its task, from 1. Attempts do not count.
    """
    return ServerOptimizer(
        name=plan.optimizer,
        learning_rate=rate_of_round(plan, number),
        momentum=plan.momentum,
        nesterov=plan.nesterov,
        beta_1=plan.beta_1,
        beta_2=plan.beta_2,
        epsilon=plan.epsilon,
    )
