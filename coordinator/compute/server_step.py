"""The server step: a Keras optimizer takes the aggregate to the next weights.

The model is one flat float64 vector here, ``-aggregate`` its gradient. Between rounds
nothing lives in memory: the optimizer's variables leave as named arrays, are stored
with the version and come back, so that a step after a restart is the step without one,
to the last bit.

Source: Reddi et al. 2021, "Adaptive Federated Optimization", algorithms 1
    and 2.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias, assert_never

import keras
import numpy as np
import numpy.typing as npt

from coordinator.compute import yogi
from coordinator.compute.backend import ComputeDevice, Tensor
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.protocol import tensors
from coordinator.protocol.manifest import Vector

State: TypeAlias = dict[str, npt.NDArray[Any]]  #: Keras' variable paths; F64 and I64


class NonFiniteResult(ArithmeticError):
    """The step would publish weights that are NaN or infinite."""

    def __init__(self, finite: npt.NDArray[np.bool_]) -> None:
        super().__init__(
            f"the server step left {np.count_nonzero(~finite)} of {finite.size} "
            f"weights NaN or infinite, the first at index {int(np.argmin(finite))}"
        )


def take_step(
    weights: Vector,
    aggregate: npt.NDArray[np.float64],
    *,
    settings: ServerOptimizer,
    state: Mapping[str, npt.NDArray[Any]] | None,
    device: ComputeDevice,
) -> tuple[Vector, State]:
    """Return the next weights, shape (size,), float32, and the next state.

    Run by the worker. The inputs are left as they are.

    Args:
        weights: The version that the devices trained from, shape (size,).
        aggregate: The mean of their deltas, shape (size,).
        settings: But for the rate the same in every round of a task.
        state: What the last step returned; None before the first.
        device: Where to compute.

    Raises:
        NonFiniteResult: A new weight is NaN, infinite or beyond float32.
        ValueError: The vectors differ in shape, or ``state`` is no state of these
            settings.
    """
    if weights.ndim != 1 or weights.shape != aggregate.shape:
        raise ValueError(
            "weights and aggregate must be vectors of one length, "
            f"got shapes {weights.shape} and {aggregate.shape}"
        )
    with device.scope():
        variable = keras.Variable(
            weights.astype(np.float64), dtype="float64", name="weights"
        )
        optimizer = _build(settings, variable)
        if state is not None:
            _restore(optimizer, state)
        optimizer.apply([keras.ops.convert_to_tensor(-aggregate)])
        stepped = _saved(variable)
        next_state = {each.path: _saved(each) for each in optimizer.variables}
    with np.errstate(over="ignore"):  # what float32 cannot hold turns infinite
        rounded = stepped.astype(np.float32)
    finite = np.isfinite(rounded)
    if not finite.all():
        raise NonFiniteResult(finite)
    return rounded, next_state


def encode_state(state: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Write a state as safetensors, sorted by name: equal states are equal bytes."""
    return tensors.write(sorted(state.items()), {})


def decode_state(body: bytes) -> State:
    """Read what ``encode_state`` wrote. The arrays are views of ``body``.

    Raises:
        tensors.MalformedTensors: The bytes are no safetensors body.
    """
    container = tensors.read(body)
    return {entry.name: container.array(entry) for entry in container.entries}


def _build(settings: ServerOptimizer, variable: Tensor) -> Tensor:
    """Return the Keras optimizer of ``variable``, its state all zero.

    Settings go in as numpy float64: TensorFlow rounds a Python float to float32. The
    rate goes in as a function, because Keras keeps a number as a float32 variable.
    """
    optimizer: Tensor

    def rate() -> np.float64:
        return np.float64(settings.learning_rate)

    moments = {
        "beta_1": np.float64(settings.beta_1),
        "beta_2": np.float64(settings.beta_2),
        "epsilon": np.float64(settings.epsilon),
    }
    match settings.name:
        case "sgd":
            optimizer = keras.optimizers.SGD(
                learning_rate=rate,
                momentum=np.float64(settings.momentum),
                nesterov=settings.nesterov,
                name="sgd",
            )
        case "adam":
            optimizer = keras.optimizers.Adam(
                learning_rate=rate, **moments, name="adam"
            )
        case "yogi":
            optimizer = yogi.Yogi(learning_rate=rate, **moments, name="yogi")
        case "adagrad":
            optimizer = keras.optimizers.Adagrad(
                learning_rate=rate,
                initial_accumulator_value=0.0,
                # Keras adds it to the sum under the root, the paper's v_-1 = tau ** 2.
                epsilon=np.square(np.float64(settings.epsilon)),
                name="adagrad",
            )
        case _:
            assert_never(settings.name)
    optimizer.build([variable])
    return optimizer


def _restore(optimizer: Tensor, state: Mapping[str, npt.NDArray[Any]]) -> None:
    variables = {each.path: each for each in optimizer.variables}
    if variables.keys() != state.keys():
        raise ValueError(f"state must hold {sorted(variables)}, got {sorted(state)}")
    for name, variable in variables.items():
        expected, saved = _saved(variable), state[name]
        if (saved.shape, saved.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"state {name} must be {expected.dtype} of shape {expected.shape}, "
                f"got {saved.dtype} of shape {saved.shape}"
            )
        variable.assign(saved)


def _saved(variable: Tensor) -> npt.NDArray[Any]:
    """Return a copy of the variable; whole numbers as int64 (Keras on JAX: int32)."""
    snapshot = keras.ops.copy(variable)  # a tensor: numpy cannot copy a variable
    value: npt.NDArray[Any] = keras.ops.convert_to_numpy(snapshot)
    return value.astype(np.int64) if value.dtype.kind == "i" else value
