"""An asynchronous task: rounds close without waiting, and updates land later."""

import itertools

import numpy as np
import pytest

from coordinator.domain.errors import BetweenRounds, LeaseLapsed, RoundClosed
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.protocol.plan_rounds import AsynchronousPlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import WaitReason
from coordinator.store.engine import StaleWrite
from coordinator.usecases import tasks
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan
from tests.support.models import update_body


def asynchronous(
    *, goal: int = 1, rounds: int = 5, concurrency: int = 4, max_staleness: int = 20
) -> Plan:
    return plan(
        goal=goal,
        rounds=rounds,
        asynchronous=AsynchronousPlan(
            concurrency=concurrency, max_staleness=max_staleness
        ),
    )


def commit(federation: Federation) -> int | None:
    return federation.release(federation.must_claim())


def test_an_update_lands_in_a_later_round_and_says_how_stale_it_is(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous())
    slow = federation.lease()
    for _ in range(2):
        federation.take_part()
        commit(federation)

    body = update_body([1.0] * 10, examples=4)
    accepted = federation.submit(slow, body)

    assert (slow.round.number, slow.version.number) == (1, 0)
    assert accepted.update.staleness == 2
    third = federation.attempts()[2]
    assert federation.counts(third.id) == (0, 1, 0, 0)
    claim = federation.must_claim()
    assert [u.assignment_id for u in claim.updates] == [slow.assignment.id]
    assert federation.files()[claim.updates[0].blob] == body
    view = tasks.list_rounds(
        federation.store, task_id="task", now=federation.clock.now()
    )[2]
    assert (view.staleness_mean, view.staleness_max) == (2.0, 2)


def test_a_stale_update_weighs_less_in_the_mean(federation: Federation) -> None:
    federation.start(settings=asynchronous(goal=2))
    slow = federation.lease()
    for _ in range(3):
        federation.take_part()
        federation.take_part()
        commit(federation)
    before = federation.weights(3)

    federation.submit(slow, update_body([3.0] * 10, examples=4))
    federation.take_part([0.0] * 10, examples=4)
    commit(federation)

    # 4 / sqrt(1 + 3) = 2: (2 * 3 + 4 * 0) / (2 + 4) = 1
    assert sorted(federation.compute.folded[-1]) == [2.0, 4.0]
    assert federation.weights(4).tolist() == (before + np.float32(1)).tolist()


def test_a_retry_after_the_round_has_gone_gets_the_same_receipt(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous())
    slow = federation.lease()
    federation.take_part()
    commit(federation)
    body = update_body([1.0] * 10)
    first = federation.submit(slow, body)
    commit(federation)
    before = federation.rows()

    assert federation.submit(slow, body) == first
    assert federation.rows() == before


def test_an_update_between_two_rounds_waits_and_then_counts_once(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous())
    slow = federation.lease()
    federation.take_part()
    body = update_body([2.0] * 10)
    before = federation.state()

    with pytest.raises(BetweenRounds):
        federation.submit(slow, body)

    assert federation.state() == before
    commit(federation)
    assert federation.submit(slow, body).update.staleness == 1
    assert federation.happenings().count("result_accepted") == 2


def test_a_device_goes_on_with_its_lease_while_rounds_go_by(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous())
    slow = federation.lease()
    device = slow.assignment.device_id
    federation.take_part()

    during = federation.check_in(device)
    commit(federation)
    after = federation.check_in(device)

    for again in (during, after):
        assert isinstance(again, Work)
        assert again.assignment.id == slow.assignment.id
        assert again.version.number == 0
    assert federation.happenings().count("lease_lapsed") == 0


def test_no_more_devices_train_at_once_than_the_concurrency(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous(goal=3, concurrency=2))
    first, _ = federation.lease(), federation.lease()
    late = federation.enrol()
    assert federation.check_in(late) is WaitReason.ROUND_FULL

    federation.submit(first, update_body([1.0] * 10))

    # The accepted update holds no place, and waiting devices are told so.
    assert federation.happenings()[-1] == "place_freed"
    assert isinstance(federation.check_in(late), Work)


def test_a_device_that_is_too_far_behind_loses_its_place(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous(max_staleness=1))
    slow = federation.lease()
    federation.take_part()
    commit(federation)
    assert federation.counts(2) == (1, 0, 0, 0)
    federation.take_part()

    commit(federation)

    assert federation.counts(3) == (0, 0, 0, 0)
    before = federation.state()
    with pytest.raises(RoundClosed):
        federation.submit(slow, update_body([1.0] * 10))
    assert federation.state() == before
    fresh = federation.check_in(slow.assignment.device_id)
    assert isinstance(fresh, Work)
    assert fresh.version.number == 2


