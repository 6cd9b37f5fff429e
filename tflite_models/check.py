"""Proofs about a model's files. Each is a finding that passed or did not."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from coordinator.protocol import first_weights
from coordinator.protocol.manifest import Manifest, Vector, patch_weights
from tflite_models import building, export, flatbuffer, keras_models, reference
from tflite_models.files import Artefacts
from tflite_models.optimizers import RULES

TOLERANCE: Final = 1e-6  # largest absolute difference of a weight's change
_LARGEST_CONSTANT: Final = 64 * 1024  # bytes; a table of dropout is smaller
_LEARNING_RATE: Final = np.float32(0.1)
_SEED: Final = np.int32(7)
#: settings under which each rule of an epoch is compared with Keras, none of them idle
_SETTINGS: Final = {
    "learning_rate": float(_LEARNING_RATE),
    "momentum": 0.9,
    "nesterov": 1.0,
    "clip_norm": 0.5,
    "proximal": 0.5,
}
_SETTINGS_OF_ADAM: Final = _SETTINGS | {
    "learning_rate": 0.001,
    "beta_1": 0.8,
    "beta_2": 0.9,
    "epsilon": 1e-4,
}
Arrays = dict[str, Any]  # name -> array or numpy scalar


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One proof: what was checked, whether it holds, and the figure."""

    subject: str
    passed: bool
    detail: str


def find_model(manifest: Manifest) -> keras.Sequential | None:
    """Return the Keras definition of a model of Shoal's, None for any other."""
    builder = keras_models.BUILDERS.get(manifest.model)
    if builder is None:
        return None
    model = builder(manifest.classes)
    return model if building.describe_tensors(model) == manifest.tensors else None


def check(artefacts: Artefacts, model: keras.Sequential | None) -> Iterator[Finding]:
    """Yield findings about a model's files.

    Args:
        artefacts: The files.
        model: Their Keras definition. Without it nothing is compared with Keras.
    """
    yield from check_operators("train.tflite", artefacts.train)
    yield from check_operators("model.tflite", artefacts.infer)
    yield _check_constants(artefacts.train)
    yield _check_signatures(artefacts)
    bench = Bench(artefacts, np.random.default_rng(1))
    yield from _check_outputs(bench)
    yield _check_padding(bench)
    yield _check_round_trip(bench)
    if model is None:
        return
    yield from _check_steps(bench, model)
    for name in bench.epochs:
        yield _check_epoch(bench, model, name)
    yield from _check_inference(bench, model)
    rebuilt = building.build(
        model,
        name=artefacts.manifest.model,
        description=artefacts.manifest.description,
        values=None
        if artefacts.weights is None
        else first_weights.read(artefacts.manifest, artefacts.weights),
    )
    yield Finding(
        subject="a rebuild gives the same files",
        passed=rebuilt == artefacts,
        detail=f"train.tflite {rebuilt.manifest.train.sha256[:12]}",
    )


def check_operators(file: str, content: bytes) -> Iterator[Finding]:
    """Yield whether a LiteRT file needs builtin operators alone."""
    used = {
        operator
        for subgraph in flatbuffer.subgraphs(content)
        for operator in subgraph.operators
    }
    foreign = sorted(operator.name for operator in used if operator.is_custom)
    yield Finding(
        subject=f"{file}: builtin operators only",
        passed=not foreign,
        detail=", ".join(foreign) or f"{len(used)} kinds, no Flex, no custom",
    )


