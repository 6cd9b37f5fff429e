"""Training and scoring with LiteRT: the very artefact that a phone runs.

Decided here: how a plan and a shard become one call of the graph's ``train_epoch``, and
that a few interpreters serve any number of devices, because the graph keeps no weights
between calls. Every result is a function of its arguments alone; which thread computes
it does not show.
"""

import asyncio
import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from coordinator.protocol import allocator, deltas, digests, encodings
from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.protocol.plan_training import TrainingPlan
from device_sim import augment

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Tamper = Callable[[Vector, np.random.Generator], Vector]
_T = TypeVar("_T")
_CHUNK: Final = 250  # examples scored in one call: bounds the graph's memory
_MODELS_KEPT: Final = 4  # interpreters a thread keeps, one a model
_SEED_LIMIT: Final = 2**31  # the graph's seed is an int32


class NoExamples(Exception):
    """The device holds nothing to train on or to score."""


class TrainingDiverged(Exception):
    """The delta holds NaN or infinity."""


class GraphFailed(Exception):
    """The training artefact does not load or does not run."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as downloaded."""

    manifest: Manifest
    graph: bytes = dataclasses.field(repr=False)
    sha256: str  #: of ``graph``; names it among a thread's interpreters


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """An update, ready to be sent."""

    body: bytes = dataclasses.field(repr=False)
    sha256: str  #: of ``body``
    examples: int
    loss: float  #: mean over the examples seen, before each step
    accuracy: float  #: share of the examples seen that were right
    residual: Vector | None = dataclasses.field(repr=False)  #: what was left out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How an assignment wants its update written."""

    encoding: deltas.EncodingName = "f32"
    topk_share: float = 1.0
    error_feedback: bool = False
    residual: Vector | None = None  #: left out of the last accepted update
    noise: LocalNoise | None = None  #: added before anybody sees the update


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Sums over scored examples."""

    examples: int
    loss_sum: float
    correct: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss_sum / self.examples

    @property
    def accuracy(self) -> float:
        """Share of examples whose likeliest class is right."""
        return self.correct / self.examples


class Trainer:
    """One interpreter of one model. Belongs to one thread at a time."""

    def __init__(self, model: Model) -> None:
        self._manifest = model.manifest
        try:
            interpreter = Interpreter(model_content=model.graph, num_threads=1)
            self._evaluate = interpreter.get_signature_runner("evaluate")
        except (ValueError, RuntimeError) as error:
            raise GraphFailed(f"{model.sha256} does not load: {error}") from error
        self._interpreter = interpreter
        self._epochs: dict[str, Any] = {}  # runners, by signature

    def fit(
        self,
        x: Images,
        y: Labels,
        *,
        weights: Vector,
        plan: TrainingPlan,
        rng: np.random.Generator,
    ) -> encodings.Update:
        """Train from ``weights``: the device's own work, without the wire.

        Args:
            x: shape (examples, *manifest.input_shape), in [0, 1].
            y: shape (examples,), classes.
            weights: shape (manifest.size,), the version to start from.
            plan: Rate, batch size, epochs and the most examples to use.
            rng: Decides which examples are used, in which order, and the dropout seed.

        Raises:
            NoExamples: ``x`` is empty.
            GraphFailed: The graph did not run.
        """
        examples = min(len(x), plan.max_examples)
        if not examples:
            raise NoExamples("the shard holds no training examples")
        chosen = rng.permutation(len(x))[:examples]
        augments = bool(plan.augmentations())
        if augments:
            x, y = augment.augmented_epochs(x[chosen], y[chosen], plan, rng)
            chosen = np.arange(examples)
        index, mask = batches(chosen, plan, rng)
        if augments:  # every epoch has images of its own
            epochs = index.reshape(plan.epochs, -1)
            epochs += np.arange(0, len(x), examples, dtype=np.int32)[:, None]
        sums = _call(
            self._epoch(plan.signature),
            x=x,
            y=y,
            index=index,
            mask=mask,
            **self._settings(plan),
            seed=np.int32(rng.integers(_SEED_LIMIT)),
            weights=weights,
        )
        return encodings.Update(
            delta=sums["delta"],
            examples=examples,
            train_loss=float(sums["loss_sum"]) / float(sums["count"]),
            train_accuracy=float(sums["correct"]) / float(sums["count"]),
        )

    def _epoch(self, signature: str) -> Any:  # noqa: ANN401 - LiteRT ships no types
        """Return the runner of a signature, made at its first use."""
        runner = self._epochs.get(signature)
        if runner is None:
            try:
                runner = self._interpreter.get_signature_runner(signature)
            except ValueError as error:
                raise GraphFailed(f"the graph has no {signature}") from error
            self._epochs[signature] = runner
        return runner

    def _settings(self, plan: TrainingPlan) -> dict[str, np.float32]:
        """Return the plan's settings that its signature takes, by their common name."""
        taken = self._manifest.signatures[plan.signature].inputs
        return {
            argument.name: np.float32(getattr(plan, argument.name))
            for argument in taken
            if argument.name in TrainingPlan.model_fields
        }

    def train(
        self,
        x: Images,
        y: Labels,
        *,
        weights: Vector,
        plan: TrainingPlan,
        rng: np.random.Generator,
        writing: Writing | None = None,
        tamper: Tamper | None = None,
    ) -> Trained:
        """Train as ``fit`` does and write the update. Run by the device.

        With error feedback the residual is added to the delta, and what the encoding
        leaves out becomes the next one (Seide et al. 2014; Karimireddy et al. 2019).
        ``tamper`` is what an attacker makes of the delta before it is written. Noise
        is drawn from the system, not from ``rng``.

        Raises:
            NoExamples: ``x`` is empty.
            TrainingDiverged: The delta is not finite.
            GraphFailed: The graph did not run.
        """
        update = self.fit(x, y, weights=weights, plan=plan, rng=rng)
        if tamper is not None:
            update = dataclasses.replace(update, delta=tamper(update.delta, rng))
        # NaN and infinity survive a sum, which reads the delta once and writes nothing.
        with np.errstate(over="ignore", invalid="ignore"):
            total = update.delta.sum()
        if not np.isfinite([total, update.train_loss]).all():
            raise TrainingDiverged(_diverged(plan))
        writing = writing or Writing()
        if writing.noise is not None:
            update = encodings.Update(
                delta=writing.noise.add(update.delta, key=os.urandom(32)),
                examples=1,
                train_loss=0.0,
                train_accuracy=0.0,
            )
        feeds_back = writing.error_feedback and writing.encoding != "f32"
        if feeds_back and writing.residual is not None:
            np.add(update.delta, writing.residual, out=update.delta)
        body = encodings.encode_update(
            self._manifest,
            update,
            encoding=writing.encoding,
            topk_share=writing.topk_share,
            rng=rng,
        )
        residual = None
        if feeds_back:
            residual = update.delta - encodings.read_delta(self._manifest, body)
        return Trained(
            body=body,
            sha256=digests.sha256_hex(body),
            examples=update.examples,
            loss=update.train_loss,
            accuracy=update.train_accuracy,
            residual=residual,
        )

    def score(self, x: Images, y: Labels, *, weights: Vector) -> Scored:
        """Score ``weights`` on examples, in chunks of bounded size.

        Args:
            x: shape (examples, *manifest.input_shape), in [0, 1].
            y: shape (examples,), classes.
            weights: shape (manifest.size,).

        Raises:
            NoExamples: ``x`` is empty.
            GraphFailed: The graph did not run.
        """
        if not len(x):
            raise NoExamples("there are no examples to score")
        loss_sum, correct = 0.0, 0
        for start in range(0, len(x), _CHUNK):
            part_x, part_y = x[start : start + _CHUNK], y[start : start + _CHUNK]
            sums = _call(
                self._evaluate,
                x=part_x,
                y=part_y,
                mask=np.ones(len(part_y), np.float32),
                weights=weights,
            )
            loss_sum += float(sums["loss_sum"])
            correct += round(float(sums["correct"]))
        return Scored(examples=len(x), loss_sum=loss_sum, correct=correct)

    def fine_tune(
        self,
        x: Images,
        y: Labels,
        *,
        weights: Vector,
        plan: TrainingPlan,
        rng: np.random.Generator,
    ) -> Vector:
        """Return a copy of ``weights`` trained as ``fit`` does. Run by the device.

        Raises:
            NoExamples: ``x`` is empty.
            TrainingDiverged: The weights are not finite.
            GraphFailed: The graph did not run.
        """
        delta = self.fit(x, y, weights=weights, plan=plan, rng=rng).delta
        tuned, start = weights.copy(), 0
        for tensor in self._manifest.trainable:
            own = slice(tensor.offset, tensor.offset + tensor.size)
            tuned[own] += delta[start : start + tensor.size]
            start += tensor.size
        if not np.isfinite(tuned).all():
            raise TrainingDiverged(_diverged(plan))
        return tuned


