"""Training on the shipped artefact: alike on every thread, and only what was asked."""

import asyncio
import dataclasses

import numpy as np
import pytest

from coordinator.protocol import encodings
from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_training import TrainingPlan
from device_sim import trainer
from tests.device_sim.fake_coordinator import FakeCoordinator

PLAN = TrainingPlan(learning_rate=0.05, batch_size=4, epochs=2)


@pytest.fixture(scope="module")
def model() -> trainer.Model:
    fake = FakeCoordinator()
    graph = next(body for url, body in fake.files.items() if url.endswith(".tflite"))
    return trainer.Model(
        manifest=fake.manifest, graph=graph, sha256=fake.manifest.train.sha256
    )


@pytest.fixture(scope="module")
def weights(model: trainer.Model) -> Vector:
    return encodings.decode_weights(model.manifest, FakeCoordinator().weights)


def examples(count: int, seed: int = 0) -> tuple[trainer.Images, trainer.Labels]:
    rng = np.random.default_rng(seed)
    x = rng.random((count, 28, 28, 1), dtype=np.float32)
    return x, rng.integers(0, 10, count).astype(np.int32)


def train(
    own: trainer.Trainer,
    weights: Vector,
    plan: TrainingPlan = PLAN,
    count: int = 10,
    seed: int = 1,
) -> trainer.Trained:
    x, y = examples(count)
    rng = np.random.default_rng(seed)
    return own.train(x, y, weights=weights, plan=plan, rng=rng)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    model: trainer.Model, weights: Vector
):
    first, second = trainer.Trainer(model), trainer.Trainer(model)
    train(second, weights, count=17)  # what ran before must not show
    assert train(first, weights).body == train(second, weights).body
    assert train(first, weights, seed=2).body != train(first, weights).body


def test_noise_is_added_before_the_update_is_written_and_no_figures_are(
    model: trainer.Model, weights: Vector
):
    own = trainer.Trainer(model)
    x, y = examples(10)
    noise = LocalNoise(clip_norm=0.5, noise_multiplier=0.01)

    def noisy() -> trainer.Trained:
        return own.train(
            x,
            y,
            weights=weights,
            plan=PLAN,
            rng=np.random.default_rng(1),
            writing=trainer.Writing(noise=noise),
        )

    first, again = noisy(), noisy()

    told = encodings.decode_update(model.manifest, first.body, max_examples=10)
    plain = encodings.decode_update(
        model.manifest, train(own, weights).body, max_examples=10
    )
    assert (told.examples, told.train_loss, told.train_accuracy) == (1, 0.0, 0.0)
    clipped = plain.delta * min(1.0, 0.5 / np.linalg.norm(plain.delta))
    assert (told.delta - clipped).std() == pytest.approx(0.005, rel=0.01)
    assert first.body != again.body  # its noise is nobody's to draw again


