"""The server optimizer: how an aggregate becomes the next version's weights.

Decides what settings make sense. The arithmetic is ``compute.server_step``'s.
"""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """Settings of the optimizer whose gradient is ``-aggregate``.

    SGD with rate 1 and no momentum is FedAvg; with momentum it is FedAvgM.

    Raises:
        ValueError: A setting is out of range, or Nesterov is set without momentum.

    Source: Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 1; Hsu et
        al. 2019, "Measuring the Effects of Non-Identical Data Distribution for
        Federated Visual Classification", section 4.3.
    """

    name: Literal["sgd"] = "sgd"
    learning_rate: float = 1.0  #: finite, above 0
    momentum: float = 0.0  #: in [0, 1)
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Check the settings against each other."""
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate must be finite and above 0, got {self.learning_rate}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, got 0")
