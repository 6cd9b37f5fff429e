"""The worker keeps rounds moving: deadlines, lapses, attempts, claims."""

import datetime as dt

import pytest

from coordinator.domain.aggregation import Score
from coordinator.domain.rounds import FOLD_LEASE, MAX_CLAIMS, Phase
from coordinator.domain.tasks import Status
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.vocabulary import Kind
from coordinator.store.engine import StaleWrite
from coordinator.usecases import rounds, tasks
from tests.support.federation import Federation, plan


def aggregating(federation: Federation, *, max_attempts: int = 2) -> None:
    """Bring a task's first round to where a worker may claim it."""
    federation.start(settings=plan(goal=1, max_attempts=max_attempts))
    federation.take_part()


def test_nothing_is_due_in_a_fresh_round(federation: Federation) -> None:
    federation.start()
    federation.lease()
    before = federation.state()

    outlook = rounds.look(federation.store, now=federation.clock.now())
    assert (outlook.is_due, outlook.is_open) == (False, True)
    assert federation.advance() == 0

    assert federation.state() == before


def test_a_silent_devices_lease_lapses(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.clock.advance(60)

    assert federation.advance() == 1

    assert federation.counts(work.round.id) == (0, 0, 0, 1)
    assert federation.happenings()[-1] == "lease_lapsed"
    assert federation.phases() == [Phase.COLLECTING]
    assert federation.advance() == 0


def test_at_the_deadline_the_minimum_is_enough(federation: Federation) -> None:
    federation.start(settings=plan(goal=3, minimum=1))
    federation.take_part()
    federation.clock.advance(119.999)
    assert federation.advance() == 0

    federation.clock.advance(0.001)

    assert federation.advance() == 1
    assert federation.phases() == [Phase.AGGREGATING]
    assert federation.happenings()[-1] == "round_aggregating"
    assert federation.release(federation.must_claim()) == 1


def test_below_the_minimum_the_round_is_tried_again(federation: Federation) -> None:
    federation.start(settings=plan(goal=3, minimum=2))
    federation.take_part()
    federation.clock.advance(120)

    assert federation.advance() == 1

    first, second = federation.attempts()
    assert first.phase is Phase.ABANDONED
    assert first.reason is not None
    assert "1 results were accepted" in first.reason
    assert "the minimum is 2" in first.reason
    assert first.closed_at == federation.clock.now()
    assert (second.number, second.attempt) == (first.number, 2)
    assert second.phase is Phase.COLLECTING
    assert second.base_version == first.base_version
    assert second.deadline == federation.clock.now() + dt.timedelta(seconds=120)
    assert federation.happenings()[-2:] == ["round_abandoned", "round_opened"]


def test_a_device_of_an_abandoned_attempt_may_join_the_next(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=3, minimum=2))
    work = federation.take_part()
    federation.clock.advance(120)
    federation.advance()

    again = federation.lease(work.assignment.device_id)

    assert again.round.attempt == 2


def test_after_the_last_attempt_the_task_stops_and_says_why(
    federation: Federation,
) -> None:
    federation.start(settings=plan(minimum=2, max_attempts=2))
    for _ in range(2):
        federation.clock.advance(120)
        federation.advance()

    task = federation.task()

    assert task.status is Status.STOPPED
    assert task.reason is not None
    assert "round 1 was abandoned 2 times" in task.reason
    assert "0 results were accepted by the deadline" in task.reason
    assert federation.phases() == [Phase.ABANDONED] * 2
    assert federation.happenings()[-1] == "task_stopped"
    federation.clock.advance(1_000)
    assert federation.advance() == 0


def test_the_attempts_of_each_round_are_counted_anew(federation: Federation) -> None:
    federation.start(settings=plan(goal=1, max_attempts=2))
    federation.clock.advance(120)
    federation.advance()
    federation.take_part()
    federation.release(federation.must_claim())

    federation.clock.advance(120)
    federation.advance()

    assert federation.task().status is Status.RUNNING
    numbers = [(round_.number, round_.attempt) for round_ in federation.attempts()]
    assert numbers == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_an_evaluation_below_its_minimum_is_not_tried_again(
    federation: Federation,
) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    federation.clock.advance(60)

    federation.advance()

    assert federation.phases() == [Phase.COMMITTED, Phase.ABANDONED]
    assert federation.task().status is Status.FINISHED