class Bench:
    """A model's files set up to run, with weights and examples that are drawn."""

    def __init__(self, artefacts: Artefacts, generator: np.random.Generator) -> None:
        self.artefacts = artefacts
        self.manifest = artefacts.manifest
        self._generator = generator
        self._interpreter = Interpreter(model_content=artefacts.train, num_threads=1)
        self.weights = self._draw_weights()

    def run(self, signature: str, **inputs: object) -> Arrays:
        """Run a signature of the training file with this bench's weights."""
        runner = self._interpreter.get_signature_runner(signature)
        outputs: Arrays = runner(weights=self.weights, **inputs)
        return outputs

    @property
    def epochs(self) -> tuple[str, ...]:
        """The signatures of an epoch that the file has."""
        return tuple(name for name in RULES if name in self.manifest.signatures)

    def settings(self, epoch: str) -> dict[str, float]:
        """Return settings to compare a signature of an epoch under."""
        taken = RULES[epoch].settings
        known = _SETTINGS_OF_ADAM if "beta_1" in taken else _SETTINGS
        return {name: known[name] for name in taken}

    def predict(self, x: Vector) -> Vector:
        """Run the inference file with this bench's weights patched in."""
        patched = patch_weights(self.artefacts.infer, self.manifest, self.weights)
        runner = Interpreter(model_content=patched, num_threads=1)
        probabilities: Vector = runner.get_signature_runner("infer")(x=x)[
            "probabilities"
        ]
        return probabilities

    def draw_examples(self, count: int) -> Arrays:
        """Return x and y of ``count`` random examples."""
        shape = (count, *self.manifest.input_shape)
        labels = self._generator.integers(0, self.manifest.classes, count)
        return {
            "x": self._generator.random(shape, dtype=np.float32),
            "y": labels.astype(np.int32),
        }

    def _draw_weights(self) -> Vector:
        """Return weights of the size that initializers give, no bias at zero."""
        pieces = []
        for tensor in self.manifest.tensors:
            stddev = 1 / np.sqrt(tensor.initializer.fan_in)
            pieces.append(self._generator.normal(0, stddev, tensor.size))
        return np.concatenate(pieces).astype(np.float32)


def step_inputs(count: int) -> Arrays:
    """Return what `train` takes besides examples and weights."""
    return {
        "mask": np.ones(count, np.float32),
        "learning_rate": _LEARNING_RATE,
        "seed": _SEED,
    }


def _inputs(settings: dict[str, float]) -> Arrays:
    return {name: np.float32(value) for name, value in settings.items()}


def _check_constants(train: bytes) -> Finding:
    largest = max((len(content) for _, content in flatbuffer.constants(train)))
    return Finding(
        subject="train.tflite: no weights inside",
        passed=largest <= _LARGEST_CONSTANT,
        detail=f"largest constant {largest} bytes of {len(train)}",
    )


def _check_signatures(artefacts: Artefacts) -> Finding:
    stated = {
        name: {
            (argument.name, argument.shape, argument.dtype)
            for argument in (*signature.inputs, *signature.outputs)
        }
        for name, signature in artefacts.manifest.signatures.items()
    }
    found = {
        signature.name: {
            (tensor.name, tensor.shape, tensor.dtype)
            for tensor in (*signature.inputs, *signature.outputs)
        }
        for signature in flatbuffer.signatures(artefacts.train)
    }
    wrong = sorted(
        f"{name}.{argument[0]}"
        for name in stated.keys() | found.keys()
        for argument in stated.get(name, set()) ^ found.get(name, set())
    )
    return Finding(
        subject="train.tflite: signatures as the manifest states",
        passed=not wrong,
        detail=", ".join(wrong) or f"{len(found)} signatures",
    )


def _check_outputs(bench: Bench) -> Iterator[Finding]:
    examples = bench.draw_examples(5)
    present = np.ones(5, np.float32)
    epoch = {
        **examples,
        "index": np.array([[0, 1], [2, 3], [4, 0]], np.int32),
        "mask": np.array([[1, 1], [1, 1], [1, 0]], np.float32),
        "seed": _SEED,
    }
    epochs = {
        name: bench.run(name, **epoch, **_inputs(bench.settings(name)))
        for name in bench.epochs
    }
    outputs = {
        "train": bench.run("train", **examples, **step_inputs(5)),
        **epochs,
        "infer": bench.run("infer", x=examples["x"]),
        "evaluate": bench.run("evaluate", **examples, mask=present),
    }
    broken = [
        f"{signature}.{name}"
        for signature, arrays in outputs.items()
        for name, array in arrays.items()
        if not np.isfinite(array).all()
    ]
    yield Finding(
        subject="all outputs are finite",
        passed=not broken,
        detail=", ".join(broken) or f"{len(outputs)} signatures",
    )
    moved = min(np.abs(outputs[name]["delta"]).max() for name in ("train", *epochs))
    yield Finding(
        subject="training moves the weights",
        passed=bool(moved > TOLERANCE),
        detail=f"largest change {moved:.1e}",
    )
    changed = [
        name
        for name, first in epochs.items()
        if not np.array_equal(
            bench.run(name, **epoch, **_inputs(bench.settings(name)))["delta"],
            first["delta"],
        )
    ]
    yield Finding(
        subject="the same seed gives the same epoch",
        passed=not changed,
        detail=", ".join(changed) or f"{bench.manifest.trainable_size} weights",
    )


