import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from coordinator.compute import backend
from coordinator.compute.server_step import decode_state
from tests.compute.scenario import run_optimizers, run_rules, run_scenario

pytestmark = pytest.mark.tf

ROOT = pathlib.Path(__file__).parents[2]


def run_python(*arguments: str, keras_backend: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras_backend},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("mode", "gpus", "name"),
    [
        ("auto", [], "cpu:0"),
        ("auto", ["H200"], "gpu:0"),
        ("cpu", [], "cpu:0"),
        ("cpu", ["H200"], "cpu:0"),
        ("gpu", ["H200", "H100"], "gpu:0"),
    ],
)
def test_the_device_is_the_first_gpu_unless_there_is_none_or_it_is_not_wanted(
    mode: backend.Mode, gpus: list[str], name: str
) -> None:
    device = backend._choose(mode, "tensorflow", gpus)
    assert device.name == name
    assert ("H200" in device.description) == (name == "gpu:0")


def test_asking_for_a_gpu_that_is_not_there_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tensorflow as tf  # noqa: PLC0415  - not while tests are collected

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: [])
    with pytest.raises(backend.GpuUnavailable, match="tensorflow finds no GPU"):
        backend.select_device("gpu")
    assert backend.select_device("auto").name == "cpu:0"


def test_operations_in_the_scope_of_a_device_run_on_it(
    device: backend.ComputeDevice,
) -> None:
    with device.scope():
        tensor = keras.ops.ones(3)
    assert tensor.device.lower().endswith(device.name)


@pytest.mark.slow
def test_jax_and_tensorflow_give_the_same_bits(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "jax.safetensors"
    finished = run_python(
        "-m", "tests.compute.scenario", str(file), keras_backend="jax"
    )
    assert finished.returncode == 0, finished.stderr
    theirs, ours = decode_state(file.read_bytes()), run_scenario()
    # Powers, roots, matrix products: a last bit may differ.
    near = run_optimizers() | run_rules()
    assert theirs.keys() == ours.keys() | near.keys()
    for name, array in (ours | near).items():
        assert theirs[name].dtype == array.dtype, name
        if name in {*ours, "rule median", "rule trimmed_mean"}:  # those sort
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)
        else:
            nearness = 1e-6 if name.endswith(": weights") else 1e-12
            np.testing.assert_allclose(
                theirs[name], array, rtol=nearness, atol=1e-14, err_msg=name
            )


@pytest.mark.slow
def test_jax_without_a_gpu_refuses_to_run_on_one() -> None:
    code = (
        "import jax; jax.config.update('jax_platforms', 'cpu');"
        "from coordinator.compute.backend import select_device; select_device('gpu')"
    )
    finished = run_python("-c", code, keras_backend="jax")
    assert finished.returncode == 1
    assert "GpuUnavailable: device is set to 'gpu', but jax finds no" in finished.stderr


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="tensorflow or jax, got 'torch'"):
        backend.select_device("auto")
