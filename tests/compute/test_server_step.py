import numpy as np
import numpy.typing as npt
import pytest

from coordinator.compute.backend import ComputeDevice
from coordinator.compute.server_step import (
    NonFiniteResult,
    decode_state,
    encode_state,
    take_step,
)
from coordinator.domain.optimizers import ServerOptimizer
from coordinator.protocol import tensors
from coordinator.protocol.manifest import Vector

pytestmark = pytest.mark.tf

FEDAVG = ServerOptimizer()
FEDAVGM = ServerOptimizer(learning_rate=0.3, momentum=0.9)
NESTEROV = ServerOptimizer(learning_rate=0.3, momentum=0.9, nesterov=True)


def vectors(size: int = 1001) -> tuple[Vector, list[npt.NDArray[np.float64]]]:
    generator = np.random.default_rng(3)
    weights = generator.standard_normal(size, dtype=np.float32)
    return weights, [generator.standard_normal(size) * 1e-2 for _ in range(3)]


def test_sgd_with_rate_1_is_fedavg_to_the_last_bit(device: ComputeDevice) -> None:
    weights, (aggregate, *_) = vectors()
    before = weights.copy(), aggregate.copy()
    stepped, state = take_step(
        weights, aggregate, settings=FEDAVG, state=None, device=device
    )
    expected = (weights.astype(np.float64) + aggregate).astype(np.float32)
    np.testing.assert_array_equal(stepped, expected)
    assert stepped.dtype == np.float32
    assert {name: array.tolist() for name, array in state.items()} == {
        "sgd/iteration": 1
    }
    np.testing.assert_array_equal(weights, before[0])
    np.testing.assert_array_equal(aggregate, before[1])


def test_the_rate_is_not_rounded_to_float32(device: ComputeDevice) -> None:
    weights, aggregate = np.zeros(1, np.float32), np.array([1.0 + 2.0**-23])
    settings = ServerOptimizer(learning_rate=0.1, momentum=0.5)
    _, state = take_step(
        weights, aggregate, settings=settings, state=None, device=device
    )
    assert state["sgd/weights_momentum"].tolist() == [0.1 * (1.0 + 2.0**-23)]


@pytest.mark.parametrize("settings", [FEDAVGM, NESTEROV])
def test_momentum_follows_its_formula(
    settings: ServerOptimizer, device: ComputeDevice
) -> None:
    weights, aggregates = vectors()
    expected, velocity = weights, np.zeros(weights.size)
    state = None
    for aggregate in aggregates:
        weights, state = take_step(
            weights, aggregate, settings=settings, state=state, device=device
        )
        velocity = velocity * 0.9 + aggregate * 0.3
        step = velocity * 0.9 + aggregate * 0.3 if settings.nesterov else velocity
        expected = (expected.astype(np.float64) + step).astype(np.float32)
        np.testing.assert_array_equal(state["sgd/weights_momentum"], velocity)
        np.testing.assert_array_equal(weights, expected)
    assert state is not None
    assert state["sgd/iteration"].tolist() == 3


def test_momentum_by_hand(device: ComputeDevice) -> None:
    settings = ServerOptimizer(learning_rate=0.5, momentum=0.5)
    weights = np.array([1.0], np.float32)
    # velocity 0.5 * 2 = 1, then 0.5 * 1 + 0.5 * 4 = 2.5
    weights, state = take_step(
        weights, np.array([2.0]), settings=settings, state=None, device=device
    )
    assert weights.tolist() == [2.0]
    weights, state = take_step(
        weights, np.array([4.0]), settings=settings, state=state, device=device
    )
    assert weights.tolist() == [4.5]
    assert state["sgd/weights_momentum"].tolist() == [2.5]


@pytest.mark.parametrize("settings", [FEDAVG, FEDAVGM, NESTEROV])
def test_saving_and_restoring_between_steps_changes_no_bit(
    settings: ServerOptimizer, device: ComputeDevice
) -> None:
    weights, aggregates = vectors()
    straight, restored = weights, weights
    straight_state = restored_state = None
    for aggregate in aggregates:
        straight, straight_state = take_step(
            straight, aggregate, settings=settings, state=straight_state, device=device
        )
        restored, state = take_step(
            restored, aggregate, settings=settings, state=restored_state, device=device
        )
        restored_state = decode_state(encode_state(state))
    np.testing.assert_array_equal(straight, restored)
    assert straight_state is not None
    assert restored_state is not None
    assert encode_state(straight_state) == encode_state(restored_state)


def test_a_state_comes_back_from_bytes_as_it_was() -> None:
    state = {
        "sgd/weights_momentum": np.array([0.1, -0.0, 1e-300]),
        "sgd/iteration": np.array(7, np.int64),
    }
    body = encode_state(state)
    back = decode_state(body)
    assert set(back) == set(state)
    for name, array in state.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()
    assert encode_state(dict(reversed(state.items()))) == body
    with pytest.raises(tensors.MalformedTensors):
        decode_state(body[:-1])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e39])
def test_a_result_that_float32_cannot_hold_is_no_version(
    wrong: float, device: ComputeDevice
) -> None:
    aggregate = np.array([0.0, wrong, 1.0, wrong])
    with pytest.raises(NonFiniteResult, match=r"2 of 4 .* at index 1$"):
        take_step(
            np.zeros(4, np.float32),
            aggregate,
            settings=FEDAVG,
            state=None,
            device=device,
        )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"must hold \['sgd/iteration', 'sgd/weights_momentum'\], got \[\]"),
        (
            {
                "sgd/iteration": np.array(1, np.int64),
                "sgd/weights_momentum": np.zeros(2),
            },
            r"float64 of shape \(3,\), got float64 of shape \(2,\)",
        ),
        (
            {
                "sgd/iteration": np.array(1, np.int64),
                "sgd/weights_momentum": np.zeros(3, np.float32),
            },
            "got float32",
        ),
    ],
)
def test_a_state_of_other_settings_is_refused(
    state: dict[str, npt.NDArray[np.float64]], message: str, device: ComputeDevice
) -> None:
    with pytest.raises(ValueError, match=message):
        take_step(
            np.zeros(3, np.float32),
            np.zeros(3),
            settings=FEDAVGM,
            state=state,
            device=device,
        )


def test_vectors_of_different_lengths_are_refused(device: ComputeDevice) -> None:
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and \(4,\)"):
        take_step(
            np.zeros(3, np.float32),
            np.zeros(4),
            settings=FEDAVG,
            state=None,
            device=device,
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "got nan"),
        ({"learning_rate": float("inf")}, "got inf"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, "got -0.1"),
        ({"momentum": float("nan")}, "got nan"),
        ({"nesterov": True}, "nesterov needs a momentum above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    fields: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ServerOptimizer(**fields)  # type: ignore[arg-type]