def test_a_worker_claims_a_round_that_waits(federation: Federation) -> None:
    aggregating(federation)

    claim = federation.must_claim("ann")

    assert claim.round.owner == "ann"
    assert claim.round.claims == 1
    assert claim.round.deadline == federation.clock.now() + FOLD_LEASE
    assert [update.examples for update in claim.updates] == [1]
    assert claim.results == 1
    assert federation.happenings()[-1] == "round_claimed"


def test_nobody_claims_a_round_that_collects_or_is_held(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1))
    assert federation.claim() is None
    federation.take_part()
    federation.must_claim("ann")
    before = federation.state()

    assert federation.claim("bob") is None
    assert federation.claim("ann") is None

    assert federation.state() == before


def test_the_updates_of_a_claim_come_in_an_order_of_their_own(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=4))
    for number in range(4):
        federation.take_part([float(number)] * 10, examples=number + 1)

    digests = [update.sha256 for update in federation.must_claim().updates]

    assert len(set(digests)) == 4
    assert digests == sorted(digests)


def test_a_dead_workers_round_is_taken_over(federation: Federation) -> None:
    aggregating(federation)
    dead = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds() - 0.001)
    assert federation.claim("bob") is None

    federation.clock.advance(0.001)
    claim = federation.must_claim("bob")

    assert claim.round.owner == "bob"
    assert claim.round.claims == 2
    assert claim.updates == dead.updates
    assert federation.release(claim) == 1


def test_a_worker_that_renews_keeps_its_round(federation: Federation) -> None:
    aggregating(federation)
    claim = federation.must_claim("ann")
    federation.clock.advance(10)
    rounds.renew(federation.store, claim, worker="ann", now=federation.clock.now())
    federation.clock.advance(10)

    assert federation.claim("bob") is None
    assert federation.release(claim) == 1


def test_a_worker_that_was_replaced_cannot_renew(federation: Federation) -> None:
    aggregating(federation)
    claim = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds())
    federation.must_claim("bob")
    before = federation.state()

    with pytest.raises(StaleWrite):
        rounds.renew(federation.store, claim, worker="ann", now=federation.clock.now())

    assert federation.state() == before


def test_a_worker_that_was_replaced_cannot_release(federation: Federation) -> None:
    aggregating(federation)
    slow = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds())
    claim = federation.must_claim("bob")
    before = federation.rows()

    with pytest.raises(StaleWrite):
        federation.release(slow)
    assert federation.rows() == before

    assert federation.release(claim) == 1


def test_a_worker_that_wakes_after_the_release_cannot_release(
    federation: Federation,
) -> None:
    aggregating(federation)
    slow = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds())
    federation.release(federation.must_claim("bob"))
    before = federation.rows()

    with pytest.raises(StaleWrite):
        federation.release(slow)

    assert federation.rows() == before
    assert federation.task().rounds_committed == 1


def test_a_worker_that_was_replaced_cannot_give_up(federation: Federation) -> None:
    aggregating(federation)
    slow = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds())
    federation.must_claim("bob")
    before = federation.state()

    rounds.give_up(federation.store, slow, "too slow", now=federation.clock.now())

    assert federation.state() == before


def test_a_worker_of_the_same_name_that_overslept_cannot_release(
    federation: Federation,
) -> None:
    aggregating(federation)
    slow = federation.must_claim("ann")
    federation.clock.advance(FOLD_LEASE.total_seconds())
    federation.must_claim("ann")

    with pytest.raises(StaleWrite):
        federation.release(slow)


def test_a_round_that_kills_workers_is_given_up(federation: Federation) -> None:
    aggregating(federation)
    for number in range(MAX_CLAIMS):
        assert federation.must_claim().round.claims == number + 1
        federation.clock.advance(FOLD_LEASE.total_seconds())

    assert federation.claim() is None

    first, second = federation.attempts()
    assert first.phase is Phase.ABANDONED
    assert first.reason is not None
    assert f"{MAX_CLAIMS} workers" in first.reason
    assert (second.phase, second.attempt) == (Phase.COLLECTING, 2)
    assert federation.claim() is None


