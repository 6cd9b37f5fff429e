"""docs/device-api.md: what it says is what happens."""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from coordinator.protocol import (
    digests,
    encodings,
    messages,
    operations,
    paths,
    plans,
    problems,
)
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.protocol.vocabulary import FailureReason
from tests.docs import pages
from tests.support.processes import Coordinator

MODEL = pages.ROOT / "tflite_models" / "artefacts" / "cnn"
TASK = "by-hand"
NEEDED = ("bash", "curl", "openssl")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A coordinator that runs the page's plan on the model that ships."""
    folder = tmp_path_factory.mktemp("device-api")
    shutil.copytree(MODEL, folder / "models" / MODEL.name)
    running = Coordinator(folder, database_url=None, models_dir=folder / "models")
    plan = plans.parse(pages.blocks(pages.DEVICE_API, "toml")[0])
    request = operations.TaskRequest(id=TASK, plan=plan)
    try:
        running.start("api")
        running.start("worker")
        httpx.post(
            running.url + paths.TASKS,
            headers=running.operator,
            json=request.model_dump(mode="json"),
        ).raise_for_status()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def phone(
    coordinator: Coordinator, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The folder in which the page's blocks were run, in the order of the page."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"the page's commands need {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("phone")
    for script in pages.blocks(pages.DEVICE_API, "python"):
        name = script.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(script)
    commands = ["set -euo pipefail"]
    for block in pages.blocks(pages.DEVICE_API, "bash"):
        commands.append(block)
        if block == "python3 train.py\n":  # the page trains once more later
            commands.append("cp update.safetensors uploaded.safetensors")
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-c", "\n".join(commands)],
        cwd=folder,
        env={
            "COORDINATOR": coordinator.url,
            "HOME": str(folder),
            "PATH": f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{coordinator.log}"
    (folder / "output").write_text(done.stdout)
    return folder


def read(phone: pathlib.Path, name: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((phone / name).read_text())
    return content


@pytest.mark.slow
@pytest.mark.tf
def test_the_page_runs_from_top_to_bottom(phone: pathlib.Path) -> None:
    assert (phone / "output").read_text().splitlines() == [
        "train",
        "304",
        problems.ALREADY_REPORTED.type,
        "evaluate",
        "tasks_ended",
        "bearer",
        "1",
    ]
    assert (phone / "auth.header").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.tf
def test_the_upload_by_hand_is_what_the_next_version_was_made_of(
    phone: pathlib.Path, coordinator: Coordinator
) -> None:
    manifest = Manifest.model_validate_json((phone / "manifest.json").read_bytes())
    body = (phone / "uploaded.safetensors").read_bytes()
    update = encodings.decode_update(manifest, body, max_examples=90)
    assert np.abs(update.delta).max() > 1e-4

    def weights(version: int) -> Vector:
        answer = httpx.get(coordinator.url + paths.weights("cnn", version))
        answer.raise_for_status()
        return encodings.decode_weights(manifest, answer.content)

    stepped = weights(0).astype(np.float64) + update.delta
    np.testing.assert_array_equal(weights(1), stepped.astype(np.float32))


@pytest.mark.slow
@pytest.mark.tf
def test_the_receipt_names_what_was_sent_and_a_replay_gets_the_same(
    phone: pathlib.Path,
) -> None:
    receipt = messages.Receipt.model_validate(read(phone, "receipt.json"))
    body = (phone / "uploaded.safetensors").read_bytes()
    assert receipt.sha256 == digests.sha256_hex(body)
    assert (receipt.size_bytes, receipt.examples) == (len(body), 90)
    assert read(phone, "again.json") == read(phone, "receipt.json")
    # What the page trained after that was refused.
    refused = (phone / "update.safetensors").read_bytes()
    assert receipt.sha256 != digests.sha256_hex(refused)


@pytest.mark.slow
@pytest.mark.tf
def test_everything_by_hand_counted_exactly_once(
    phone: pathlib.Path, coordinator: Coordinator
) -> None:
    rounds = coordinator.get(paths.rounds(TASK))["rounds"]
    counted = [
        (r["kind"], r["phase"], r["accepted"], r["failed"], r["examples"])
        for r in rounds
    ]
    assert counted == [
        ("train", "committed", 1, 0, 90),
        ("evaluate", "committed", 1, 1, 30),
    ]
    evaluation = read(phone, "evaluation.json")
    federated = coordinator.get(paths.metrics(TASK))["versions"][1]["federated"]
    assert federated["accuracy"] == evaluation["correct"] / 30
    assert federated["loss"] == pytest.approx(evaluation["loss_sum"] / 30)


@pytest.mark.slow
@pytest.mark.tf
def test_the_inference_file_holds_the_new_version(
    phone: pathlib.Path, coordinator: Coordinator
) -> None:
    answer = httpx.get(coordinator.url + paths.inference_file("cnn", 1))
    assert (phone / "model.tflite").read_bytes() == answer.content
    assert answer.content != (MODEL / "model.tflite").read_bytes()


def test_every_example_answer_has_the_form_of_a_real_one() -> None:
    forms = (
        messages.Enrolment,
        messages.CheckIn,
        messages.Receipt,
        messages.FailureReceipt,
        messages.EvaluationReceipt,
        problems.Problem,
    )
    examples = pages.blocks(pages.DEVICE_API, "json")
    for form, example in zip(forms, examples, strict=True):
        parsed = form.model_validate_json(example)
        assert parsed.model_fields_set <= set(form.model_fields)


def test_the_table_of_refusals_is_complete() -> None:
    rows = pages.table_rows(pages.DEVICE_API, "name")
    assert [row[:3] for row in rows] == [
        [f"`{kind.slug}`", str(int(kind.status)), kind.title] for kind in problems.ALL
    ]
    for kind, (*_, advice) in zip(problems.ALL, rows, strict=True):
        assert advice, kind.slug
        assert ("`retry_after_s`" in advice) == kind.retry, kind.slug


def test_the_table_of_failure_reasons_is_complete() -> None:
    rows = pages.table_rows(pages.DEVICE_API, "`reason`")
    assert [row[0] for row in rows] == [f"`{reason}`" for reason in FailureReason]
