"""Where numerics run: the device, and how a step is compiled for it.

Everything that differs between Keras' backends is here; the rest of the package is
written with Keras ops. The backend itself is chosen by ``KERAS_BACKEND``.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import keras

Mode = Literal["auto", "cpu", "gpu"]
Tensor: TypeAlias = Any  #: a tensor of the active backend; Keras ships no types


class GpuUnavailable(RuntimeError):
    """A GPU was asked for, and the backend finds none."""

    def __init__(self, backend: str) -> None:
        super().__init__(f"device is set to 'gpu', but {backend} finds no GPU")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComputeDevice:
    """Where the numerics of this process run. Only ``select_device`` makes one."""

    name: str  #: as Keras names it: ``cpu:0`` or ``gpu:0``
    description: str  #: for logs: ``tensorflow on gpu:0 (NVIDIA H200)``

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which Keras ops run on this device."""
        scope: contextlib.AbstractContextManager[None] = keras.device(self.name)
        return scope


def select_device(mode: Mode) -> ComputeDevice:
    """Choose the device and set the backend up for it. Run by the worker, first of all.

    Must come before anything is computed: a GPU's memory settings and JAX's float64
    are fixed by the first operation. Under ``cpu`` a GPU that exists is not touched.

    Args:
        mode: ``auto`` takes a GPU if there is one.

    Raises:
        GpuUnavailable: ``gpu`` was asked for and there is none.
        ValueError: ``KERAS_BACKEND`` names neither TensorFlow nor JAX.
    """
    backend: str = keras.backend.backend()
    match backend:
        case "tensorflow":
            gpus = _set_up_tensorflow(mode)
        case "jax":
            gpus = _set_up_jax(mode)
        case _:
            raise _unknown(backend)
    return _choose(mode, backend, gpus)


def compiled(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``step`` compiled by XLA, one program for each set of input shapes.

    XLA keeps the order of floating-point additions; TensorFlow's own graph optimizer
    does not (it turns chains of additions into ``AddN``), so it must stay out of sums
    whose bits matter.
    """
    program: Callable[..., Tensor]
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415  - only this backend loads it

        program = jax.jit(step)
    else:
        import tensorflow as tf  # noqa: PLC0415  - only this backend loads it

        program = tf.function(step, jit_compile=True, autograph=False)
    return program


def _choose(mode: Mode, backend: str, gpus: Sequence[str]) -> ComputeDevice:
    """Return the first of ``gpus`` (their models), or the CPU if there is none."""
    if mode == "gpu" and not gpus:
        raise GpuUnavailable(backend)
    if mode == "cpu" or not gpus:
        return ComputeDevice(name="cpu:0", description=f"{backend} on cpu:0")
    return ComputeDevice(name="gpu:0", description=f"{backend} on gpu:0 ({gpus[0]})")


def _set_up_tensorflow(mode: Mode) -> list[str]:
    import tensorflow as tf  # noqa: PLC0415  - only this backend loads it

    gpus = tf.config.list_physical_devices("GPU")
    if gpus and mode == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return []
    models = []
    for gpu in gpus:
        # Without this, TensorFlow takes all of the GPU's memory at its first operation.
        tf.config.experimental.set_memory_growth(gpu, enable=True)
        details = tf.config.experimental.get_device_details(gpu)
        models.append(str(details.get("device_name", gpu.name)))
    return models


def _set_up_jax(mode: Mode) -> list[str]:
    import jax  # noqa: PLC0415  - only this backend loads it

    jax.config.update("jax_enable_x64", True)  # noqa: FBT003  - JAX's own signature
    if mode == "cpu":
        jax.config.update("jax_platforms", "cpu")
    return [str(one.device_kind) for one in jax.devices() if one.platform == "gpu"]


def _unknown(backend: str) -> ValueError:
    return ValueError(f"KERAS_BACKEND must be tensorflow or jax, got {backend!r}")