def test_each_epoch_trains_on_images_moved_for_it(
    model: trainer.Model, weights: Vector, monkeypatch: pytest.MonkeyPatch
):
    own = trainer.Trainer(model)
    plan = PLAN.model_copy(update={"epochs": 3, "max_shift": 2})
    seen = {}

    def watch(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        seen.update(inputs)
        return run(**inputs)

    run = own._epoch(plan.signature)
    monkeypatch.setitem(own._epochs, plan.signature, watch)
    trained = train(own, weights, plan)

    assert seen["x"].shape == (30, 28, 28, 1)
    for epoch in range(3):
        rows = seen["index"].reshape(3, -1)[epoch][
            seen["mask"].reshape(3, -1)[epoch] > 0
        ]
        assert sorted(rows) == list(range(10 * epoch, 10 * epoch + 10))
    x, y = examples(10)
    for image, label in zip(seen["x"], seen["y"], strict=True):
        middle = image[4:-4, 4:-4]
        assert any(
            label == own_label
            and any(
                np.array_equal(middle, own_image[4 + i : 24 + i, 4 + j : 24 + j])
                for i in range(-2, 3)
                for j in range(-2, 3)
            )
            for own_image, own_label in zip(x, y, strict=True)
        )
    assert trained.body != train(own, weights).body


async def test_threads_give_what_one_trainer_gives(
    model: trainer.Model, weights: Vector
):
    counts = [5, 8, 13, 20] * 3
    alone = [train(trainer.Trainer(model), weights, count=n).sha256 for n in counts]
    pool = trainer.TrainerPool(3)
    trained = await asyncio.gather(
        *(
            pool.run(model, lambda own, n=n: train(own, weights, count=n))
            for n in counts
        )
    )
    pool.close()
    assert [one.sha256 for one in trained] == alone


def test_an_update_says_what_was_done(model: trainer.Model, weights: Vector):
    trained = train(trainer.Trainer(model), weights)
    update = encodings.decode_update(model.manifest, trained.body, max_examples=10)
    assert update.examples == trained.examples == 10
    assert update.train_loss == pytest.approx(trained.loss)
    assert 0 < update.train_loss < 10
    assert 0 < np.abs(update.delta).max() < 1


def test_at_most_max_examples_are_used(model: trainer.Model, weights: Vector):
    plan = PLAN.model_copy(update={"max_examples": 6})
    trained = train(trainer.Trainer(model), weights, plan)
    assert trained.examples == 6


def test_a_rate_that_is_too_high_is_said_to_diverge(
    model: trainer.Model, weights: Vector
):
    plan = PLAN.model_copy(update={"learning_rate": 1e30, "epochs": 5})
    with pytest.raises(trainer.TrainingDiverged, match=r"1e\+30"):
        train(trainer.Trainer(model), weights, plan)


def test_nothing_to_train_on_is_said(model: trainer.Model, weights: Vector):
    with pytest.raises(trainer.NoExamples):
        train(trainer.Trainer(model), weights, count=0)


def test_a_graph_that_is_none_is_said(model: trainer.Model):
    broken = trainer.Model(manifest=model.manifest, graph=b"no graph", sha256="x")
    with pytest.raises(trainer.GraphFailed, match="does not load"):
        trainer.Trainer(broken)


def test_a_score_does_not_depend_on_the_chunks(model: trainer.Model, weights: Vector):
    own = trainer.Trainer(model)
    x, y = examples(260)  # one chunk and a rest
    whole = own.score(x, y, weights=weights)
    parts = [own.score(x[i : i + 65], y[i : i + 65], weights=weights) for i in (0, 65)]
    rest = own.score(x[130:], y[130:], weights=weights)
    assert whole.examples == 260
    assert whole.correct == sum(part.correct for part in [*parts, rest])
    assert whole.loss_sum == pytest.approx(
        sum(part.loss_sum for part in [*parts, rest]), rel=1e-5
    )


@pytest.mark.parametrize(
    ("count", "epochs", "size"), [(10, 1, 4), (8, 3, 4), (3, 2, 5)]
)
def test_every_epoch_visits_every_chosen_example_once(
    count: int, epochs: int, size: int
):
    plan = TrainingPlan(batch_size=size, epochs=epochs)
    chosen = np.arange(100, 100 + count)
    index, mask = trainer.batches(chosen, plan, np.random.default_rng(0))
    steps = -(-count // size)
    assert index.shape == mask.shape == (steps * epochs, size)
    orders = []
    for epoch in range(epochs):
        rows = slice(epoch * steps, (epoch + 1) * steps)
        used = index[rows][mask[rows] == 1]
        assert sorted(used) == list(chosen)
        assert mask[rows].sum() == count
        orders.append(tuple(used))
    assert len(set(orders)) == epochs, "each epoch is shuffled anew"


SETTINGS = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "adam, other betas": {"optimizer": "adam", "learning_rate": 0.01, "beta_2": 0.5},
    "proximal": {"proximal": 5.0},
    "clipped": {"clip_norm": 0.1},
    "momentum, proximal, clipped": {
        "momentum": 0.9,
        "proximal": 5.0,
        "clip_norm": 0.1,
    },
}


def test_each_setting_of_a_plan_reaches_the_graph(
    model: trainer.Model, weights: Vector
):
    own = trainer.Trainer(model)
    plans = [
        PLAN,
        *(TrainingPlan(**(PLAN.model_dump() | s)) for s in SETTINGS.values()),
    ]
    bodies = {train(own, weights, plan).body for plan in plans}
    assert len(bodies) == len(plans)


def test_a_pull_to_the_start_and_short_gradients_keep_a_device_near(
    model: trainer.Model, weights: Vector
):
    def length(**settings: float) -> float:
        own = trainer.Trainer(model)
        body = train(own, weights, PLAN.model_copy(update=settings)).body
        return float(np.linalg.norm(encodings.read_delta(model.manifest, body)))

    assert length(proximal=5.0) < 0.95 * length()
    steps = 2 * 3  # epochs times batches
    assert length(clip_norm=0.1) <= steps * 0.05 * 0.1 * 1.001


def learnable(count: int, seed: int) -> tuple[trainer.Images, trainer.Labels]:
    """Noise, with a bright bar whose height says the class."""
    x, y = examples(count, seed)
    x *= 0.3
    for image, label in zip(x, y, strict=True):
        image[2 * label + 4 : 2 * label + 6] = 1.0
    return x, y


def test_fine_tuning_helps_on_the_devices_own_test_examples(
    model: trainer.Model, weights: Vector
):
    own = trainer.Trainer(model)
    before = weights.copy()
    plan = PLAN.model_copy(update={"epochs": 20})
    test_x, test_y = learnable(30, seed=2)

    tuned = own.fine_tune(
        *learnable(60, seed=1),
        weights=weights,
        plan=plan,
        rng=np.random.default_rng(1),
    )

    np.testing.assert_array_equal(weights, before)
    plain = own.score(test_x, test_y, weights=weights)
    personalized = own.score(test_x, test_y, weights=tuned)
    assert personalized.accuracy > plain.accuracy + 0.3
    assert personalized.loss < plain.loss / 2


def test_fine_tuning_trains_as_a_round_does(model: trainer.Model, weights: Vector):
    own = trainer.Trainer(model)
    plan = PLAN.model_copy(update={"max_shift": 1, "momentum": 0.5, "clip_norm": 1.0})
    x, y = examples(9)

    tuned = own.fine_tune(
        x, y, weights=weights, plan=plan, rng=np.random.default_rng(4)
    )

    update = own.fit(x, y, weights=weights, plan=plan, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(tuned, weights + update.delta)


def test_fine_tuning_that_diverges_is_said_to(model: trainer.Model, weights: Vector):
    plan = PLAN.model_copy(update={"learning_rate": 1e30, "epochs": 5})
    with pytest.raises(trainer.TrainingDiverged, match=r"1e\+30"):
        trainer.Trainer(model).fine_tune(
            *examples(9), weights=weights, plan=plan, rng=np.random.default_rng(4)
        )


def test_fine_tuning_leaves_frozen_tensors_alone(
    model: trainer.Model, weights: Vector, monkeypatch: pytest.MonkeyPatch
):
    first, *rest = model.manifest.tensors
    frozen = model.manifest.model_copy(
        update={"tensors": (first.model_copy(update={"trainable": False}), *rest)}
    )
    own = trainer.Trainer(dataclasses.replace(model, manifest=frozen))
    delta = np.arange(1, frozen.trainable_size + 1, dtype=np.float32)
    update = encodings.Update(
        delta=delta, examples=9, train_loss=1.0, train_accuracy=0.5
    )
    monkeypatch.setattr(own, "fit", lambda *_, **__: update)

    tuned = own.fine_tune(
        *examples(9), weights=weights, plan=PLAN, rng=np.random.default_rng(4)
    )

    np.testing.assert_array_equal(tuned[: first.size], weights[: first.size])
    np.testing.assert_array_equal(tuned[first.size :], weights[first.size :] + delta)
