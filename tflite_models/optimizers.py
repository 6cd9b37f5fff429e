"""How gradients move weights: the optimizers of the training file.

Each is a function of what it is given and of a state that starts at zero with every
call, for a round begins anew on every device. Where a rule is linear in the gradient,
the learning rate is applied to the gradient of the logits, which is small, and reaches
the weights' gradients without another pass over them. A pass over all weights is what
costs here, so the formulas are arranged to have few.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import tensorflow as tf

from tflite_models.gradients.layer import Tensors

State = Any  # nested tuples of tensors
_TINY: Final = 1e-30  # keeps a division by a norm finite


class Optimizer(Protocol):
    """A rule for one step. Weights and gradients are the trained tensors, in order."""

    @property
    def scale(self) -> tf.Tensor:
        """What the loss's gradient is multiplied with, shape ()."""
        ...

    def start(self, weights: Tensors) -> State:
        """Return the state before the first step."""
        ...

    def descend(
        self, weights: Tensors, gradients: Tensors, state: State
    ) -> tuple[Tensors, State]:
        """Return weights and state after a step.

        Args:
            weights: What ``gradients`` were taken at.
            gradients: Gradients of the mean loss times `scale`.
            state: What the last step returned.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sgd:
    """Plain stochastic gradient descent."""

    learning_rate: tf.Tensor

    @property
    def scale(self) -> tf.Tensor:
        """The learning rate."""
        return self.learning_rate

    def start(self, weights: Tensors) -> State:
        """No state."""
        del weights
        return ()

    def descend(
        self, weights: Tensors, gradients: Tensors, state: State
    ) -> tuple[Tensors, State]:
        """Subtract the gradients."""
        pairs = zip(weights, gradients, strict=True)
        return tuple(w - g for w, g in pairs), state


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Momentum:
    """SGD with momentum, as Keras has it: v = momentum * v + g; w = w - v.

    With ``nesterov`` 1 instead of 0: w = w - (momentum * v + g).
    """

    learning_rate: tf.Tensor
    momentum: tf.Tensor
    nesterov: tf.Tensor

    @property
    def scale(self) -> tf.Tensor:
        """The learning rate."""
        return self.learning_rate

    def start(self, weights: Tensors) -> State:
        """No velocity."""
        return _zeros(weights, self.momentum)

    def descend(
        self, weights: Tensors, gradients: Tensors, state: State
    ) -> tuple[Tensors, State]:
        """Let the gradients change the velocity, and move by it."""
        looks_ahead = self.nesterov > 0.0
        of_velocity = tf.where(looks_ahead, self.momentum, 1.0)
        of_gradient = tf.where(looks_ahead, 1.0, 0.0)
        velocities = tuple(
            self.momentum * v + g for v, g in zip(state, gradients, strict=True)
        )
        stepped = tuple(
            w - (of_velocity * v + of_gradient * g)
            for w, v, g in zip(weights, velocities, gradients, strict=True)
        )
        return stepped, velocities


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam, with the epsilon where Keras has it.

    The state holds m / (1 - beta_1) and v / (1 - beta_2), two products fewer a step,
    and the sums 1 + beta + ... + beta^(t-1) = (1 - beta^t) / (1 - beta), in which the
    corrections of the bias need no difference of nearly equal numbers.

    Source: Kingma and Ba 2015, the form at the end of section 2.
    """

    learning_rate: tf.Tensor
    beta_1: tf.Tensor
    beta_2: tf.Tensor
    epsilon: tf.Tensor

    @property
    def scale(self) -> tf.Tensor:
        """One: the rule is not linear in the gradient."""
        return tf.constant(1.0)

    def start(self, weights: Tensors) -> State:
        """No moments and empty sums."""
        zeros = _zeros(weights, self.beta_1)
        return (zeros, zeros, tf.constant(0.0), tf.constant(0.0))

    def descend(
        self, weights: Tensors, gradients: Tensors, state: State
    ) -> tuple[Tensors, State]:
        """Move by the mean gradient, relative to its root mean square."""
        firsts, seconds, sum_1, sum_2 = state
        sum_1 = self.beta_1 * sum_1 + 1.0
        sum_2 = self.beta_2 * sum_2 + 1.0
        rate = self.learning_rate * tf.sqrt(sum_2) / sum_1
        epsilon = self.epsilon / tf.sqrt(1.0 - self.beta_2)
        firsts = tuple(
            self.beta_1 * m + g for m, g in zip(firsts, gradients, strict=True)
        )
        seconds = tuple(
            self.beta_2 * v + g * g for v, g in zip(seconds, gradients, strict=True)
        )
        stepped = tuple(
            w - rate * m / (tf.sqrt(v) + epsilon)
            for w, m, v in zip(weights, firsts, seconds, strict=True)
        )
        return stepped, (firsts, seconds, sum_1, sum_2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """Another optimizer, whose gradients are shortened to a global norm.

    With ``clip_norm`` 0 they stay as they are, to the bit.
    """

    inner: Optimizer
    clip_norm: tf.Tensor

    @property
    def scale(self) -> tf.Tensor:
        """As the inner one."""
        return self.inner.scale

    def start(self, weights: Tensors) -> State:
        """As the inner one."""
        return self.inner.start(weights)

    def descend(
        self, weights: Tensors, gradients: Tensors, state: State
    ) -> tuple[Tensors, State]:
        """Shorten, then let the inner one step."""
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g * g) for g in gradients]))
        shrink = tf.minimum(1.0, self.scale * self.clip_norm / tf.maximum(norm, _TINY))
        factor = tf.where(self.clip_norm > 0.0, shrink, 1.0)
        return self.inner.descend(weights, tuple(g * factor for g in gradients), state)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proximal:
    """Another optimizer, on the loss plus proximal / 2 * |w - origin|^2.

    Source: Li et al. 2020, "Federated Optimization in Heterogeneous Networks"
    (FedProx), equation 2; ``proximal`` is its mu.
    """

    inner: Optimizer
    proximal: tf.Tensor
    origin: Tensors  # the version that the round starts from

    @property
    def scale(self) -> tf.Tensor:
        """As the inner one."""
        return self.inner.scale

    def start(self, weights: Tensors) -> State:
        """As the inner one."""
        return self.inner.start(weights)

    def descend(
        self, weights: Tensors, gradients: Tensors, state: State
    ) -> tuple[Tensors, State]:
        """Add the pull back to the origin, then let the inner one step."""
        pull = self.scale * self.proximal
        pulled = tuple(
            g + pull * (w - start)
            for g, w, start in zip(gradients, weights, self.origin, strict=True)
        )
        return self.inner.descend(weights, pulled, state)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one signature trains with.

    ``settings`` are its inputs beside examples, seed and weights, named as the fields
    of a plan's ``training``. ``build`` takes the trained weights at the start, and the
    settings by name.
    """

    description: str
    settings: tuple[str, ...]
    build: Callable[..., Optimizer]


def _plain(origin: Tensors, **settings: tf.Tensor) -> Optimizer:
    del origin
    return Sgd(**settings)


def _clipped(
    optimizer: Callable[..., Optimizer],
) -> Callable[..., Optimizer]:
    def build(
        origin: Tensors, *, clip_norm: tf.Tensor, **settings: tf.Tensor
    ) -> Optimizer:
        del origin
        return Clipped(inner=optimizer(**settings), clip_norm=clip_norm)

    return build


def _proximal(
    optimizer: Callable[..., Optimizer],
) -> Callable[..., Optimizer]:
    clipped = _clipped(optimizer)

    def build(
        origin: Tensors, *, proximal: tf.Tensor, **settings: tf.Tensor
    ) -> Optimizer:
        inner = clipped(origin, **settings)
        return Proximal(inner=inner, proximal=proximal, origin=origin)

    return build


_MOMENTUM: Final = ("learning_rate", "momentum", "nesterov", "clip_norm")
_ADAM: Final = ("learning_rate", "beta_1", "beta_2", "epsilon", "clip_norm")

#: signature -> rule. Clipping costs little and is an input wherever there are inputs;
#: the proximal term costs three passes over the weights and has signatures of its own.
RULES: Final[Mapping[str, Rule]] = {
    "train_epoch": Rule(
        description="Steps of SGD one after another, as many as rows in index.",
        settings=("learning_rate",),
        build=_plain,
    ),
    "train_epoch_proximal": Rule(
        description="As train_epoch, with FedProx's pull to the weights it began with.",
        settings=("learning_rate", "proximal", "clip_norm"),
        build=_proximal(Sgd),
    ),
    "train_epoch_momentum": Rule(
        description="As train_epoch, by SGD with momentum.",
        settings=_MOMENTUM,
        build=_clipped(Momentum),
    ),
    "train_epoch_momentum_proximal": Rule(
        description="As train_epoch_proximal, by SGD with momentum.",
        settings=(*_MOMENTUM, "proximal"),
        build=_proximal(Momentum),
    ),
    "train_epoch_adam": Rule(
        description="As train_epoch, by Adam.", settings=_ADAM, build=_clipped(Adam)
    ),
    "train_epoch_adam_proximal": Rule(
        description="As train_epoch_proximal, by Adam.",
        settings=(*_ADAM, "proximal"),
        build=_proximal(Adam),
    ),
}


def _zeros(like: Tensors, number: tf.Tensor) -> Tensors:
    """Return zeros that depend on ``number``: constants would be kept in the file."""
    zero = tf.minimum(tf.abs(number), 0.0)
    return tuple(tf.fill(tensor.shape, zero) for tensor in like)
