"""Elementwise activations whose derivative follows from their output."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

import tensorflow as tf

from tflite_models.gradients.layer import Pass, Shape, Tensors

Elementwise = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """``y = function(x)``; ``derivative`` is given y, not x."""

    function: Elementwise
    derivative: Elementwise

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep the output."""
        del weights, pass_
        y = self.function(x)
        return y, (y,)

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """One product, elementwise."""
        del weights, wants_input, wants_weights
        return dy * self.derivative(kept[0]), ()


RELU: Final = Activation(function=tf.nn.relu, derivative=tf.sign)

#: Keras's name -> activation; `linear` is no layer at all
BY_NAME: Final[Mapping[str, Activation]] = {
    "relu": RELU,
    "relu6": Activation(
        function=tf.nn.relu6, derivative=lambda y: tf.sign(y) * tf.sign(6.0 - y)
    ),
    "tanh": Activation(function=tf.tanh, derivative=lambda y: 1.0 - y * y),
    "sigmoid": Activation(function=tf.sigmoid, derivative=lambda y: y * (1.0 - y)),
}


def leaky_relu(slope: float) -> Activation:
    """Return the activation ``max(x, slope * x)``, slope in (0, 1)."""
    return Activation(
        function=lambda x: tf.maximum(x, slope * x),
        # sign(relu(y)) is 0 at y = 0, where TensorFlow takes the slope too
        derivative=lambda y: slope + (1.0 - slope) * tf.sign(tf.nn.relu(y)),
    )


def elu(alpha: float) -> Activation:
    """Return the activation ``x`` above 0, ``alpha * (exp(x) - 1)`` below."""
    return Activation(
        function=lambda x: tf.nn.relu(x) + alpha * (tf.exp(tf.minimum(x, 0.0)) - 1.0),
        derivative=lambda y: tf.where(y > 0.0, 1.0, y + alpha),
    )
