"""The same training by Keras and automatic differentiation, to compare with.

Slow and plain on purpose: it shares no gradient with the training file. Only dropout's
masks come from `noise`, since no two generators draw alike.
"""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from coordinator.protocol.manifest import TensorSpec, Vector
from tflite_models import building
from tflite_models.noise import Noise

Labels = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step or an epoch gives."""

    delta: Vector
    loss_sum: float
    correct: float
    count: float


def train(
    model: keras.Sequential,
    *,
    x: Vector,
    y: Labels,
    learning_rate: float,
    seed: int,
    weights: Vector,
    step: int = 0,
) -> Outcome:
    """Take one step of SGD on the mean loss. Leaves the model at the new weights.

    Args:
        model: Its weights are overwritten.
        x: shape (batch, *input_shape).
        y: shape (batch,).
        learning_rate: Step size.
        seed: Draws the dropout masks.
        weights: All weights in manifest order.
        step: Index of the step in its epoch; dropout's masks follow it.
    """
    building.assign(model, weights)
    draws = Noise.of(
        seed=tf.constant(seed, tf.int32),
        step=tf.constant(step, tf.int32),
        mask=tf.ones(len(y)),
    )
    variables = [
        weight.value for layer in model.layers for weight in layer.trainable_weights
    ]
    with tf.GradientTape() as tape:
        scores = _forward(model, tf.constant(x), draws)
        losses = keras.losses.sparse_categorical_crossentropy(
            y, scores, from_logits=_ends_in_logits(model)
        )
        loss = tf.reduce_mean(losses)
    for variable, gradient in zip(
        variables, tape.gradient(loss, variables), strict=True
    ):
        variable.assign_sub(learning_rate * gradient)
    return Outcome(
        delta=_trained(
            building.describe_tensors(model), building.flatten(model) - weights
        ),
        loss_sum=float(tf.reduce_sum(losses)),
        correct=float(np.sum(np.argmax(scores.numpy(), -1) == y)),
        count=float(len(y)),
    )


def train_epoch(
    model: keras.Sequential,
    *,
    x: Vector,
    y: Labels,
    batches: Sequence[Labels],
    learning_rate: float,
    seed: int,
    weights: Vector,
) -> Outcome:
    """Take one step a batch, each given as rows of ``x``; otherwise as `train`."""
    specs = building.describe_tensors(model)
    outcomes = []
    current = weights
    for step, rows in enumerate(batches):
        outcome = train(
            model,
            x=x[rows],
            y=y[rows],
            learning_rate=learning_rate,
            seed=seed,
            weights=current,
            step=step,
        )
        outcomes.append(outcome)
        current = building.flatten(model)
    return Outcome(
        delta=_trained(specs, current - weights),
        loss_sum=sum(outcome.loss_sum for outcome in outcomes),
        correct=sum(outcome.correct for outcome in outcomes),
        count=sum(outcome.count for outcome in outcomes),
    )


def predict(model: keras.Sequential, *, x: Vector, weights: Vector) -> Vector:
    """Return probabilities, shape (len(x), classes)."""
    building.assign(model, weights)
    scores = model(x, training=False)
    probabilities: Vector = (
        tf.nn.softmax(scores) if _ends_in_logits(model) else scores
    ).numpy()
    return probabilities


def _forward(model: keras.Sequential, x: tf.Tensor, draws: Noise) -> tf.Tensor:
    for place, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dropout):
            drawn = draws.uniform(place, math.prod(x.shape[1:]))
            keeps = tf.cast(tf.reshape(drawn, x.shape) >= layer.rate, tf.float32)
            x = x * keeps / (1.0 - layer.rate)
        else:
            x = layer(x)
    return x


def _ends_in_logits(model: keras.Sequential) -> bool:
    return bool(keras.activations.serialize(model.layers[-1].activation) == "linear")


def _trained(specs: Sequence[TensorSpec], flat: Vector) -> Vector:
    """Return the part of ``flat`` that belongs to trainable tensors."""
    return np.concatenate(
        [
            flat[spec.offset : spec.offset + spec.size]
            for spec in specs
            if spec.trainable
        ]
    )
