"""What the training file computes: a step, an epoch, predictions and an evaluation.

Everything is a function of its inputs; no state stays in the file.
"""

import dataclasses

import tensorflow as tf

from tflite_models import noise
from tflite_models.gradients.layer import Pass, Tensors
from tflite_models.network import Network

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
class Sgd:
    """Plain stochastic gradient descent.

    The learning rate is applied to the gradient of the logits, which is small, and so
    reaches the weights' gradients without another pass over them: all are linear in it.
    """

    def scale(self, learning_rate: tf.Tensor) -> tf.Tensor:
        """Return what the loss's gradient is multiplied with."""
        return learning_rate

    def start(self, weights: list[Tensors]) -> Tensors:
        """Return the state before the first step: none."""
        del weights
        return ()

    def descend(
        self, weights: list[Tensors], gradients: list[Tensors], state: Tensors
    ) -> tuple[list[Tensors], Tensors]:
        """Return weights and state after a step; stages without gradients stay."""
        stepped = [
            tuple(w - g for w, g in zip(tensors, slopes, strict=True))
            if slopes
            else tensors
            for tensors, slopes in zip(weights, gradients, strict=True)
        ]
        return stepped, state


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The computations of one network under one optimizer."""

    network: Network
    optimizer: Sgd

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
        """Take one step; see the signature."""
        start = self.network.unpack(weights)
        draws = noise.Noise.of(seed=seed, step=tf.constant(0), mask=mask)
        scale = self.optimizer.scale(learning_rate)
        sums, gradients = self._differentiate(
            x=x, y=y, mask=mask, scale=scale, draws=draws, weights=start
        )
        end, _ = self.optimizer.descend(start, gradients, self.optimizer.start(start))
        return {"delta": self._delta(weights, end), **sums.named()}

    def train_epoch(
        self,
        *,
        x: tf.Tensor,
        y: tf.Tensor,
        index: tf.Tensor,
        mask: tf.Tensor,
        learning_rate: tf.Tensor,
        seed: tf.Tensor,
        weights: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Take a step for each row of ``index``; see the signature."""
        start = self.network.unpack(weights)
        steps = tf.shape(index)[0]
        scale = self.optimizer.scale(learning_rate)

        # Only what changes is carried; LiteRT copies it once a step.
        def body(
            step: tf.Tensor, sums: Tensors, trained: list[Tensors], state: Tensors
        ) -> tuple[tf.Tensor, Tensors, list[Tensors], Tensors]:
            rows = tf.gather(index, step)  # (batch,)
            present = tf.gather(mask, step)  # (batch,)
            current = self._merge(start, trained)
            more, gradients = self._differentiate(
                x=tf.gather(x, rows),
                y=tf.gather(y, rows),
                mask=present,
                scale=scale,
                draws=noise.Noise.of(seed=seed, step=step, mask=present),
                weights=current,
            )
            total = Sums(loss_sum=sums[0], correct=sums[1], count=sums[2]).plus(more)
            stepped, state = self.optimizer.descend(current, gradients, state)
            return (
                step + 1,
                (total.loss_sum, total.correct, total.count),
                self._trained(stepped),
                state,
            )

        zero = tf.constant(0.0)
        _, sums, trained, _ = tf.while_loop(
            lambda step, *_: step < steps,
            body,
            (
                tf.constant(0),
                (zero, zero, zero),
                self._trained(start),
                self.optimizer.start(start),
            ),
        )
        end = self._merge(start, trained)
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
    ) -> tuple[Sums, list[Tensors]]:
        """Return a batch's sums and the gradients of ``scale`` times its mean loss."""
        logits, kept = self.network.forward(x, weights, Pass(noise=draws))
        score = self._score(logits, y, mask)
        # a batch of padding alone moves nothing
        share = mask * (scale / tf.maximum(score.sums.count, 1.0))  # (batch,)
        dlogits = score.errors * tf.expand_dims(share, -1)
        return score.sums, self.network.backward(dlogits, kept, weights)

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

    def _trained(self, weights: list[Tensors]) -> list[Tensors]:
        pairs = zip(self.network.stages, weights, strict=True)
        return [tensors for stage, tensors in pairs if stage.is_trained]

    def _merge(self, start: list[Tensors], trained: list[Tensors]) -> list[Tensors]:
        """Return all weights: ``trained`` where a stage is trained, else ``start``."""
        carried = iter(trained)
        return [
            next(carried) if stage.is_trained else tensors
            for stage, tensors in zip(self.network.stages, start, strict=True)
        ]

    def _delta(self, start: tf.Tensor, end: list[Tensors]) -> tf.Tensor:
        return self.network.pack_trained(end) - self.network.pick_trained(start)
