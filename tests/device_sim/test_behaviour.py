"""Randomness as a function of (seed, round, attempt, device)."""

import numpy as np
import pytest

from device_sim import behaviour


def vanished(habits: behaviour.Behaviour, number: int, attempt: int = 1) -> list[int]:
    return [
        device
        for device in range(habits.devices)
        if habits.vanishes(round_number=number, attempt=attempt, device=device)
    ]


def test_who_vanishes_is_a_function_of_the_seed():
    one = behaviour.Behaviour(devices=50, dropout=0.3, seed=4)
    same = behaviour.Behaviour(devices=50, dropout=0.3, seed=4)
    other = behaviour.Behaviour(devices=50, dropout=0.3, seed=5)
    assert [vanished(one, n) for n in range(1, 5)] == [
        vanished(same, n) for n in range(1, 5)
    ]
    assert vanished(one, 1) != vanished(other, 1)


def test_every_attempt_loses_the_share_that_was_asked_for_and_other_devices():
    habits = behaviour.Behaviour(devices=50, dropout=0.3, seed=4)
    lost = [vanished(habits, n, attempt) for n in (1, 2, 3) for attempt in (1, 2)]
    assert {len(devices) for devices in lost} == {15}
    assert habits.survivors == 35
    assert len({tuple(devices) for devices in lost}) == 6


def test_every_device_vanishes_about_as_often():
    habits = behaviour.Behaviour(devices=10, dropout=0.3)
    counts = np.bincount(
        np.concatenate([vanished(habits, n) for n in range(1, 201)]), minlength=10
    )
    assert counts.sum() == 600
    assert counts.min() > 35
    assert counts.max() < 85


def test_without_dropout_nobody_vanishes():
    assert not vanished(behaviour.Behaviour(devices=5), 1)


def test_one_device_is_left_whatever_the_dropout():
    assert behaviour.Behaviour(devices=2, dropout=0.9).survivors == 1


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_that_is_no_share_is_refused(dropout: float):
    with pytest.raises(ValueError, match="dropout must lie in"):
        behaviour.Behaviour(devices=2, dropout=dropout)


def test_training_draws_differ_by_seed_round_and_device_only():
    def draw(seed: int, round_number: int, device: int) -> float:
        return behaviour.training_generator(
            seed=seed, round_number=round_number, device=device
        ).random()

    draws = {draw(s, r, d) for s in (0, 1) for r in (1, 2) for d in (0, 1)}
    assert len(draws) == 8
    assert draw(0, 1, 1) == draw(0, 1, 1)


def test_a_cohort_is_a_function_of_seed_and_round():
    def cohorts(seed: int) -> list[tuple[int, ...]]:
        habits = behaviour.Behaviour(devices=5, population=30, seed=seed)
        return [habits.cohort(number) for number in range(1, 30)]

    assert cohorts(1) == cohorts(1)
    assert cohorts(1) != cohorts(2)
    assert {len(set(cohort)) for cohort in cohorts(1)} == {5}
    assert len(set(cohorts(1))) > 25
    assert {device for cohort in cohorts(1) for device in cohort} == set(range(30))


def test_without_a_larger_population_everybody_comes():
    for population in (None, 4):
        habits = behaviour.Behaviour(devices=4, population=population)
        assert habits.cohort(7) == (0, 1, 2, 3)


def test_only_devices_of_the_cohort_vanish_and_as_many_as_asked_for():
    habits = behaviour.Behaviour(devices=10, population=40, dropout=0.3, seed=2)
    for number in range(1, 6):
        lost = [
            device
            for device in range(40)
            if habits.vanishes(round_number=number, attempt=1, device=device)
        ]
        assert len(lost) == 3
        assert set(lost) < set(habits.cohort(number))


def test_a_population_smaller_than_a_cohort_is_refused():
    with pytest.raises(ValueError, match="population of 3 has no cohort of 4"):
        behaviour.Behaviour(devices=4, population=3)


def test_those_that_vanish_share_the_moments_at_which_they_do():
    habits = behaviour.Behaviour(devices=50, dropout=0.3, seed=4)
    moments = [
        habits.vanishing_moment(round_number=2, attempt=1, device=device, moments=3)
        for device in range(50)
    ]
    assert [moments.count(moment) for moment in range(3)] == [5, 5, 5]
    for device, moment in enumerate(moments):
        gone = habits.vanishes(round_number=2, attempt=1, device=device)
        assert gone == (moment is not None)
