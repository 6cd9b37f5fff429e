"""Layers that change an example's shape or scale and hold no weights."""

import dataclasses

import tensorflow as tf

from tflite_models.gradients.layer import Pass, Shape, Tensors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """Another shape for the same values; flattening is one of them."""

    before: Shape
    after: Shape

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep nothing."""
        del weights, pass_
        return tf.reshape(x, (-1, *self.after)), ()

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Shape the gradient back."""
        del kept, weights, wants_input, wants_weights
        return tf.reshape(dy, (-1, *self.before)), ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling:
    """``y = scale * x + offset``."""

    scale: float
    offset: float

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep nothing."""
        del weights, pass_
        return x * self.scale + self.offset, ()

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Scale the gradient."""
        del kept, weights, wants_input, wants_weights
        return dy * self.scale, ()
