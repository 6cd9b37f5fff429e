"""Five rounds of every server optimizer against its formula, written out here."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.compute.backend import ComputeDevice
from coordinator.compute.server_step import decode_state, encode_state
from coordinator.domain.optimizers import ServerOptimizer
from tests.compute.scenario import OPTIMIZERS, five_rounds, five_updates

pytestmark = pytest.mark.tf

Array = npt.NDArray[np.float64]
Formula = Callable[[Sequence[Array]], list[Array]]
RATE = 0.3


def fedavg(deltas: Sequence[Array]) -> list[Array]:
    return list(deltas)


def fedavgm(deltas: Sequence[Array]) -> list[Array]:
    velocity, steps = np.zeros_like(deltas[0]), []
    for delta in deltas:
        velocity = 0.9 * velocity + RATE * delta
        steps.append(velocity)
    return steps


def fedadam(deltas: Sequence[Array]) -> list[Array]:
    m = v = np.zeros_like(deltas[0])
    steps = []
    for t, delta in enumerate(deltas, start=1):
        m = 0.9 * m + 0.1 * delta
        v = 0.99 * v + 0.01 * delta**2
        steps.append(corrected(t) * m / (np.sqrt(v) + 1e-3))
    return steps


def fedyogi(deltas: Sequence[Array]) -> list[Array]:
    m = v = np.zeros_like(deltas[0])
    steps = []
    for t, delta in enumerate(deltas, start=1):
        m = 0.9 * m + 0.1 * delta
        v = v - 0.01 * delta**2 * np.sign(v - delta**2)
        steps.append(corrected(t) * m / (np.sqrt(v) + 1e-3))
    return steps


def fedadagrad(deltas: Sequence[Array]) -> list[Array]:
    v = np.full_like(deltas[0], 1e-3**2)
    steps = []
    for delta in deltas:
        v = v + delta**2
        steps.append(RATE * delta / np.sqrt(v))
    return steps


def corrected(t: int) -> float:
    """The rate of round t, for moments that started at zero."""
    return float(RATE * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t))


FORMULAS: dict[str, Formula] = {
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "fedadagrad": fedadagrad,
}


def test_every_optimizer_has_a_formula() -> None:
    assert FORMULAS.keys() == OPTIMIZERS.keys()
    names = {settings.name for settings in OPTIMIZERS.values()}
    assert names == {"sgd", "adam", "yogi", "adagrad"}


@pytest.mark.parametrize("name", FORMULAS)
def test_five_rounds_follow_the_formula(name: str, device: ComputeDevice) -> None:
    start, deltas = five_updates()
    published = five_rounds(OPTIMIZERS[name], device=device)
    expected = start.astype(np.float64)
    for step, weights in zip(
        FORMULAS[name](deltas), (weights for weights, _ in published), strict=True
    ):
        expected = (expected + step).astype(np.float32).astype(np.float64)
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6)
        assert np.abs(weights - start).max() > 1e-3  # far enough to tell formulas apart


def test_the_formulas_differ_by_more_than_the_tolerance() -> None:
    _, deltas = five_updates()
    last = [sum(formula(deltas)) for formula in FORMULAS.values()]
    for index, one in enumerate(last):
        for other in last[index + 1 :]:
            assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("fedadam", ["adam/weights_momentum", "adam/weights_velocity"]),
        ("fedyogi", ["yogi/weights_momentum", "yogi/weights_velocity"]),
        ("fedadagrad", ["adagrad/weights_accumulator"]),
    ],
)
def test_an_adaptive_state_is_float64_and_survives_being_kept(
    name: str, moments: list[str], device: ComputeDevice
) -> None:
    straight = five_rounds(OPTIMIZERS[name], device=device)
    restored = five_rounds(
        OPTIMIZERS[name],
        device=device,
        keep=lambda state: decode_state(encode_state(state)),
    )
    for (weights, state), (again, kept) in zip(straight, restored, strict=True):
        np.testing.assert_array_equal(weights, again)
        assert encode_state(state) == encode_state(kept)
        assert set(state) == {f"{OPTIMIZERS[name].name}/iteration", *moments}
        assert all(state[moment].dtype == np.float64 for moment in moments)


def test_yogi_by_hand(device: ComputeDevice) -> None:
    settings = ServerOptimizer(
        name="yogi", learning_rate=1.0, beta_1=0.0, beta_2=0.75, epsilon=1.0
    )
    rounds = five_rounds(
        settings,
        device=device,
        start=np.zeros(1, np.float32),
        deltas=[np.array([4.0]), np.array([1.0])],
    )
    states = [state["yogi/weights_velocity"].tolist() for _, state in rounds]
    # Up by a quarter of 16, then down by a quarter of 1: Adam would fall to 3.25.
    assert states == [[4.0], [3.75]]
    # First step: sqrt(1 - 0.75) * 4 / (sqrt(4) + 1) = 2 / 3.
    assert rounds[0][0].tolist() == pytest.approx([2 / 3])
