import pytest

from coordinator.domain import optimizers, schedules
from coordinator.protocol.plan_server import ServerPlan
from coordinator.protocol.plan_training import TrainingPlan


def rates(rounds: int, **fields: object) -> list[float]:
    plan = ServerPlan.model_validate({"learning_rate": 8.0, **fields})
    return [schedules.rate_of_round(plan, number) for number in range(1, rounds + 1)]


def test_a_rate_is_constant_unless_a_schedule_says_otherwise() -> None:
    assert rates(3) == [8.0, 8.0, 8.0]


def test_an_exponential_schedule_leaves_the_same_share_every_round() -> None:
    assert rates(5, schedule="exponential", decay_rounds=2, decay_rate=0.25) == [
        8.0,
        4.0,
        2.0,
        1.0,
        0.5,
    ]


def test_a_step_schedule_falls_all_at_once() -> None:
    assert rates(5, schedule="step", decay_rounds=2, decay_rate=0.25) == [
        8.0,
        8.0,
        2.0,
        2.0,
        0.5,
    ]


def test_a_cosine_schedule_falls_slowly_at_its_ends_and_stays_at_its_last() -> None:
    fallen = rates(6, schedule="cosine", decay_rounds=4, decay_rate=0.25)
    # From 8 to 2: the mean of both half-way, and the same way from either end.
    assert fallen == pytest.approx([8.0, 5 + 3 * 0.5**0.5, 5.0, 5 - 3 * 0.5**0.5, 2, 2])


@pytest.mark.parametrize("schedule", ["exponential", "step", "cosine"])
def test_a_schedule_starts_after_the_warm_up(schedule: str) -> None:
    fields = {"schedule": schedule, "decay_rounds": 3}
    warmed = rates(8, **fields, warmup_rounds=4)
    assert warmed == [2.0, 4.0, 6.0, 8.0, *rates(4, **fields)]


def test_a_rate_that_fell_for_ever_is_still_above_zero() -> None:
    (last,) = rates(1, learning_rate=5e-324, warmup_rounds=1_000_000)
    assert last > 0
    plan = ServerPlan(schedule="exponential", decay_rounds=1, decay_rate=1e-300)
    assert schedules.rate_of_round(plan, 1_000_000) > 0


def test_the_server_steps_at_the_rate_of_the_round() -> None:
    plan = ServerPlan(schedule="step", decay_rounds=2, decay_rate=0.5)
    assert [optimizers.of_round(plan, n).learning_rate for n in (2, 3)] == [1.0, 0.5]


def test_devices_are_asked_for_the_rate_of_the_round_and_for_nothing_else_new() -> None:
    plan = TrainingPlan(
        learning_rate=0.4,
        momentum=0.5,
        epochs=3,
        schedule="step",
        decay_rounds=2,
        decay_rate=0.5,
        warmup_rounds=1,
    )
    asked = [schedules.training_of_round(plan, number) for number in (1, 3, 4)]
    assert asked == [
        TrainingPlan(learning_rate=rate, momentum=0.5, epochs=3)
        for rate in (0.4, 0.4, 0.2)
    ]
    assert TrainingPlan.model_validate(asked[2].model_dump()) == asked[2]


def test_a_device_rate_that_fell_for_ever_is_one_in_float32() -> None:
    plan = TrainingPlan(schedule="exponential", decay_rounds=1, decay_rate=1e-300)
    asked = schedules.training_of_round(plan, 1_000_000)
    assert asked.learning_rate == 2.0**-126
