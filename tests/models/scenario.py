"""Weights, examples and small models set up to train."""

import dataclasses
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from coordinator.protocol.manifest import Vector
from tflite_models import building, export, files
from tflite_models.check import Arrays
from tflite_models.network import Network


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InLite:
    """A small model, its training file in LiteRT, and weights to start from."""

    model: keras.Sequential
    content: bytes
    interpreter: Any
    weights: Vector

    def run(self, signature: str, **inputs: object) -> Arrays:
        runner = self.interpreter.get_signature_runner(signature)
        outputs: Arrays = runner(**{"weights": self.weights, **inputs})
        return outputs


def load_in_lite(model: keras.Sequential) -> InLite:
    content = export.convert_training(Network.of(model))
    return InLite(
        model=model,
        content=content,
        interpreter=Interpreter(model_content=content, num_threads=1),
        weights=draw_weights(model),
    )


def draw_weights(model: keras.Sequential, seed: int = 0) -> Vector:
    """Weights with no bias at zero, so that a misplaced one shows."""
    generator = np.random.default_rng(seed)
    pieces = [
        generator.normal(0, 1 / np.sqrt(spec.initializer.fan_in), spec.size)
        for spec in building.describe_tensors(model)
    ]
    return np.concatenate(pieces).astype(np.float32)


def draw_examples(model: keras.Sequential, count: int, seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    shape = (count, *model.input_shape[1:])
    classes = model.output_shape[-1]
    return {
        "x": generator.random(shape, dtype=np.float32),
        "y": generator.integers(0, classes, count).astype(np.int32),
    }


def shipped(name: str) -> files.Artefacts:
    """The files that are committed."""
    return files.read(files.FOLDER / name)
