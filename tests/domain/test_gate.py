"""What passes the gate, with numbers that one can redo by hand."""

import pytest

from coordinator.domain import gate
from coordinator.domain.gate import Rejected, Scored
from coordinator.protocol.plan_server import GatePlan

LOSS = GatePlan(max_loss_rise=0.5)
NORM = GatePlan(max_norm_ratio=3)
DROP = GatePlan(max_accuracy_drop=0.125)


def scored(*accuracies: float) -> list[Scored]:
    """Versions from the newest, 9, down."""
    return [
        Scored(version=9 - place, accuracy=accuracy)
        for place, accuracy in enumerate(accuracies)
    ]


def test_a_loss_may_rise_by_its_share_of_the_median() -> None:
    gate.insist_loss(LOSS, 3.0, [1.0, 2.0, 9.0])

    with pytest.raises(
        Rejected, match=r"loss 3.001 is more than 50% above 2, the median of the last 3"
    ):
        gate.insist_loss(LOSS, 3.001, [1.0, 2.0, 9.0])


def test_a_norm_may_be_a_multiple_of_the_median() -> None:
    gate.insist_norm(NORM, 6.0, [1.0, 2.0, 9.0])

    with pytest.raises(
        Rejected, match=r"norm 6.001 is more than 3 times 2, the median of the last 3"
    ):
        gate.insist_norm(NORM, 6.001, [1.0, 2.0, 9.0])


@pytest.mark.parametrize("before", [[], [1.0], [1.0, 1.0], [0.0, 0.0, 0.0]])
def test_what_says_little_rejects_nothing(before: list[float]) -> None:
    gate.insist_loss(LOSS, 1e9, before)
    gate.insist_norm(NORM, 1e9, before)


def test_a_window_of_one_compares_with_one() -> None:
    with pytest.raises(Rejected):
        gate.insist_norm(GatePlan(max_norm_ratio=3, window=1), 4.0, [1.0])


@pytest.mark.parametrize("rules", [None, DROP])
def test_a_rule_that_is_not_set_rejects_nothing(rules: GatePlan | None) -> None:
    gate.insist_loss(rules, 1e9, [1.0] * 5)
    gate.insist_norm(rules, 1e9, [1.0] * 5)
    assert gate.retreat(None, "federated", *split(scored(0.0, 1.0))) is None
    assert gate.retreat(LOSS, "federated", *split(scored(0.0, 1.0))) is None


def split(versions: list[Scored]) -> tuple[Scored, list[Scored]]:
    return versions[0], versions[1:]


@pytest.mark.parametrize(
    ("accuracies", "back"),
    [
        ((0.5,), None),
        ((0.75, 0.875), None),  # just the drop
        ((0.625, 0.875), 8),
        ((0.5, 0.75, 0.875), 8),  # 0.75 was good enough
        ((0.5, 0.625, 0.875), 7),  # 0.625 was not
        ((0.9, 0.5), None),
    ],
)
def test_a_worse_version_goes_back_to_the_last_that_was_good_enough(
    accuracies: tuple[float, ...], back: int | None
) -> None:
    found = gate.retreat(DROP, "federated", *split(scored(*accuracies)))

    assert (found and found.version) == back
    if found is not None:
        assert found.reason == (
            f"version 9 has federated accuracy {accuracies[0]:.4f}, more than 0.125 "
            f"below 0.8750, the best of the last {len(accuracies) - 1} that were scored"
        )
