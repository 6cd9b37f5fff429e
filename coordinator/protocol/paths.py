"""The URLs of the API, version 1, relative to the coordinator's address."""

DEVICES = "/v1/devices"
ENROLMENT_CHALLENGES = "/v1/enrolment-challenges"
ENROLMENT_TOKENS = "/v1/enrolment-tokens"
OPERATORS = "/v1/operators"
AUDIT = "/v1/audit"
ENCRYPTION_KEYS = "/v1/encryption-keys"
CHECK_INS = "/v1/check-ins"
MODELS = "/v1/models"
TASKS = "/v1/tasks"
EVENTS = "/v1/events"
HEALTH = "/healthz"
READY = "/readyz"
METRICS = "/metrics"


def manifest(model: str) -> str:
    """Where a model's manifest lies."""
    return f"{MODELS}/{model}/manifest"


def train_graph(model: str) -> str:
    """Where a model's training artefact lies."""
    return f"{MODELS}/{model}/train.tflite"


def weights(model: str, version: int) -> str:
    """Where the weights of a version lie."""
    return f"{MODELS}/{model}/versions/{version}/weights"


def inference_file(model: str, version: int) -> str:
    """Where the inference artefact with a version's weights inside lies."""
    return f"{MODELS}/{model}/versions/{version}/model.tflite"


def versions(model: str) -> str:
    """Where a model's versions are listed."""
    return f"{MODELS}/{model}/versions"


def tag(model: str, name: str) -> str:
    """Where it says to which version a tag points."""
    return f"{MODELS}/{model}/tags/{name}"


def tagged_weights(model: str, name: str) -> str:
    """Where the weights of the version lie that a tag points to now."""
    return f"{tag(model, name)}/weights"


def tagged_inference_file(model: str, name: str) -> str:
    """Where the inference artefact of the version lies that a tag points to now."""
    return f"{tag(model, name)}/model.tflite"


def update(assignment: str) -> str:
    """Where the device of an assignment posts its update."""
    return f"/v1/assignments/{assignment}/update"


def upload(update_path: str, sha256: str) -> str:
    """Where what has come in of an update's body can be asked for and continued.

    Args:
        update_path: Where the update is posted.
        sha256: Of the whole body as sent, 64 hex digits.
    """
    return f"{update_path}/{sha256}"


def evaluation(assignment: str) -> str:
    """Where the device of an assignment posts its evaluation."""
    return f"/v1/assignments/{assignment}/evaluation"


def secagg(assignment: str) -> str:
    """Under which path an assignment's steps of secure aggregation are."""
    return f"/v1/assignments/{assignment}/secagg"


def encryption(assignment: str) -> str:
    """Where the device of an assignment asks what it encrypts its result with."""
    return f"/v1/assignments/{assignment}/encryption"


def public_key(key_id: str) -> str:
    """Where the public half of a round's key lies."""
    return f"{ENCRYPTION_KEYS}/{key_id}"


def failure(assignment: str) -> str:
    """Where the device of an assignment says that it gives up, and why."""
    return f"/v1/assignments/{assignment}/failure"


def task(task_id: str) -> str:
    """Where a task's state lies."""
    return f"{TASKS}/{task_id}"


def rounds(task_id: str) -> str:
    """Where a task's rounds lie."""
    return f"{TASKS}/{task_id}/rounds"


def rollback(task_id: str) -> str:
    """Where an operator lets a task go on from another version."""
    return f"{TASKS}/{task_id}/rollback"


def privacy(task_id: str) -> str:
    """Where it lies what a task can give away of a device."""
    return f"{TASKS}/{task_id}/privacy"


def metrics(task_id: str) -> str:
    """Where the metrics of a task's versions lie."""
    return f"{TASKS}/{task_id}/metrics"
