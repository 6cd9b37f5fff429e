"""The whole system computes what a plain loop in one process computes."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from coordinator.domain import initialization
from coordinator.protocol import encodings, plans
from coordinator.protocol.manifest import Manifest, Vector
from device_sim import behaviour, trainer
from device_sim.data import Shard, load
from tests.support.processes import ROOT
from tflite_models import keras_models

pytestmark = [pytest.mark.slow, pytest.mark.tf]
DEVICES = 4
ROUNDS = 10
SEED = 5
PLAN = f"""
model = "cnn"
rounds = {ROUNDS}
seed = {SEED}
[round]
goal = {DEVICES}
minimum = {DEVICES}
[training]
learning_rate = 0.02
batch_size = 20
epochs = 1
max_examples = 110
[evaluation]
every = 5
goal = {DEVICES}
minimum = {DEVICES}
personalize_epochs = 1
"""


def run_swarm(folder: pathlib.Path, *options: str) -> Vector:
    """Run the swarm in processes of its own; return its final weights.

    Devices fine-tune in two evaluations, of which the weights must not show a bit.
    """
    folder.mkdir(exist_ok=True)
    plan = folder / "plan.toml"
    plan.write_text(PLAN)
    out = folder / "run"
    command = [sys.executable, "-m", "device_sim", "--plan", str(plan)]
    subprocess.run(
        [*command, "--out", str(out), *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    content = json.loads((out / "report.json").read_text())
    rounds = content["rounds"]
    body = (out / "weights.safetensors").read_bytes()
    assert content["bytes_down_a_device"] == len(body)
    # the same tensors up, and a few words on top
    assert 0 < content["bytes_up_a_device"] - content["bytes_down_a_device"] < 500
    assert len(rounds) == ROUNDS
    for row in rounds:
        if row["round"] % 5:
            assert row["personalized"] is None
            continue
        assert row["personalized"]["devices"] == row["federated_devices"] == DEVICES
        assert row["personalized"]["score"]["loss"] != row["federated_loss"]
        assert row["federated_distribution"] is None, "four devices are too few"
    return encodings.decode_weights(cnn_manifest(), body)


def cnn_manifest() -> Manifest:
    path = ROOT / "tflite_models" / "artefacts" / "cnn" / "manifest.json"
    return Manifest.model_validate_json(path.read_bytes())


def train_alone(
    model: keras.Sequential,
    weights: Vector,
    shard: Shard,
    *,
    round_number: int,
    device: int,
) -> tuple[Vector, int]:
    """One device's local SGD by Keras and GradientTape; returns delta and weight."""
    plan = plans.parse(PLAN).training
    rng = behaviour.training_generator(
        seed=SEED, round_number=round_number, device=device
    )
    examples = min(len(shard.train_x), plan.max_examples)
    chosen = rng.permutation(len(shard.train_x))[:examples]
    index, mask = trainer.batches(chosen, plan, rng)
    set_weights(model, weights)
    for rows, real in zip(index, mask, strict=True):
        rows = rows[real > 0]  # noqa: PLW2901 - the padding of a short batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(
                    shard.train_y[rows], model(shard.train_x[rows], training=True)
                )
            )
        variables = [variable.value for variable in model.trainable_variables]
        for variable, gradient in zip(
            variables, tape.gradient(loss, variables), strict=True
        ):
            variable.assign_sub(plan.learning_rate * gradient)
    return get_weights(model) - weights, examples


def set_weights(model: keras.Sequential, weights: Vector) -> None:
    parts = np.split(weights, np.cumsum([w.size for w in model.get_weights()])[:-1])
    model.set_weights(
        [p.reshape(w.shape) for p, w in zip(parts, model.get_weights(), strict=True)]
    )


def get_weights(model: keras.Sequential) -> Vector:
    return np.concatenate([w.ravel() for w in model.get_weights()])


def test_ten_rounds_equal_a_plain_loop(tmp_path: pathlib.Path) -> None:
    trained = run_swarm(tmp_path)

    shards = load("sample", devices=DEVICES, seed=SEED).shards
    model = keras_models.cnn()
    weights = initialization.draw_weights(cnn_manifest(), SEED)
    for round_number in range(1, ROUNDS + 1):
        total, weight = np.zeros(weights.size), 0
        for device, shard in enumerate(shards):
            delta, examples = train_alone(
                model, weights, shard, round_number=round_number, device=device
            )
            total += examples * delta.astype(np.float64)
            weight += examples
        weights = (weights + total / weight).astype(np.float32)

    assert (
        np.abs(weights - initialization.draw_weights(cnn_manifest(), SEED)).max() > 0.01
    )
    np.testing.assert_allclose(trained, weights, rtol=0, atol=1e-5)


def test_two_runs_with_one_seed_end_with_the_same_bits(tmp_path: pathlib.Path) -> None:
    first, second, other = (
        run_swarm(folder, "--rounds", str(ROUNDS), "--seed", seed)
        for folder, seed in (
            (tmp_path / "first", "7"),
            (tmp_path / "second", "7"),
            (tmp_path / "other", "8"),
        )
    )
    np.testing.assert_array_equal(first, second)
    assert np.any(first != other)
