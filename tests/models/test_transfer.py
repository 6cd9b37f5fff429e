"""Frozen layers, and weights that a model takes along."""

import pathlib

import keras
import numpy as np
import pytest
from click.testing import Result
from keras import layers
from typer.testing import CliRunner

from coordinator.protocol import encodings, first_weights, tensors
from coordinator.protocol.manifest import Vector
from tflite_models import __main__, building, files, transfer

pytestmark = pytest.mark.tf


def small(classes: int = 2) -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="relu", name="base"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(classes, name="head"),
        ],
        name="small",
    )


def build(*arguments: object) -> Result:
    return CliRunner().invoke(__main__.app, ["build", *map(str, arguments)])


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def of_file(folder: pathlib.Path) -> dict[str, Vector]:
    artefacts = files.read(folder)
    assert artefacts.weights is not None
    return dict(first_weights.read(artefacts.manifest, artefacts.weights))


@pytest.fixture
def keras_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "small.keras"
    small().save(path)
    return path


def test_frozen_layers_are_frozen_as_a_whole() -> None:
    model = small()

    transfer.freeze(model, "base")

    trained = {spec.name: spec.trainable for spec in building.describe_tensors(model)}
    assert trained == {
        "base/kernel": False,
        "base/bias": False,
        "head/kernel": True,
        "head/bias": True,
    }


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("bass", "no layer with weights is named bass; there are base, head"),
        ("base,drop", "is named drop; there are base, head"),
        ("base,head", "one layer must be trained, all are frozen: base, head"),
    ],
)
def test_layers_that_cannot_be_frozen_are_refused_by_name(
    named: str, words: str
) -> None:
    with pytest.raises(transfer.Unfit, match=words):
        transfer.freeze(small(), named)


def test_a_head_for_other_classes_is_drawn_anew() -> None:
    given = transfer.values(small(5))

    inherited = transfer.inherit(small(2), given)

    assert list(inherited.values) == ["base/kernel", "base/bias"]
    np.testing.assert_array_equal(inherited.values["base/kernel"], given["base/kernel"])
    assert inherited.drawn == ("head/kernel", "head/bias")


def test_a_head_that_fits_is_taken_along() -> None:
    inherited = transfer.inherit(small(), transfer.values(small()) | {"x": np.ones(1)})

    assert inherited.drawn == ()
    assert len(inherited.values) == 4
    assert inherited.left == ("x",)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("base/bias", None, "no tensor base/bias, they have base/kernel, head"),
        ("base/bias", np.ones(4), r"base/bias has shape \(3,\), in the weights \(4,\)"),
        ("base/bias", np.ones(3, np.int32), "must be of floats, got int32"),
        ("base/bias", np.full(3, np.inf), "holds NaN or infinity"),
        ("base/bias", np.full(3, 1e39), "holds NaN or infinity"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(
    name: str, array: np.ndarray | None, words: str
) -> None:
    given = dict(transfer.values(small()))
    given.pop(name)
    if array is not None:
        given[name] = array

    with pytest.raises(transfer.Unfit, match=words):
        transfer.inherit(small(), given)


def test_a_frozen_head_cannot_be_drawn_anew() -> None:
    model = small(2)
    transfer.freeze(model, "head")

    with pytest.raises(transfer.Unfit, match="head/kernel has shape"):
        transfer.inherit(model, transfer.values(small(5)))


def test_a_keras_file_keeps_its_weights(keras_file: pathlib.Path) -> None:
    built = build(keras_file)

    assert built.exit_code == 0, built.output
    assert files.WEIGHTS_FILE in built.output
    kept = of_file(keras_file.with_suffix(""))
    expected = transfer.values(keras.models.load_model(keras_file))
    assert list(kept) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(kept[name], array)


def test_a_keras_file_may_be_drawn_instead(keras_file: pathlib.Path) -> None:
    folder = keras_file.with_suffix("")
    build(keras_file)

    built = build(keras_file, "--drawn")

    assert built.exit_code == 0, built.output
    assert files.read(folder).weights is None
    assert b"weights.safetensors" not in (folder / files.MANIFEST_FILE).read_bytes()


def test_a_base_is_frozen_under_a_new_head(keras_file: pathlib.Path) -> None:
    folder = keras_file.parent / "seven"

    built = build(
        keras_file,
        "--freeze",
        "base",
        "--classes",
        7,
        "--name",
        "seven",
        "--out",
        folder,
    )
    checked = CliRunner().invoke(
        __main__.app, ["check", str(folder), "--keras", str(keras_file)]
    )

    assert "43 weights, 28 of them trained" in built.output
    assert "drawn anew by each task: head/kernel, head/bias" in built.output
    assert list(of_file(folder)) == ["base/kernel", "base/bias"]
    manifest = files.read(folder).manifest
    assert (manifest.model, manifest.classes) == ("seven", 7)
    assert manifest.description == "Built from small.keras. Frozen: base."
    assert "22 of 22 hold" in checked.output, checked.output


def test_a_published_version_is_a_base(keras_file: pathlib.Path) -> None:
    build(keras_file)
    manifest = files.read(keras_file.with_suffix("")).manifest
    version = np.arange(manifest.size, dtype=np.float32)
    weights = keras_file.parent / "final.safetensors"
    weights.write_bytes(encodings.encode_weights(manifest, version))

    built = build(keras_file, "--weights", weights, "--freeze", "base")

    assert built.exit_code == 0, built.output
    taken = of_file(keras_file.with_suffix(""))
    np.testing.assert_array_equal(
        np.concatenate([array.reshape(-1) for array in taken.values()]), version
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--drawn", "--freeze", "base"), "base would stay frozen as drawn"),
        (("--freeze", "bass"), "no layer with weights is named bass"),
        (("--weights", "other.safetensors"), "the weights have no tensor base/kernel"),
        (("--weights", "text.safetensors"), "is no safetensors file"),
        (("--weights", "none.safetensors"), "none.safetensors: No such file"),
    ],
)
def test_what_cannot_be_built_is_a_plain_message(
    keras_file: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(keras_file.parent)
    pathlib.Path("other.safetensors").write_bytes(
        tensors.write([("x", np.ones(1))], {})
    )
    pathlib.Path("text.safetensors").write_bytes(b"no tensors at all")

    refused = build(keras_file, *arguments)

    assert refused.exit_code == 2
    assert words in said(refused)
    assert not keras_file.with_suffix("").exists()


@pytest.mark.parametrize("options", [("--classes", "3"), ("--name", "cnn")])
def test_a_model_that_ships_is_not_overwritten_by_another(
    options: tuple[str, ...],
) -> None:
    refused = build("cnn", *options)

    assert refused.exit_code == 2
    assert "needs a --name of its own" in said(refused)
