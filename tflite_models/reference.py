"""The same training by Keras and automatic differentiation, to compare with.

Slow and plain on purpose: it shares no gradient with the training file. Only dropout's
masks come from `noise`, since no two generators draw alike.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

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


def optimizer(settings: Mapping[str, float]) -> keras.optimizers.Optimizer:
    """Return Keras's own optimizer for a signature's settings, but for `proximal`."""
    clip_norm = settings.get("clip_norm") or None
    if "beta_1" in settings:
        return keras.optimizers.Adam(
            settings["learning_rate"],
            beta_1=settings["beta_1"],
            beta_2=settings["beta_2"],
            epsilon=settings["epsilon"],
            global_clipnorm=clip_norm,
        )
    return keras.optimizers.SGD(
        settings["learning_rate"],
        momentum=settings.get("momentum", 0.0),
        nesterov=settings.get("nesterov", 0.0) > 0,
        global_clipnorm=clip_norm,
    )


def train(
    model: keras.Sequential,
    *,
    x: Vector,
    y: Labels,
    learning_rate: float,
    seed: int,
    weights: Vector,
) -> Outcome:
    """Take one step of SGD; otherwise as `train_epoch`."""
    return train_epoch(
        model,
        x=x,
        y=y,
        batches=[np.arange(len(y), dtype=np.int32)],
        settings={"learning_rate": learning_rate},
        seed=seed,
        weights=weights,
    )


def train_epoch(
    model: keras.Sequential,
    *,
    x: Vector,
    y: Labels,
    batches: Sequence[Labels],
    settings: Mapping[str, float],
    seed: int,
    weights: Vector,
) -> Outcome:
    """Take one step a batch on the mean loss. Leaves the model at the new weights.

    With a setting `proximal` the loss grows by half of it times the squared distance
    of the trained weights from where they began.

    Args:
        model: Its weights are overwritten.
        x: shape (examples, *input_shape).
        y: shape (examples,).
        batches: Rows of ``x``, each shape (batch,).
        settings: What a signature takes as inputs, by name.
        seed: Draws the dropout masks.
        weights: All weights in manifest order.
    """
    proximal = settings.get("proximal", 0.0)
    chosen = optimizer(settings)
    building.assign(model, weights)
    trained = [weight for layer in model.layers for weight in layer.trainable_weights]
    origin = [tf.identity(weight.value) for weight in trained]
    loss_sum = correct = count = 0.0
    for step, rows in enumerate(batches):
        draws = Noise.of(
            seed=tf.constant(seed, tf.int32),
            step=tf.constant(step, tf.int32),
            mask=tf.ones(len(rows)),
        )
        with tf.GradientTape() as tape:
            scores = _forward(model, tf.constant(x[rows]), draws)
            losses = keras.losses.sparse_categorical_crossentropy(
                y[rows], scores, from_logits=_ends_in_logits(model)
            )
            loss = tf.reduce_mean(losses)
            for weight, start in zip(trained, origin, strict=True):
                loss += proximal / 2 * tf.reduce_sum((weight.value - start) ** 2)
        gradients = tape.gradient(loss, [weight.value for weight in trained])
        chosen.apply(gradients, trained)
        loss_sum += float(tf.reduce_sum(losses))
        correct += float(np.sum(np.argmax(scores.numpy(), -1) == y[rows]))
        count += len(rows)
    return Outcome(
        delta=_trained(
            building.describe_tensors(model), building.flatten(model) - weights
        ),
        loss_sum=loss_sum,
        correct=correct,
        count=count,
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
