"""The shipped files are what their definitions build, and hold what they promise."""

import dataclasses
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from coordinator.protocol.manifest import TensorSpec, patch_weights
from tests.models import scenario
from tflite_models import (
    building,
    check,
    export,
    files,
    flatbuffer,
    initializers,
    keras_models,
    patches,
    reference,
)

pytestmark = pytest.mark.tf

NAMES = list(keras_models.BUILDERS)


def test_the_small_network_has_its_published_size() -> None:
    manifest = scenario.shipped("cnn").manifest

    assert manifest.size == manifest.trainable_size == 693_962
    assert keras_models.cnn(62).count_params() == 693_962 + 52 * 129
    assert scenario.shipped("cnn_small").manifest.size == 5_258


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_pass_their_check_and_are_what_a_rebuild_gives(name: str) -> None:
    artefacts = scenario.shipped(name)

    findings = list(check.check(artefacts, check.find_model(artefacts.manifest)))

    assert "a rebuild gives the same files" in [each.subject for each in findings]
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("name", NAMES)
def test_patched_inference_is_a_direct_conversion(name: str) -> None:
    artefacts = scenario.shipped(name)
    model = keras_models.BUILDERS[name]()
    weights = scenario.draw_weights(model, 3)

    patched = patch_weights(artefacts.infer, artefacts.manifest, weights)

    building.assign(model, weights)
    assert patched == export.convert_inference(model)
    x = scenario.draw_examples(model, 5)["x"]
    runner = Interpreter(model_content=patched, num_threads=1)
    np.testing.assert_allclose(
        runner.get_signature_runner("infer")(x=x)["probabilities"],
        reference.predict(model, x=x, weights=weights),
        rtol=0,
        atol=1e-6,
    )


def test_shipped_inference_files_hold_zeros_until_patched() -> None:
    artefacts = scenario.shipped("cnn")
    zeros = np.zeros(artefacts.manifest.size, np.float32)

    assert patch_weights(artefacts.infer, artefacts.manifest, zeros) == artefacts.infer


def test_weights_go_into_keras_and_come_back() -> None:
    model = keras_models.cnn_deep()
    weights = scenario.draw_weights(model)

    building.assign(model, weights)

    np.testing.assert_array_equal(building.flatten(model), weights)
    with pytest.raises(ValueError, match="431242 weights, got 3"):
        building.assign(model, weights[:3])


@pytest.mark.parametrize("kind", ["GlorotUniform", "HeNormal", "LecunUniform"])
@pytest.mark.parametrize(
    "layer", [layers.Conv2D(8, (3, 5)), layers.Dense(16)], ids=["conv", "dense"]
)
def test_fans_are_those_that_keras_draws_with(
    kind: str, layer: keras.layers.Layer
) -> None:
    initializer = getattr(keras.initializers, kind)(seed=1)
    layer = type(layer).from_config(
        layer.get_config() | {"kernel_initializer": initializer}
    )
    layer.build((None, 9, 9, 40))

    described = initializers.describe(layer, "kernel")

    drawn = np.asarray(initializer(layer.kernel.shape))
    fan = described.fan_in
    if kind.startswith("Glorot"):
        fan = (described.fan_in + described.fan_out) / 2
    gain = 2 if kind.startswith("He") else 1
    assert drawn.std() == pytest.approx(math.sqrt(gain / fan), rel=0.05)


def test_a_file_that_was_changed_is_not_read(tmp_path: pathlib.Path) -> None:
    scenario.shipped("cnn").write(tmp_path)
    changed = bytearray((tmp_path / files.TRAIN_FILE).read_bytes())
    changed[-1] ^= 1
    (tmp_path / files.TRAIN_FILE).write_bytes(changed)

    with pytest.raises(ValueError, match=r"train\.tflite must have SHA-256"):
        files.read(tmp_path)


def test_what_was_written_is_read_again(tmp_path: pathlib.Path) -> None:
    scenario.shipped("cnn").write(tmp_path / "new")

    assert files.read(files.locate(str(tmp_path / "new"))) == scenario.shipped("cnn")


def test_a_file_that_needs_flex_is_found() -> None:
    @tf.function(
        input_signature=[tf.TensorSpec((1, 5, 5, 2)), tf.TensorSpec((3, 3, 2, 4))]
    )
    def gradient(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = tf.nn.conv2d(x, kernel, 1, "VALID")
        return tape.gradient(y, kernel)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [gradient.get_concrete_function()]
    )
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    content = converter.convert()

    (finding,) = check.check_operators("flexed", content)

    assert not finding.passed
    assert "FlexConv2DBackpropFilter" in finding.detail
    foreign = [
        operator
        for subgraph in flatbuffer.subgraphs(content)
        for operator in subgraph.operators
        if operator.is_custom
    ]
    assert foreign
    assert all(operator.is_flex for operator in foreign)


def test_a_wrong_gradient_is_found() -> None:
    # another dropout rate than the file's stands for any difference
    artefacts = scenario.shipped("cnn_deep")
    model = keras_models.cnn_deep()
    model.get_layer("dropout_2").rate = 0.4

    findings = check.check(artefacts, model)

    first_failed = next(finding for finding in findings if not finding.passed)
    assert first_failed.subject == "step of 20: as Keras's"


def test_files_of_another_definition_are_found() -> None:
    artefacts = scenario.shipped("cnn")
    model = keras_models.cnn()
    model.get_layer("hidden").kernel_initializer = keras.initializers.HeNormal()

    findings = list(check.check(artefacts, model))

    failed = [finding.subject for finding in findings if not finding.passed]
    assert failed == ["a rebuild gives the same files"]


def test_an_inference_file_with_misplaced_weights_is_found() -> None:
    artefacts = scenario.shipped("cnn")
    swapped = tuple(
        patch.model_copy(update={"axes": (0, 1)})
        if patch.tensor == "hidden/kernel"
        else patch
        for patch in artefacts.manifest.patches
    )
    manifest = artefacts.manifest.model_copy(update={"patches": swapped})
    broken = dataclasses.replace(artefacts, manifest=manifest)

    findings = list(check.check(broken, None))

    failed = [finding.subject for finding in findings if not finding.passed]
    assert failed == ["model.tflite predicts as train.tflite does"]


def test_a_definition_is_only_found_for_the_same_tensors() -> None:
    manifest = scenario.shipped("cnn").manifest

    assert check.find_model(manifest).name == "cnn"
    assert check.find_model(manifest.model_copy(update={"model": "other"})) is None
    assert check.find_model(manifest.model_copy(update={"classes": 9})) is None


def test_a_tensor_that_the_file_does_not_hold_is_named() -> None:
    artefacts = scenario.shipped("cnn")
    initializer = artefacts.manifest.tensors[0].initializer
    lost = TensorSpec(
        name="lost/kernel",
        shape=(3, 5),
        offset=0,
        trainable=True,
        initializer=initializer,
    )

    with pytest.raises(patches.UnpatchableModel, match="holds lost/kernel"):
        patches.find(artefacts.infer, [lost])


def test_more_weights_than_sentinels_are_refused() -> None:
    with pytest.raises(patches.UnpatchableModel, match="16777216 weights at most"):
        patches.sentinels(2**24 + 1)


def test_other_bytes_are_no_lite_file() -> None:
    with pytest.raises(ValueError, match="not a LiteRT file"):
        flatbuffer.subgraphs(b"0123456789")