def test_a_silent_device_loses_its_place_rounds_later(federation: Federation) -> None:
    federation.start(settings=asynchronous())
    slow = federation.lease()
    federation.take_part()
    commit(federation)
    federation.clock.advance(60)

    federation.advance()

    assert federation.counts(2) == (0, 0, 0, 1)
    with pytest.raises(LeaseLapsed):
        federation.submit(slow, update_body([1.0] * 10))


def test_leases_go_on_in_the_next_attempt(federation: Federation) -> None:
    settings = asynchronous(goal=2)
    federation.start(
        settings=settings.model_copy(
            update={"round": settings.round.model_copy(update={"minimum": 2})}
        )
    )
    federation.clock.advance(100)
    slow = federation.lease()
    federation.clock.advance(20)

    federation.advance()

    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]
    accepted = federation.submit(slow, update_body([1.0] * 10))
    assert accepted.update.staleness == 0
    assert federation.counts(2) == (0, 1, 0, 0)


def test_the_last_commit_ends_the_leases_that_are_left(federation: Federation) -> None:
    federation.start(settings=asynchronous(rounds=1))
    slow = federation.lease()
    federation.take_part()

    commit(federation)

    assert federation.task().status is Status.FINISHED
    assert federation.counts(1) == (0, 1, 0, 1)
    with pytest.raises(RoundClosed):
        federation.submit(slow, update_body([1.0] * 10))
    assert federation.check_in(federation.enrol()) is WaitReason.TASKS_ENDED


def test_a_stopped_task_ends_its_leases(federation: Federation) -> None:
    federation.start(settings=asynchronous())
    federation.lease()

    tasks.stop(federation.store, task_id="task", now=federation.clock.now())

    assert federation.counts(1) == (0, 0, 0, 1)


def test_a_worker_that_was_taken_over_moves_no_lease(federation: Federation) -> None:
    federation.start(settings=asynchronous())
    slow = federation.lease()
    federation.take_part()
    dead = federation.must_claim("dead")
    federation.clock.advance(15)
    alive = federation.must_claim("alive")
    assert federation.release(alive) == 1
    before = federation.rows()

    with pytest.raises(StaleWrite):
        federation.release(dead)

    assert federation.rows() == before
    assert federation.submit(slow, update_body([1.0] * 10)).update.staleness == 1


def test_every_accepted_update_is_folded_once_with_devices_of_all_speeds(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous(goal=3, rounds=4, concurrency=5))
    marks = itertools.count()
    held = [federation.lease() for _ in range(5)]
    accepted, folded = [], []
    while federation.task().status is Status.RUNNING:
        # The last to come is the first to report, so that the first grow stale.
        for _ in range(3):
            work = held.pop()
            accepted.append(
                federation.submit(work, update_body([float(next(marks))] * 10)).update
            )
        claim = federation.must_claim()
        folded += claim.updates
        federation.release(claim)
        while federation.task().status is Status.RUNNING and len(held) < 5:
            held.append(federation.lease())

    assert sorted(u.sha256 for u in accepted) == sorted(u.sha256 for u in folded)
    assert len({u.assignment_id for u in folded}) == 12


def test_going_back_ends_what_is_under_way(federation: Federation) -> None:
    federation.start(settings=asynchronous())
    federation.take_part()
    commit(federation)
    late = federation.lease()
    tasks.roll_back(
        federation.store, task_id="task", number=0, now=federation.clock.now()
    )

    with pytest.raises((LeaseLapsed, RoundClosed)):
        federation.submit(late, update_body([1.0] * 10))

    work = federation.take_part([2.0] * 10)
    assert work.version.number == 0
    commit(federation)
    expected = federation.weights(0) + np.float32(2.0)
    np.testing.assert_array_equal(federation.weights(2), expected)


def test_versions_that_were_gone_back_from_make_no_update_stale(
    federation: Federation,
) -> None:
    federation.start(settings=asynchronous(rounds=9, max_staleness=1))
    for _ in range(3):
        federation.take_part()
        commit(federation)
    tasks.roll_back(
        federation.store, task_id="task", number=1, now=federation.clock.now()
    )
    first, second, third = (federation.lease() for _ in range(3))
    assert {work.version.number for work in (first, second, third)} == {1}

    assert federation.submit(first, update_body([1.0] * 10)).update.staleness == 0
    commit(federation)
    assert federation.submit(second, update_body([2.0] * 10)).update.staleness == 1
    commit(federation)
    with pytest.raises((LeaseLapsed, RoundClosed)):
        federation.submit(third, update_body([3.0] * 10))
