"""Yogi, which Keras lacks: Adam whose mean square grows and shrinks by steps.

Source: Zaheer et al. 2018, "Adaptive Methods for Nonconvex Optimization", algorithm 2;
    Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2 (FedYogi).
"""

from collections.abc import Sequence

import keras
import numpy as np

from coordinator.compute.backend import Tensor


class Yogi(keras.Optimizer):  # type: ignore[misc]  # Keras ships no types
    """Yogi of one variable, with the bias correction of Keras' Adam.

    The mean square ``v`` moves by at most ``(1 - beta_2) * g ** 2`` a step, so a few
    large gradients do not shrink the steps as suddenly as Adam's do, and a few small
    ones do not lengthen them as suddenly.
    """

    def __init__(
        self,
        *,
        learning_rate: Tensor,
        beta_1: np.float64,
        beta_2: np.float64,
        epsilon: np.float64,
        name: str,
    ) -> None:
        """Take the settings of Keras' Adam."""
        super().__init__(learning_rate=learning_rate, name=name)
        self._beta_1 = beta_1
        self._beta_2 = beta_2
        self._epsilon = epsilon

    def build(self, variables: Sequence[Tensor]) -> None:
        """Make the state of the one variable, all zero."""
        (variable,) = variables
        super().build(variables)
        self._mean = self.add_variable_from_reference(variable, "momentum")
        self._mean_square = self.add_variable_from_reference(variable, "velocity")

    def update_step(
        self, gradient: Tensor, variable: Tensor, learning_rate: Tensor
    ) -> None:
        """Move the variable by one step."""
        step = keras.ops.cast(self.iterations + 1, "float64")
        rate = keras.ops.cast(learning_rate, "float64") * (
            keras.ops.sqrt(1 - keras.ops.power(self._beta_2, step))
            / (1 - keras.ops.power(self._beta_1, step))
        )
        mean = self._mean + (1 - self._beta_1) * (gradient - self._mean)
        square = keras.ops.square(gradient)
        sign = keras.ops.sign(self._mean_square - square)
        mean_square = self._mean_square - (1 - self._beta_2) * sign * square
        self.assign(self._mean, mean)
        self.assign(self._mean_square, mean_square)
        self.assign_sub(
            variable, rate * mean / (keras.ops.sqrt(mean_square) + self._epsilon)
        )
