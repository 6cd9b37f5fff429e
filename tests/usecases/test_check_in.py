"""A device asks for work: who gets a place, which one, and for how long."""

import datetime as dt

import pytest

from coordinator.domain.errors import IdempotencyKeyReused
from coordinator.domain.selection import MAX_FAILURES
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.vocabulary import Kind, WaitReason
from coordinator.usecases import tasks
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan


def test_each_task_is_given_with_its_own_model(federation: Federation) -> None:
    federation.register("other")
    federation.start("one", settings=plan(goal=1))
    federation.start("two", settings=plan(goal=1).model_copy(update={"model": "other"}))

    works = [federation.lease() for _ in range(2)]

    assert {(work.task.id, work.model.id) for work in works} == {
        ("one", "tiny"),
        ("two", "other"),
    }


def test_before_any_task_there_is_no_open_round(federation: Federation) -> None:
    device = federation.enrol()
    before = federation.state()

    assert federation.check_in(device) is WaitReason.NO_OPEN_ROUND

    assert federation.state() == before


def test_a_place_comes_with_all_that_the_device_must_know(
    federation: Federation,
) -> None:
    task = federation.start()
    device = federation.enrol()

    work = federation.check_in(device, "key")

    assert isinstance(work, Work)
    assert work.assignment.device_id == device
    assert work.assignment.idempotency_key == "key"
    assert work.task == task
    assert work.model.id == "tiny"
    assert work.version.number == work.round.base_version == task.version == 0
    assert work.assignment.lease_expires_at == federation.clock.now() + dt.timedelta(
        seconds=60
    )
    assert federation.happenings()[-1] == "place_leased"
    assert federation.counts(work.round.id) == (1, 0, 0, 0)


def test_the_same_key_gives_the_same_assignment(federation: Federation) -> None:
    federation.start()
    device = federation.enrol()
    first = federation.check_in(device, "key")
    before = federation.state()
    federation.clock.advance(59)

    assert federation.check_in(device, "key") == first

    assert federation.state() == before


def test_another_key_gives_the_assignment_that_the_device_holds(
    federation: Federation,
) -> None:
    federation.start()
    device = federation.enrol()
    first = federation.check_in(device, "key")
    before = federation.state()

    assert federation.check_in(device, "another") == first

    assert federation.state() == before


def test_two_devices_may_draw_the_same_key(federation: Federation) -> None:
    federation.start()

    works = [federation.check_in(federation.enrol(), "key") for _ in range(2)]

    ids = {work.assignment.id for work in works if isinstance(work, Work)}
    assert len(ids) == 2


def test_a_key_of_an_accepted_assignment_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.take_part()
    before = federation.state()

    with pytest.raises(IdempotencyKeyReused, match=work.assignment.id):
        federation.check_in(work.assignment.device_id, work.assignment.idempotency_key)

    assert federation.state() == before


def test_a_key_of_a_lapsed_assignment_is_refused_and_a_new_one_is_not(
    federation: Federation,
) -> None:
    federation.start()
    device = federation.enrol()
    first = federation.check_in(device, "key")
    federation.clock.advance(60)
    before = federation.state()

    with pytest.raises(IdempotencyKeyReused):
        federation.check_in(device, "key")
    assert federation.state() == before

    second = federation.check_in(device, "another")
    assert isinstance(first, Work)
    assert isinstance(second, Work)
    assert second.assignment.id != first.assignment.id
    assert federation.counts(second.round.id) == (1, 0, 0, 1)
    assert federation.happenings()[-2:] == ["lease_lapsed", "place_leased"]


def test_no_more_places_than_goal_and_over_selection(federation: Federation) -> None:
    federation.start(settings=plan(goal=2, over_select=0.5))
    for _ in range(3):
        federation.lease()
    late = federation.enrol()
    before = federation.state()

    assert federation.check_in(late) is WaitReason.ROUND_FULL

    assert federation.state() == before


def test_an_accepted_result_keeps_its_place(federation: Federation) -> None:
    federation.start(settings=plan(goal=2))
    federation.take_part()
    federation.lease()

    assert federation.check_in(federation.enrol()) is WaitReason.ROUND_FULL


def test_a_lapsed_lease_frees_its_place_at_once(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    silent = federation.lease()
    other = federation.enrol()
    federation.clock.advance(59.999)
    assert federation.check_in(other) is WaitReason.ROUND_FULL

    federation.clock.advance(0.001)

    assert isinstance(federation.check_in(other), Work)
    assert (
        federation.check_in(silent.assignment.device_id, "again")
        is WaitReason.ROUND_FULL
    )


def test_a_failure_frees_its_place_at_once(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    federation.give_up(federation.lease())

    assert isinstance(federation.check_in(federation.enrol()), Work)


def test_a_device_that_reported_waits_for_the_next_round(
    federation: Federation,
) -> None:
    federation.start()
    work = federation.take_part()
    before = federation.state()

    reason = federation.check_in(work.assignment.device_id)

    assert reason is WaitReason.ALREADY_REPORTED
    assert federation.state() == before


def test_a_device_that_keeps_failing_waits_for_the_next_round(
    federation: Federation,
) -> None:
    federation.start()
    device = federation.enrol()
    for _ in range(MAX_FAILURES):
        federation.give_up(federation.lease(device))

    assert federation.check_in(device) is WaitReason.NO_OPEN_ROUND
    assert isinstance(federation.check_in(federation.enrol()), Work)


def test_a_lease_never_outlives_the_round(federation: Federation) -> None:
    federation.start()
    federation.clock.advance(100)

    work = federation.lease()

    assert work.assignment.lease_expires_at == work.round.deadline
    assert work.round.deadline - federation.clock.now() == dt.timedelta(seconds=20)


def test_a_round_past_its_deadline_gives_no_place(federation: Federation) -> None:
    federation.start()
    device = federation.enrol()
    federation.clock.advance(120)

    assert federation.check_in(device) is WaitReason.NO_OPEN_ROUND


def test_a_round_that_aggregates_gives_no_place(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, over_select=1))
    federation.take_part()

    assert federation.check_in(federation.enrol()) is WaitReason.NO_OPEN_ROUND


def test_a_lease_in_a_closed_round_does_not_hold_the_device_back(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1, over_select=1))
    straggler = federation.lease()
    federation.take_part()  # reaches the goal
    federation.release(federation.must_claim())

    work = federation.lease(straggler.assignment.device_id)

    assert work.round.number == 2
    assert work.version.number == 1


def test_training_comes_before_evaluation(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=plan(goal=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())

    kinds = [federation.lease().round.kind for _ in range(2)]

    assert kinds == [Kind.TRAIN, Kind.EVALUATE]


def test_after_the_last_task_the_device_is_told_so(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, rounds=1))
    work = federation.take_part()
    federation.release(federation.must_claim())

    reason = federation.check_in(work.assignment.device_id)

    assert reason is WaitReason.TASKS_ENDED


def test_one_running_task_keeps_devices_coming(federation: Federation) -> None:
    federation.start("stopped")
    federation.start("running")
    tasks.stop(federation.store, task_id="stopped", now=federation.clock.now())

    assert federation.lease().task.id == "running"


def test_tasks_serve_devices_in_the_order_they_were_started(
    federation: Federation,
) -> None:
    federation.start("first", plan(goal=1))
    federation.start("second", plan(goal=1))

    assert [federation.lease().task.id for _ in range(2)] == ["first", "second"]
    assert federation.check_in(federation.enrol()) is WaitReason.ROUND_FULL
