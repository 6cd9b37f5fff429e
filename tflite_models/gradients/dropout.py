"""Inverted dropout whose masks are a function of the seed."""

import dataclasses
import math

import tensorflow as tf

from tflite_models.gradients.layer import Pass, Shape, Tensors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """Zero a share of ``rate`` of the values and scale up the others.

    ``stream`` tells the dropout layers of a model apart.
    """

    rate: float
    shape: Shape
    stream: int

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep the mask, already scaled; outside training do nothing."""
        del weights
        if pass_.noise is None or self.rate == 0:
            return x, ()
        drawn = pass_.noise.uniform(self.stream, math.prod(self.shape))
        keeps = tf.cast(drawn >= self.rate, tf.float32) * (1.0 / (1.0 - self.rate))
        mask = tf.reshape(keeps, (-1, *self.shape))
        return x * mask, (mask,)

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Drop the same places of the gradient."""
        del weights, wants_input, wants_weights
        return (dy * kept[0] if kept else dy), ()
