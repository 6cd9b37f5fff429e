"""The fully connected layer."""

import dataclasses

import tensorflow as tf

from tflite_models.gradients.layer import Pass, Shape, Tensors
from tflite_models.gradients.products import multiply


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """``y = x W + b`` without an activation."""

    inputs: int
    units: int
    use_bias: bool

    @property
    def weights(self) -> tuple[Shape, ...]:
        """Kernel (1, inputs, units) and bias (units,)."""
        kernel = (1, self.inputs, self.units)
        return (kernel, (self.units,)) if self.use_bias else (kernel,)

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep the input."""
        del pass_
        x = tf.expand_dims(x, 0)
        y = tf.reshape(multiply(x, weights[0]), (-1, self.units))
        return (y + weights[1] if self.use_bias else y), (x,)

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Two products and a sum over the batch."""
        lifted = tf.expand_dims(dy, 0)
        dx = None
        if wants_input:
            dx = multiply(lifted, weights[0], transpose_b=True)
            dx = tf.reshape(dx, (-1, self.inputs))
        if not wants_weights:
            return dx, ()
        kernel = multiply(kept[0], lifted, transpose_a=True)
        if not self.use_bias:
            return dx, (kernel,)
        return dx, (kernel, tf.reduce_sum(dy, 0))
