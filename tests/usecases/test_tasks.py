"""Operators: tasks, models, devices, figures."""

import numpy as np
import pytest

from coordinator.domain.aggregation import Score
from coordinator.domain.devices import Role
from coordinator.domain.errors import (
    Forbidden,
    ModelExists,
    ModelUnknown,
    TaskEnded,
    TaskExists,
    TaskUnknown,
    Unauthenticated,
    UnsuitablePlan,
    VersionUnknown,
)
from coordinator.domain.initialization import draw_weights
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.protocol import first_weights, tensors
from coordinator.protocol.digests import sha256_hex
from coordinator.protocol.plan_training import TrainingPlan
from coordinator.usecases import access, devices, models, tasks, tokens
from tests.support.federation import Federation, plan
from tests.support.models import INFER, TRAIN, tiny_manifest, write_tiny_model


def test_a_task_starts_from_weights_of_its_seed(federation: Federation) -> None:
    task = federation.start()

    assert (task.status, task.version, task.rounds_committed) == (
        Status.RUNNING,
        0,
        0,
    )
    (round_,) = federation.attempts()
    assert (round_.phase, round_.number, round_.attempt) == (Phase.COLLECTING, 1, 1)
    np.testing.assert_array_equal(
        federation.weights(0), draw_weights(tiny_manifest(), 7)
    )
    assert federation.happenings() == [
        "model_registered",
        "task_created",
        "round_opened",
    ]


def test_a_task_starts_from_the_weights_that_its_model_came_with(
    federation: Federation,
) -> None:
    bias = np.array([1.5, -2.5, 3.5], np.float32)
    given = {"dense/bias": bias}
    write_tiny_model(
        federation.folder / "models",
        weights=first_weights.write(tiny_manifest(), given),
    )

    federation.start()

    np.testing.assert_array_equal(
        federation.weights(0), draw_weights(tiny_manifest(), 7, given)
    )
    np.testing.assert_array_equal(federation.weights(0)[6:9], bias)


def test_first_weights_of_another_model_are_not_registered(
    federation: Federation,
) -> None:
    other = tensors.write([("other", np.ones(3, np.float32))], {})
    write_tiny_model(federation.folder / "models", weights=other)
    before = federation.state()

    with pytest.raises(models.InvalidModel, match="no tensor 'other'"):
        federation.register()

    assert federation.state() == before


def test_a_second_task_of_a_model_publishes_the_next_version(
    federation: Federation,
) -> None:
    federation.start("first")

    assert federation.start("second").version == 1


def test_a_task_needs_a_registered_model(federation: Federation) -> None:
    before = federation.rows()

    with pytest.raises(ModelUnknown, match="tiny"):
        tasks.create(
            federation.store,
            federation.blobs,
            task_id="task",
            plan=plan(),
            now=federation.clock.now(),
        )

    assert federation.rows() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"max_shift": 1},
        {"max_rotation": 5.0},
        {"max_scale": 0.1},
        {"max_brightness": 0.1},
        {"max_contrast": 0.1},
        {"flip": True},
    ],
)
def test_only_images_can_be_augmented(
    federation: Federation, changes: dict[str, float]
) -> None:
    federation.register()
    before = federation.state()
    unsuitable = plan().model_copy(update={"training": TrainingPlan(**changes)})

    (name,) = changes
    with pytest.raises(UnsuitablePlan, match=rf"^{name} .* shape \(2,\)"):
        tasks.create(
            federation.store,
            federation.blobs,
            task_id="task",
            plan=unsuitable,
            now=federation.clock.now(),
        )

    assert federation.state() == before


def test_an_optimizer_that_the_models_graph_lacks_is_refused(
    federation: Federation,
) -> None:
    federation.register()
    before = federation.state()
    settings = plan().model_copy(update={"training": TrainingPlan(optimizer="adam")})

    with pytest.raises(
        UnsuitablePlan, match=r"adam .* needs signature train_epoch_adam"
    ):
        federation.start(settings=settings)

    assert federation.state() == before


def test_a_task_is_started_once(federation: Federation) -> None:
    federation.start()
    before = federation.state()

    with pytest.raises(TaskExists, match="task"):
        federation.start()

    assert federation.state() == before