class TrainerPool:
    """Threads that each keep one interpreter a model."""

    def __init__(self, threads: int | None = None) -> None:
        allocator.keep_freed_memory()  # a delta and a body for every device and round
        self.threads = threads or os.cpu_count() or 1
        self._pool = concurrent.futures.ThreadPoolExecutor(
            self.threads, thread_name_prefix="trainer"
        )
        self._local = threading.local()

    async def run(self, model: Model, work: Callable[[Trainer], _T]) -> _T:
        """Run ``work`` with a trainer of ``model``, off the event loop.

        Raises:
            GraphFailed: The model's graph does not load.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pool, lambda: work(self._trainer(model))
        )

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _trainer(self, model: Model) -> Trainer:
        trainers: dict[str, Trainer] | None = getattr(self._local, "trainers", None)
        if trainers is None:
            trainers = self._local.trainers = {}
        trainer = trainers.get(model.sha256)
        if trainer is None:
            trainer = trainers[model.sha256] = Trainer(model)
            while len(trainers) > _MODELS_KEPT:
                del trainers[next(iter(trainers))]
        return trainer


def batches(
    chosen: npt.NDArray[np.int64], plan: TrainingPlan, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Lay shuffled epochs out as rows of batches.

    Args:
        chosen: Rows of the shard to use, shape (examples,).
        plan: Batch size and epochs.
        rng: Shuffles anew for every epoch.

    Returns:
        Rows and mask, shape (steps, batch_size): int32 and float32. The last batch of
        each epoch is filled up with rows of mask 0.
    """
    steps = -(-len(chosen) // plan.batch_size)
    shape = (plan.epochs, steps * plan.batch_size)
    index = np.zeros(shape, np.int32)
    mask = np.zeros(shape, np.float32)
    mask[:, : len(chosen)] = 1
    for epoch in index:
        epoch[: len(chosen)] = rng.permutation(chosen)
    return index.reshape(-1, plan.batch_size), mask.reshape(-1, plan.batch_size)


def _diverged(plan: TrainingPlan) -> str:
    return (
        f"{plan.epochs} epochs at rate {plan.learning_rate} leave a delta that is not "
        "finite"
    )


def _call(
    runner: Any,  # noqa: ANN401 - LiteRT ships no types
    **inputs: Any,  # noqa: ANN401 - arrays and numpy scalars
) -> dict[str, Any]:
    try:
        outputs: dict[str, Any] = runner(**inputs)
    except (ValueError, RuntimeError) as error:
        raise GraphFailed(f"the graph does not run: {error}") from error
    return outputs