def test_a_round_whose_result_is_unusable_is_given_up(federation: Federation) -> None:
    aggregating(federation, max_attempts=1)
    claim = federation.must_claim()

    rounds.give_up(federation.store, claim, "it diverged", now=federation.clock.now())

    assert federation.phases() == [Phase.ABANDONED]
    task = federation.task()
    assert (task.status, task.version) == (Status.STOPPED, 0)
    assert task.reason is not None
    assert "it diverged" in task.reason


def test_the_rounds_of_workers_that_are_gone_are_freed(federation: Federation) -> None:
    aggregating(federation)
    dead = federation.must_claim("ann")

    def free(gone: str) -> int:
        return rounds.free_claims(
            federation.store,
            is_gone=lambda worker: worker == gone,
            now=federation.clock.now(),
        )

    assert free("bob") == 0
    assert federation.claim("bob") is None

    assert free("ann") == 1
    assert free("ann") == 0
    claim = federation.must_claim("bob")
    with pytest.raises(StaleWrite):
        federation.release(dead)
    assert federation.release(claim) == 1


def test_the_updates_of_ended_rounds_are_deleted(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    federation.take_part()
    federation.release(federation.must_claim())
    open_update = federation.take_part()
    kept = {name for name in federation.files() if not name.startswith("updates/1/")}
    assert len(federation.files()) == len(kept) + 1

    assert rounds.clean_up(federation.store, federation.blobs) == 1

    assert set(federation.files()) == kept
    assert any(name.startswith(f"updates/{open_update.round.id}/") for name in kept)
    assert rounds.clean_up(federation.store, federation.blobs) == 0


def test_what_single_devices_scored_is_deleted_and_what_they_came_to_stays(
    federation: Federation,
) -> None:
    evaluation = EvaluationPlan(every=1, goal=2)
    federation.start(settings=plan(goal=1, rounds=2, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    federation.lease()  # takes the place to train: evaluation comes second
    first = federation.lease()
    federation.evaluate(first, correct=4)

    rounds.clean_up(federation.store, federation.blobs)
    assert len(federation.rows()["evaluations"]) == 1, "the round goes on"
    assert evaluation_score(federation) == Score(examples=10, loss=0.5, accuracy=0.4)

    federation.evaluate(federation.lease(), correct=8)
    federation.release(federation.must_claim())
    assert rounds.clean_up(federation.store, federation.blobs) == 1

    assert federation.rows()["evaluations"] == []
    assert evaluation_score(federation) == Score(examples=20, loss=0.5, accuracy=0.6)
    assert federation.counts(first.round.id) == (0, 2, 0, 0)
    before = federation.state()
    federation.evaluate(first, correct=4)  # its answer was lost
    federation.evaluate(first, correct=5)
    assert federation.state() == before


def test_an_abandoned_evaluation_leaves_no_score(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=2, minimum=2)
    federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    federation.evaluate(federation.lease())
    federation.clock.advance(60)
    federation.advance()

    for _ in range(2):
        assert evaluation_score(federation) is None
        rounds.clean_up(federation.store, federation.blobs)

    assert federation.rows()["evaluations"] == []
    (_, view) = tasks.list_metrics(federation.store, task_id="task")
    assert view.federated is None


def evaluation_score(federation: Federation) -> Score | None:
    """What the list of rounds says of the only evaluation."""
    views = tasks.list_rounds(
        federation.store, task_id="task", now=federation.clock.now()
    )
    (score,) = [view.score for view in views if view.round.kind is Kind.EVALUATE]
    return score


def test_cleaning_up_again_after_a_crash_is_no_error(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    work = federation.take_part()
    federation.release(federation.must_claim())
    federation.blobs.delete_updates(work.round.id)  # and the worker died here

    assert rounds.clean_up(federation.store, federation.blobs) == 1
