import pytest

from coordinator.protocol import paths

ID = "0" * 32


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (paths.DEVICES, "/v1/devices"),
        (paths.CHECK_INS, "/v1/check-ins"),
        (paths.MODELS, "/v1/models"),
        (paths.TASKS, "/v1/tasks"),
        (paths.EVENTS, "/v1/events"),
        (paths.HEALTH, "/healthz"),
        (paths.READY, "/readyz"),
        (paths.METRICS, "/metrics"),
        (paths.manifest("cnn"), "/v1/models/cnn/manifest"),
        (paths.train_graph("cnn"), "/v1/models/cnn/train.tflite"),
        (paths.weights("cnn", 3), "/v1/models/cnn/versions/3/weights"),
        (paths.inference_file("cnn", 3), "/v1/models/cnn/versions/3/model.tflite"),
        (paths.versions("cnn"), "/v1/models/cnn/versions"),
        (paths.tag("cnn", "production"), "/v1/models/cnn/tags/production"),
        (paths.tagged_weights("cnn", "a"), "/v1/models/cnn/tags/a/weights"),
        (paths.tagged_inference_file("cnn", "a"), "/v1/models/cnn/tags/a/model.tflite"),
        (paths.update(ID), f"/v1/assignments/{ID}/update"),
        (paths.evaluation(ID), f"/v1/assignments/{ID}/evaluation"),
        (paths.failure(ID), f"/v1/assignments/{ID}/failure"),
        (paths.task("t"), "/v1/tasks/t"),
        (paths.rounds("t"), "/v1/tasks/t/rounds"),
        (paths.rollback("t"), "/v1/tasks/t/rollback"),
        (paths.metrics("t"), "/v1/tasks/t/metrics"),
    ],
)
def test_a_url_is_the_one_that_phones_were_built_with(path: str, expected: str) -> None:
    assert path == expected
