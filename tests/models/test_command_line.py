"""`python -m tflite_models` as a person meets it."""

import pathlib
import subprocess
import sys
from collections.abc import Callable

import keras
import pytest
from click.testing import Result
from keras import layers
from typer.testing import CliRunner

from tests.models import scenario
from tflite_models import __main__, files

pytestmark = pytest.mark.tf

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    return lambda *arguments: CliRunner().invoke(__main__.app, list(arguments))


def test_a_keras_file_is_built_and_checked(
    invoke: Invoke, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "tiny.keras"
    keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)],
        name="tiny",
    ).save(path)

    built = invoke("build", str(path))
    checked = invoke("check", str(tmp_path / "tiny"), "--keras", str(path))

    assert built.exit_code == 0, built.output
    assert "23 weights" in built.output
    manifest = files.read(tmp_path / "tiny").manifest
    assert manifest.model == "tiny"
    assert manifest.description == "Built from tiny.keras."
    assert checked.exit_code == 0, checked.output
    assert "22 of 22 hold" in checked.output


def test_a_check_that_fails_exits_with_one(
    invoke: Invoke, tmp_path: pathlib.Path
) -> None:
    artefacts = scenario.shipped("cnn")
    tensors = artefacts.manifest.signatures["infer"]
    wrong = artefacts.manifest.signatures | {"predict": tensors}
    scenario.shipped("cnn").write(tmp_path)
    manifest = artefacts.manifest.model_copy(
        update={"signatures": wrong, "model": "other"}
    )
    (tmp_path / files.MANIFEST_FILE).write_bytes(manifest.to_json())

    checked = invoke("check", str(tmp_path))

    assert checked.exit_code == 1
    assert "FAILED  train.tflite: signatures as the manifest states" in checked.output
    assert "not compared with Keras" in checked.output


def test_an_unsupported_layer_is_a_plain_message(
    invoke: Invoke, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "norm.keras"
    keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(name="norm"), layers.Dense(2)]
    ).save(path)

    built = invoke("build", str(path))

    assert built.exit_code == 2
    assert "layer 'norm' (BatchNormalization): has no gradient here" in " ".join(
        built.output.replace("│", " ").split()
    )


@pytest.mark.parametrize("command", ["build", "check", "inspect"])
def test_an_unknown_model_is_a_plain_message(invoke: Invoke, command: str) -> None:
    refused = invoke(command, "resnet")

    assert refused.exit_code == 2
    assert "resnet is no" in refused.output


def test_inspection_shows_signatures_and_operators(invoke: Invoke) -> None:
    model = invoke("inspect", "cnn_deep")
    file = invoke("inspect", str(files.FOLDER / "cnn" / files.TRAIN_FILE))

    assert "431,242 weights" in model.output
    assert "hidden/kernel" in model.output
    assert "takes x                float32  (any, 28, 28, 1)" in file.output
    assert "6 WHILE" in file.output  # one an epoch
    assert "custom" not in model.output + file.output


def test_inspection_loads_no_tensorflow() -> None:
    script = (
        "import sys; from tflite_models.__main__ import app; "
        "app(['inspect', 'cnn'], standalone_mode=False); "
        "assert 'tensorflow' not in sys.modules; assert 'keras' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_a_build_is_silent_but_for_its_result(tmp_path: pathlib.Path) -> None:
    options = ("--classes", "3", "--name", "three", "--out", str(tmp_path))

    finished = subprocess.run(
        [sys.executable, "-m", "tflite_models", "build", "cnn", *options],
        check=True,
        capture_output=True,
        text=True,
    )

    assert finished.stderr == ""
    assert len(finished.stdout.splitlines()) == 3
    manifest = files.read(tmp_path).manifest
    assert (manifest.model, manifest.classes) == ("three", 3)