def _check_padding(bench: Bench) -> Finding:
    examples = bench.draw_examples(5)
    short = {name: array[:3] for name, array in examples.items()}
    mask = np.array([1, 1, 1, 0, 0], np.float32)
    padded = bench.run("train", **examples, **(step_inputs(5) | {"mask": mask}))
    exact = bench.run("train", **short, **step_inputs(3))
    return _compare(
        "a padded batch is the short batch", padded["delta"], exact["delta"]
    )


def _check_round_trip(bench: Bench) -> Finding:
    x = bench.draw_examples(9)["x"]
    return _compare(
        "model.tflite predicts as train.tflite does",
        bench.predict(x),
        bench.run("infer", x=x)["probabilities"],
    )


def _check_steps(bench: Bench, model: keras.Sequential) -> Iterator[Finding]:
    for count in (20, 7, 1):
        examples = bench.draw_examples(count)
        yield _check_step(bench, model, f"step of {count}", examples)
    examples = bench.draw_examples(4)
    examples["x"] = np.full_like(examples["x"], 0.5)
    yield _check_step(bench, model, "step on blank images, all pools tied", examples)


def _check_step(
    bench: Bench, model: keras.Sequential, subject: str, examples: Arrays
) -> Finding:
    count = len(examples["y"])
    outputs = bench.run("train", **examples, **step_inputs(count))
    expected = reference.train(
        model,
        **examples,
        learning_rate=float(_LEARNING_RATE),
        seed=int(_SEED),
        weights=bench.weights,
    )
    return _compare_outcome(subject, outputs, expected)


def _check_epoch(bench: Bench, model: keras.Sequential, name: str) -> Finding:
    examples = bench.draw_examples(10)
    index = np.array([[3, 1, 4], [0, 5, 9], [2, 6, 8], [7, 0, 0]], np.int32)
    mask = np.ones(index.shape, np.float32)
    mask[3, 1:] = 0
    settings = bench.settings(name)
    outputs = bench.run(
        name, **examples, **_inputs(settings), index=index, mask=mask, seed=_SEED
    )
    expected = reference.train_epoch(
        model,
        **examples,
        batches=[row[present > 0] for row, present in zip(index, mask, strict=True)],
        settings=settings,
        seed=int(_SEED),
        weights=bench.weights,
    )
    return _compare_outcome(f"{name}, short last batch", outputs, expected)


def _check_inference(bench: Bench, model: keras.Sequential) -> Iterator[Finding]:
    x = bench.draw_examples(9)["x"]
    expected = reference.predict(model, x=x, weights=bench.weights)
    yield _compare("model.tflite predicts as Keras does", bench.predict(x), expected)
    building.assign(model, bench.weights)
    direct = export.convert_inference(model)
    patched = patch_weights(bench.artefacts.infer, bench.manifest, bench.weights)
    yield Finding(
        subject="patched weights equal a direct conversion",
        passed=direct == patched,
        detail=f"{len(direct)} bytes",
    )


def _compare_outcome(
    subject: str, outputs: Arrays, expected: reference.Outcome
) -> Finding:
    difference = float(np.abs(outputs["delta"] - expected.delta).max())
    loss = abs(float(outputs["loss_sum"]) - expected.loss_sum) / expected.count
    sums = (float(outputs["correct"]), float(outputs["count"]))
    passed = (
        difference < TOLERANCE
        and loss < 10 * TOLERANCE
        and sums == (expected.correct, expected.count)
    )
    return Finding(
        subject=f"{subject}: as Keras's",
        passed=passed,
        detail=f"weights within {difference:.1e}, mean loss within {loss:.1e}",
    )


def _compare(subject: str, got: Vector, expected: Vector) -> Finding:
    difference = float(np.abs(got - expected).max())
    return Finding(
        subject=subject,
        passed=difference < TOLERANCE,
        detail=f"within {difference:.1e}",
    )