def test_a_stopped_task_abandons_its_round_and_keeps_its_versions(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.release(federation.must_claim())
    leased = federation.lease()

    view = tasks.stop(federation.store, task_id="task", now=federation.clock.now())

    assert view.task == federation.task()
    assert view.task.status is Status.STOPPED
    assert view.task.reason == "an operator stopped it"
    assert view.open_rounds == ()
    assert federation.phases() == [Phase.COMMITTED, Phase.ABANDONED]
    assert federation.counts(leased.round.id) == (0, 0, 0, 1)
    assert federation.weights(1).shape == (10,)
    before = federation.state()
    with pytest.raises(TaskEnded, match="stopped"):
        tasks.stop(federation.store, task_id="task", now=federation.clock.now())
    assert federation.state() == before


def test_an_unknown_task_is_refused_by_every_question(federation: Federation) -> None:
    store, now = federation.store, federation.clock.now()
    score = Score(examples=1, loss=1.0, accuracy=1.0)
    for ask in (
        lambda: tasks.stop(store, task_id="none", now=now),
        lambda: tasks.look(store, task_id="none", now=now),
        lambda: tasks.list_rounds(store, task_id="none", now=now),
        lambda: tasks.list_metrics(store, task_id="none"),
        lambda: tasks.record_held_out(
            store, task_id="none", number=0, score=score, now=now
        ),
    ):
        with pytest.raises(TaskUnknown, match="none"):
            ask()


def test_the_newest_task_is_listed_first(federation: Federation) -> None:
    for name in ("older", "newer"):
        federation.start(name)
        federation.clock.advance(1)

    views = tasks.list_tasks(federation.store, now=federation.clock.now())

    assert [view.task.id for view in views] == ["newer", "older"]
    assert [len(view.open_rounds) for view in views] == [1, 1]


def test_a_rounds_view_counts_bytes_and_scores(federation: Federation) -> None:
    federation.start(settings=plan(goal=3))
    work = federation.take_part(examples=2)
    federation.give_up(federation.lease())
    federation.lease()

    (view,) = tasks.look(
        federation.store, task_id="task", now=federation.clock.now()
    ).open_rounds

    sent = sum(
        len(body)
        for name, body in federation.files().items()
        if name.startswith(f"updates/{work.round.id}/")
    )
    assert view.bytes_up == sent
    assert view.counts.reported == 2
    assert view.score == Score(examples=2, loss=1.0, accuracy=0.5)


def test_a_held_out_score_is_kept_and_may_be_corrected(federation: Federation) -> None:
    federation.start()
    scores = [Score(examples=100, loss=loss, accuracy=0.25) for loss in (2.0, 1.5)]

    for score in scores:
        view = tasks.record_held_out(
            federation.store,
            task_id="task",
            number=0,
            score=score,
            now=federation.clock.now(),
        )
        assert view.held_out == score

    (view,) = tasks.list_metrics(federation.store, task_id="task")
    assert view.held_out == scores[1]
    assert (view.train, view.federated) == (None, None)


def test_a_held_out_score_needs_its_version(federation: Federation) -> None:
    federation.start()
    before = federation.state()

    with pytest.raises(VersionUnknown, match="version 3"):
        tasks.record_held_out(
            federation.store,
            task_id="task",
            number=3,
            score=Score(examples=1, loss=1.0, accuracy=1.0),
            now=federation.clock.now(),
        )

    assert federation.state() == before


def test_the_history_is_read_in_pages(federation: Federation) -> None:
    federation.start()
    every = tasks.list_events(federation.store, after=0, limit=100)

    first = tasks.list_events(federation.store, after=0, limit=2)
    rest = tasks.list_events(federation.store, after=first[-1].id, limit=100)

    assert first + rest == every
    assert tasks.last_event_id(federation.store) == every[-1].id
    assert every[0].data == {"model": "tiny"}


def test_a_model_is_registered_once(federation: Federation) -> None:
    model = federation.register()
    before = federation.state()

    assert federation.register() == model

    assert federation.state() == before
    (view,) = models.list_models(federation.store)
    assert (view.model, view.versions, view.newest_version) == (model, 0, None)


def test_another_manifest_under_the_same_name_is_refused(
    federation: Federation,
) -> None:
    federation.register()
    manifest = federation.folder / "models" / "tiny" / "manifest.json"
    changed = tiny_manifest().model_copy(update={"description": "another"})
    manifest.write_bytes(changed.to_json())
    before = federation.rows()

    with pytest.raises(ModelExists, match="tiny"):
        federation.register()

    assert federation.rows() == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("manifest.json", None, r"manifest\.json is missing"),
        ("manifest.json", b"{", "is no manifest"),
        ("train.tflite", None, r"train\.tflite is missing"),
        ("model.tflite", b"other bytes", "not the file that the manifest names"),
    ],
)
def test_a_damaged_model_folder_is_refused(
    federation: Federation, file: str, content: bytes | None, message: str
) -> None:
    federation.register()
    path = federation.folder / "models" / "tiny" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = federation.state()

    with pytest.raises(models.InvalidModel, match=message):
        federation.register()

    assert federation.state() == before


