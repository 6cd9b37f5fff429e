"""What a layer with a gradient is."""

import dataclasses
from typing import Protocol

import tensorflow as tf

from tflite_models import noise

Shape = tuple[int, ...]
Tensors = tuple[tf.Tensor, ...]


class UnsupportedLayer(ValueError):
    """A Keras layer, or one of its settings, has no gradient here."""

    def __init__(self, name: str, kind: str, setting: str) -> None:
        super().__init__(f"layer {name!r} ({kind}): {setting}")
        self.name = name
        self.kind = kind
        self.setting = setting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over a batch. ``noise`` is None outside training."""

    noise: noise.Noise | None


class Layer(Protocol):
    """A layer: its weights' shapes, its forward and its backward pass.

    Weights are handed over in the shapes that ``weights`` states: the same numbers in
    the same order as in Keras, in whatever shape the products want.
    """

    @property
    def weights(self) -> tuple[Shape, ...]:
        """Shapes of the weights, in the order of the flat vector."""
        ...

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Return the output and what `backward` needs of this pass."""
        ...

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Return the gradients of the input and of the weights.

        Args:
            dy: Gradient of the output.
            kept: What `forward` kept.
            weights: The weights that `forward` saw.
            wants_input: False: nothing before this layer is trained; the first result
                may be None.
            wants_weights: False: the layer is frozen; the second result is empty.
        """
        ...
