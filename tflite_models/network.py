"""A whole model: layers in a row, and how its weights lie in one flat vector."""

import dataclasses
import itertools
import math
from typing import Self

import keras
import tensorflow as tf

from tflite_models.gradients import activations, registry
from tflite_models.gradients.convolution import Convolution, PooledConvolution
from tflite_models.gradients.layer import Layer, Pass, Shape, Tensors, UnsupportedLayer
from tflite_models.gradients.pooling import MaxPool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One layer of a network."""

    layer: Layer
    is_trained: bool

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(map(math.prod, self.layer.weights))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model that ends in logits.

    Weights are handed over as one tensor tuple a stage, in the layers' own shapes.
    """

    stages: tuple[Stage, ...]
    input_shape: Shape
    classes: int

    @classmethod
    def of(cls, model: keras.Sequential) -> Self:
        """Return the network of a built Keras model; a last softmax is left off.

        Raises:
            UnsupportedLayer: A layer has no gradient here, or the last one is not Dense
                with softmax or linear activation.
        """
        if not isinstance(model, keras.Sequential) or not model.built:
            raise UnsupportedLayer(
                model.name, type(model).__name__, "must be a built keras.Sequential"
            )
        *inner, last = model.layers
        stages = [
            stage
            for place, layer in enumerate(inner)
            for stage in _stages(layer, registry.translate(layer, place=place))
        ]
        stages += _stages(last, _logits(last, place=len(inner)))
        return cls(
            stages=tuple(_fuse(stages)),
            input_shape=tuple(model.input_shape[1:]),
            classes=last.units,
        )

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(stage.size for stage in self.stages)

    @property
    def trained_size(self) -> int:
        """Number of weights that are trained."""
        return sum(stage.size for stage in self.stages if stage.is_trained)

    def unpack(self, flat: tf.Tensor) -> list[Tensors]:
        """Return each stage's weights out of the vector, shape (size,)."""
        shapes = [shape for stage in self.stages for shape in stage.layer.weights]
        pieces = iter(tf.split(flat, [math.prod(shape) for shape in shapes]))
        return [
            tuple(tf.reshape(next(pieces), shape) for shape in stage.layer.weights)
            for stage in self.stages
        ]

    def trained(self, weights: list[Tensors]) -> Tensors:
        """Return the tensors that are trained, in the order of the flat vector."""
        return tuple(
            tensor
            for stage, tensors in zip(self.stages, weights, strict=True)
            if stage.is_trained
            for tensor in tensors
        )

    def merge(self, weights: list[Tensors], trained: Tensors) -> list[Tensors]:
        """Return each stage's weights: ``trained`` where it is trained, else as is."""
        rest = iter(trained)
        return [
            tuple(itertools.islice(rest, len(tensors))) if stage.is_trained else tensors
            for stage, tensors in zip(self.stages, weights, strict=True)
        ]

    def pack_trained(self, weights: list[Tensors]) -> tf.Tensor:
        """Return the trained weights as one vector, shape (trained_size,)."""
        trained = [tf.reshape(tensor, (-1,)) for tensor in self.trained(weights)]
        return tf.concat(trained, 0)

    def pick_trained(self, flat: tf.Tensor) -> tf.Tensor:
        """Return the part of a vector, shape (size,), that is trained."""
        if self.trained_size == self.size:
            return flat
        pieces = tf.split(flat, [stage.size for stage in self.stages])
        trained = [
            piece
            for stage, piece in zip(self.stages, pieces, strict=True)
            if stage.is_trained
        ]
        return tf.concat(trained, 0)

    def forward(
        self, x: tf.Tensor, weights: list[Tensors], pass_: Pass
    ) -> tuple[tf.Tensor, list[Tensors]]:
        """Return logits, shape (batch, classes), and what the layers kept."""
        kept = []
        for stage, tensors in zip(self.stages, weights, strict=True):
            x, keeps = stage.layer.forward(x, tensors, pass_)
            kept.append(keeps)
        return x, kept

    def backward(
        self, dlogits: tf.Tensor, kept: list[Tensors], weights: list[Tensors]
    ) -> list[Tensors]:
        """Return each stage's gradients; those of stages not trained are empty."""
        gradients: list[Tensors] = [()] * len(self.stages)
        first = next(i for i, stage in enumerate(self.stages) if stage.is_trained)
        dy = dlogits
        for i in reversed(range(first, len(self.stages))):
            dy, gradients[i] = self.stages[i].layer.backward(
                dy,
                kept[i],
                weights[i],
                wants_input=i > first,
                wants_weights=self.stages[i].is_trained,
            )
        return gradients


def _stages(layer: keras.layers.Layer, translated: list[Layer]) -> list[Stage]:
    trained = {bool(weight.trainable) for weight in layer.weights}
    if len(trained) > 1:
        raise UnsupportedLayer(
            layer.name, type(layer).__name__, "must be trained or frozen as a whole"
        )
    return [
        Stage(layer=each, is_trained=bool(each.weights) and trained == {True})
        for each in translated
    ]


def _logits(last: keras.layers.Layer, *, place: int) -> list[Layer]:
    kind = type(last).__name__
    if not isinstance(last, keras.layers.Dense):
        raise UnsupportedLayer(last.name, kind, "the last layer must be Dense")
    activation = registry.activation_name(last)
    if activation not in {"softmax", "linear"}:
        raise UnsupportedLayer(
            last.name,
            kind,
            f"the last activation must be softmax or linear, got {activation}",
        )
    if activation == "linear":
        return registry.translate(last, place=place)
    config = last.get_config() | {"activation": "linear"}
    linear = keras.layers.Dense.from_config(config)
    twin = keras.Sequential([keras.Input(last.input.shape[1:]), linear])
    return registry.translate(twin.layers[0], place=place)


def _fuse(stages: list[Stage]) -> list[Stage]:
    """Join each convolution with the ReLU and the max-pool that follow it."""
    fused = []
    rest = stages
    while rest:
        joined = _join_pooled(rest)
        if joined is None:
            fused.append(rest[0])
            rest = rest[1:]
        else:
            fused.append(joined[0])
            rest = rest[joined[1] :]
    return fused


def _join_pooled(stages: list[Stage]) -> tuple[Stage, int] | None:
    """Return the fused first stage and how many it stands for, if it can be fused."""
    following = [stage.layer for stage in itertools.islice(stages, 1, 3)]
    relu = bool(following) and following[0] is activations.RELU
    pool = following[relu] if len(following) > relu else None
    convolution = stages[0].layer
    if not isinstance(convolution, Convolution) or not isinstance(pool, MaxPool):
        return None
    layer = PooledConvolution(
        window=convolution.window,
        filters=convolution.filters,
        use_bias=convolution.use_bias,
        pool=pool.tiles.side,
        relu=relu,
    )
    return Stage(layer=layer, is_trained=stages[0].is_trained), 2 + relu
