"""Transfer learning by real code: built, trained in LiteRT, folded, released."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers
from typer.testing import CliRunner

from coordinator.compute.backend import select_device
from coordinator.compute.engine import Engine
from coordinator.protocol import encodings
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_rounds import RoundPlan
from coordinator.protocol.plans import Plan
from coordinator.usecases import models, release, tasks
from device_sim import trainer
from tests.support.federation import Federation
from tflite_models import __main__ as model_cli
from tflite_models import files

pytestmark = pytest.mark.tf


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def base(tmp_path: pathlib.Path) -> pathlib.Path:
    """A Keras file of a base that was trained elsewhere, on five classes."""
    keras.utils.set_random_seed(3)
    path = tmp_path / "base.keras"
    keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="features"),
            layers.Flatten(name="flat"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(5, activation="softmax", name="head"),
        ],
        name="base",
    ).save(path)
    return path


def build(base: pathlib.Path, name: str, *options: str) -> pathlib.Path:
    folder = base.parent / name
    built = CliRunner().invoke(
        model_cli.app,
        ["build", str(base), "--name", name, "--out", str(folder), *options],
    )
    assert built.exit_code == 0, built.output
    return folder


def train_round(federation: Federation, own: trainer.Trainer, number: int) -> list[int]:
    """Two devices train from the newest version. Returns the sizes of their updates."""
    sizes = []
    for device in range(2):
        work = federation.lease()
        rng = np.random.default_rng([number, device])
        model, version = models.find_version(
            federation.store, work.task.plan.model, work.version.number
        )
        weights = encodings.decode_weights(
            model.manifest, federation.blobs.get(version.weights_sha256)
        )
        trained = own.train(
            rng.random((30, 8, 8, 1), dtype=np.float32),
            rng.integers(0, model.manifest.classes, 30).astype(np.int32),
            weights=weights,
            plan=work.task.plan.training,
            rng=rng,
        )
        federation.submit(work, trained.body)
        sizes.append(len(trained.body))
    release.release(
        federation.store,
        federation.blobs,
        Engine(select_device("cpu")),
        federation.must_claim(),
        on_progress=lambda _: None,
        now=federation.clock.now,
    )
    return sizes


def run(federation: Federation, folder: pathlib.Path) -> tuple[list[Vector], int]:
    """Two rounds. Returns the versions' weights and the size of the largest update."""
    model = models.register(
        federation.store, federation.blobs, folder, now=federation.clock.now()
    )
    tasks.create(
        federation.store,
        federation.blobs,
        task_id=model.id,
        plan=Plan(model=model.id, rounds=2, round=RoundPlan(goal=2, minimum=2)),
        now=federation.clock.now(),
    )
    own = trainer.Trainer(
        trainer.Model(
            manifest=model.manifest,
            graph=(folder / files.TRAIN_FILE).read_bytes(),
            sha256=model.manifest.train.sha256,
        )
    )
    sizes = train_round(federation, own, 1) + train_round(federation, own, 2)
    versions = []
    for number in range(3):
        _, version = models.find_version(federation.store, model.id, number)
        body = federation.blobs.get(version.weights_sha256)
        versions.append(np.array(encodings.decode_weights(model.manifest, body)))
    return versions, max(sizes)


def test_a_frozen_base_stays_bit_for_bit_and_only_the_head_is_sent(
    federation: Federation, base: pathlib.Path
) -> None:
    given = {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in keras.models.load_model(base).layers
        for weight in layer.weights
    }
    frozen = build(base, "head_only", "--freeze", "features,hidden", "--classes", "3")

    versions, head_bytes = run(federation, frozen)
    whole, whole_bytes = run(federation, build(base, "whole"))

    first, *later = versions
    manifest = files.read(frozen).manifest
    for tensor in manifest.tensors:
        place = slice(tensor.offset, tensor.offset + tensor.size)
        if tensor.trainable:
            assert not np.array_equal(later[0][place], first[place]), tensor.name
            assert not np.array_equal(later[1][place], later[0][place]), tensor.name
            continue
        expected = given[tensor.name].reshape(-1)
        for version in versions:
            assert version[place].tobytes() == expected.tobytes(), tensor.name
    # 3 * 16 + 3 parameters of 2,411, and what every body has
    assert manifest.trainable_size == 51
    assert head_bytes < 4 * 51 + 500
    assert whole_bytes > 4 * 2_411
    np.testing.assert_array_equal(
        whole[0], np.concatenate([v.reshape(-1) for v in given.values()])
    )
