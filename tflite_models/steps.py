"""What the training file computes: a step, an epoch, predictions and an evaluation.

Everything is a function of its inputs; no state stays in the file.
"""

import dataclasses
import itertools

import tensorflow as tf

from tflite_models import noise
from tflite_models.gradients.layer import Pass, Tensors
from tflite_models.network import Network
from tflite_models.optimizers import Rule, Sgd, State

_PREDICT = Pass(noise=None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a pass over examples adds up; each has shape (), float32."""

    loss_sum: tf.Tensor
    correct: tf.Tensor
    count: tf.Tensor

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums over both."""
        return Sums(
            loss_sum=self.loss_sum + other.loss_sum,
            correct=self.correct + other.correct,
            count=self.count + other.count,
        )

    def named(self) -> dict[str, tf.Tensor]:
        """Return the sums as a signature's outputs."""
        return {
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "count": self.count,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How logits fare against labels."""

    sums: Sums
    errors: tf.Tensor  # shape (batch, classes): gradient of each example's loss


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The computations of one network."""

    network: Network

    def train(
        self,
        *,
        x: tf.Tensor,
        y: tf.Tensor,
        mask: tf.Tensor,
        learning_rate: tf.Tensor,
        seed: tf.Tensor,
        weights: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Take one step of SGD; see the signature."""
        start = self.network.unpack(weights)
        trained = self.network.trained(start)
        optimizer = Sgd(learning_rate=learning_rate)
        sums, gradients = self._differentiate(
            x=x,
            y=y,
            mask=mask,
            scale=optimizer.scale,
            draws=noise.Noise.of(seed=seed, step=tf.constant(0), mask=mask),
            weights=start,
        )
        stepped, _ = optimizer.descend(trained, gradients, optimizer.start(trained))
        end = self.network.merge(start, stepped)
        return {"delta": self._delta(weights, end), **sums.named()}

    def train_epoch(
        self,
        rule: Rule,
        *,
        x: tf.Tensor,
        y: tf.Tensor,
        index: tf.Tensor,
        mask: tf.Tensor,
        seed: tf.Tensor,
        weights: tf.Tensor,
        **settings: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Take a step by a rule for each row of ``index``; see the signature."""
        start = self.network.unpack(weights)
        origin = self.network.trained(start)
        steps = tf.shape(index)[0]
        optimizer = rule.build(origin, **settings)

        # Only what changes is carried; LiteRT copies it once a step.
        def body(
            step: tf.Tensor, sums: Tensors, trained: Tensors, state: State
        ) -> tuple[tf.Tensor, Tensors, Tensors, State]:
            rows = tf.gather(index, step)  # (batch,)
            present = tf.gather(mask, step)  # (batch,)
            more, gradients = self._differentiate(
                x=tf.gather(x, rows),
                y=tf.gather(y, rows),
                mask=present,
                scale=optimizer.scale,
                draws=noise.Noise.of(seed=seed, step=step, mask=present),
                weights=self.network.merge(start, trained),
            )
            total = Sums(loss_sum=sums[0], correct=sums[1], count=sums[2]).plus(more)
            stepped, state = optimizer.descend(trained, gradients, state)
            sums = (total.loss_sum, total.correct, total.count)
            return step + 1, sums, stepped, state

        zero = tf.constant(0.0)
        _, sums, trained, _ = tf.while_loop(
            lambda step, *_: step < steps,
            body,
            (
                tf.constant(0),
                (zero, zero, zero),
                origin,
                optimizer.start(origin),
            ),
        )
        end = self.network.merge(start, trained)
        return {
            "delta": self._delta(weights, end),
            "loss_sum": sums[0],
            "correct": sums[1],
            "count": sums[2],
        }

    def infer(self, *, x: tf.Tensor, weights: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predict; see the signature."""
        logits, _ = self.network.forward(x, self.network.unpack(weights), _PREDICT)
        return {"probabilities": tf.nn.softmax(logits)}

    def evaluate(
        self, *, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Score predictions; see the signature."""
        logits, _ = self.network.forward(x, self.network.unpack(weights), _PREDICT)
        return self._score(logits, y, mask).sums.named()

    def _differentiate(
        self,
        *,
        x: tf.Tensor,
        y: tf.Tensor,
        mask: tf.Tensor,
        scale: tf.Tensor,
        draws: noise.Noise,
        weights: list[Tensors],
    ) -> tuple[Sums, Tensors]:
        """Return a batch's sums and the gradients of ``scale`` times its mean loss."""
        logits, kept = self.network.forward(x, weights, Pass(noise=draws))
        score = self._score(logits, y, mask)
        # a batch of padding alone moves nothing
        share = mask * (scale / tf.maximum(score.sums.count, 1.0))  # (batch,)
        dlogits = score.errors * tf.expand_dims(share, -1)
        gradients = self.network.backward(dlogits, kept, weights)
        return score.sums, tuple(itertools.chain.from_iterable(gradients))

    def _score(self, logits: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> Score:
        """Softmax cross-entropy in closed form, with its gradient."""
        shifted = logits - tf.reduce_max(logits, -1, keepdims=True)
        powers = tf.exp(shifted)
        total = tf.reduce_sum(powers, -1, keepdims=True)
        hot = tf.one_hot(y, self.network.classes, dtype=tf.float32)
        losses = tf.squeeze(tf.math.log(total), -1) - tf.reduce_sum(shifted * hot, -1)
        hits = tf.equal(tf.argmax(logits, -1, output_type=tf.int32), y)
        sums = Sums(
            loss_sum=tf.reduce_sum(losses * mask),
            correct=tf.reduce_sum(tf.cast(hits, tf.float32) * mask),
            count=tf.reduce_sum(mask),
        )
        return Score(sums=sums, errors=powers / total - hot)

    def _delta(self, start: tf.Tensor, end: list[Tensors]) -> tf.Tensor:
        return self.network.pack_trained(end) - self.network.pick_trained(start)