def test_the_inference_file_holds_the_versions_weights(federation: Federation) -> None:
    federation.start()
    model, version = models.find_version(federation.store, "tiny", 0)

    content = models.inference_file(federation.blobs, model, version)

    weights = federation.weights(0)
    assert len(content) == len(INFER)
    assert content[:64] == INFER[:64]
    assert content[64:88] == weights[:6].reshape(2, 3).T.tobytes()
    assert content[88:100] == weights[6:9].tobytes()
    assert content[100:104] == weights[9:].tobytes()
    assert content[104:] == INFER[104:]
    assert federation.blobs.get(sha256_hex(TRAIN)) == TRAIN


def test_unknown_models_and_versions_are_refused(federation: Federation) -> None:
    federation.start()

    with pytest.raises(ModelUnknown, match="none"):
        models.find(federation.store, "none")
    with pytest.raises(ModelUnknown, match="none"):
        models.find_version(federation.store, "none", 0)
    with pytest.raises(VersionUnknown, match="version 1"):
        models.find_version(federation.store, "tiny", 1)


def test_a_token_names_its_device_and_only_its_hash_is_kept(
    federation: Federation,
) -> None:
    device, token = devices.enrol(
        federation.store,
        devices.Applicant(name="ann", capabilities={"a": 1}),
        now=federation.clock.now(),
    )

    assert access.authenticate_device(federation.store, token) == device.id
    assert devices.list_devices(federation.store, limit=5) == [(device, 0)]
    assert token not in repr(federation.rows())


@pytest.mark.parametrize("token", [None, "", "unknown"])
def test_a_missing_or_unknown_token_is_refused(
    federation: Federation, token: str | None
) -> None:
    with pytest.raises(Unauthenticated):
        access.authenticate_device(federation.store, token)
    with pytest.raises(Unauthenticated):
        access.authorize(federation.store, token, Role.READ)


def test_a_device_is_no_operator_and_an_operator_no_device(
    federation: Federation,
) -> None:
    _, token = devices.enrol(
        federation.store, devices.Applicant(), now=federation.clock.now()
    )
    for _ in range(2):
        tokens.admit_operator(
            federation.store,
            "operator",
            name="ann",
            role=Role.ADMIN,
            by=tokens.COMMAND_LINE,
            now=federation.clock.now(),
        )

    access.authorize(federation.store, "operator", Role.ADMIN)
    with pytest.raises(Forbidden):
        access.authorize(federation.store, token, Role.READ)
    with pytest.raises(Unauthenticated):
        access.authenticate_device(federation.store, "operator")
    assert len(federation.rows()["operators"]) == 1
    assert "operator" not in repr(federation.rows()["operators"])


def test_devices_are_listed_with_what_they_gave(federation: Federation) -> None:
    federation.start()
    work = federation.take_part()
    federation.clock.advance(1)
    newest = federation.enrol()

    listed = devices.list_devices(federation.store, limit=5)

    assert [(device.id, accepted) for device, accepted in listed] == [
        (newest, 0),
        (work.assignment.device_id, 1),
    ]
    assert len(devices.list_devices(federation.store, limit=1)) == 1
