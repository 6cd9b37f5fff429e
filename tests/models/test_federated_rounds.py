"""Rounds of FedAvg and FedProx by real code, against formulas in float64.

Softmax regression in full batches, whose gradient is written out here: McMahan et al.
2017 (arXiv:1602.05629), algorithm 1; Li et al. 2020 (arXiv:1812.06127), algorithm 2,
with a fixed number of gradient steps as the inexact solver.
"""

import pathlib

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

from coordinator.compute.backend import select_device
from coordinator.compute.engine import Engine
from coordinator.protocol import encodings
from coordinator.protocol.plan_rounds import RoundPlan
from coordinator.protocol.plan_training import TrainingPlan
from coordinator.protocol.plans import Plan
from coordinator.usecases import models, release, tasks
from device_sim import trainer
from tests.support.federation import Federation
from tflite_models import building, files

pytestmark = pytest.mark.tf

Reals = npt.NDArray[np.float64]
SIZES = (4, 9, 2)  # examples of each device
ROUNDS, EPOCHS, RATE = 5, 4, 0.25


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def gradient(weights: Reals, images: Reals, labels: npt.NDArray[np.int32]) -> Reals:
    """Of the mean cross-entropy; weights are a (4, 3) kernel, then 3 biases."""
    rows = images.reshape(-1, 4)
    scores = rows @ weights[:12].reshape(4, 3) + weights[12:]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    error = (shares - np.eye(3)[labels]) / len(labels)
    return np.concatenate([(rows.T @ error).reshape(-1), error.sum(axis=0)])


def by_formula(weights: Reals, shards: list, proximal: float) -> list[Reals]:
    published = []
    for _ in range(ROUNDS):
        total = np.zeros_like(weights)
        for images, labels in shards:
            own = weights.copy()
            for _ in range(EPOCHS):
                pull = proximal * (own - weights)
                own -= RATE * (gradient(own, images.astype(float), labels) + pull)
            total += len(labels) * own
        weights = total / sum(SIZES)
        published.append(weights)
    return published


@pytest.mark.parametrize("proximal", [0.0, 0.8], ids=["fedavg", "fedprox"])
def test_five_rounds_follow_the_formula(
    federation: Federation, tmp_path: pathlib.Path, proximal: float
) -> None:
    keras.utils.set_random_seed(4)
    network = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    building.build(network, name="regression", description="Softmax.").write(
        tmp_path / "regression"
    )
    model = models.register(
        federation.store,
        federation.blobs,
        tmp_path / "regression",
        now=federation.clock.now(),
    )
    training = TrainingPlan(
        learning_rate=RATE, epochs=EPOCHS, batch_size=16, proximal=proximal
    )
    tasks.create(
        federation.store,
        federation.blobs,
        task_id="five",
        plan=Plan(
            model=model.id,
            rounds=ROUNDS,
            round=RoundPlan(goal=len(SIZES), minimum=len(SIZES)),
            training=training,
        ),
        now=federation.clock.now(),
    )
    own = trainer.Trainer(
        trainer.Model(
            manifest=model.manifest,
            graph=(tmp_path / "regression" / files.TRAIN_FILE).read_bytes(),
            sha256=model.manifest.train.sha256,
        )
    )
    draw = np.random.default_rng(6)
    shards = [
        (
            draw.random((size, 2, 2, 1), dtype=np.float32),
            draw.integers(0, 3, size).astype(np.int32),
        )
        for size in SIZES
    ]

    def weights_of(number: int) -> npt.NDArray[np.float32]:
        _, version = models.find_version(federation.store, model.id, number)
        body = federation.blobs.get(version.weights_sha256)
        return np.array(encodings.decode_weights(model.manifest, body))

    expected = by_formula(weights_of(0).astype(float), shards, proximal)
    for number in range(ROUNDS):
        for images, labels in shards:
            work = federation.lease()
            trained = own.train(
                images,
                labels,
                weights=weights_of(number),
                plan=training,
                rng=np.random.default_rng(number),
            )
            federation.submit(work, trained.body)
        release.release(
            federation.store,
            federation.blobs,
            Engine(select_device("cpu")),
            federation.must_claim(),
            on_progress=lambda _: None,
            now=federation.clock.now,
        )
        np.testing.assert_allclose(
            weights_of(number + 1), expected[number], rtol=0, atol=1e-6
        )
    moved = np.abs(expected[-1] - expected[0]).max()
    assert moved > 0.1
