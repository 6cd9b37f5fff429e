"""How often one device may take part, held to exactly."""

import functools

import pytest

from coordinator.domain import selection
from coordinator.domain.assignments import Participation
from coordinator.domain.rounds import Phase
from coordinator.protocol.plan_rounds import (
    AsynchronousPlan,
    EvaluationPlan,
    ParticipationPlan,
)
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind, WaitReason
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan
from tests.support.models import update_body
from tests.support.races import THREADS, at_once
from tests.support.rounds import round_in

RESTING, CAPPED = WaitReason.RESTING, WaitReason.CAP_REACHED


def limited(
    settings: Plan, *, max_rounds: int | None = None, separation: int | None = None
) -> Plan:
    limits = ParticipationPlan(max_rounds=max_rounds, min_separation=separation)
    return settings.model_copy(update={"participation": limits})


def commit_round(federation: Federation, *devices: str) -> None:
    for device in devices:
        federation.take_part(device_id=device)
    federation.release(federation.must_claim())


@pytest.mark.parametrize(
    ("last", "separation", "reason"),
    [
        (None, 5, None),
        (2, None, None),
        (2, 1, None),  # the round is number 3
        (2, 2, RESTING),
        (1, 2, None),
        (1, 3, RESTING),
    ],
)
def test_the_separation_is_counted_from_round_to_round(
    last: int | None, separation: int | None, reason: WaitReason | None
) -> None:
    round_ = round_in(Phase.COLLECTING)
    policy = plan_policy(separation=separation)
    took_part = Participation(rounds=0 if last is None else 1, last_round=last)

    found = selection.reason_to_rest(
        round_in(Phase.COLLECTING, policy=policy, number=round_.number), took_part
    )

    assert found is reason


def plan_policy(*, separation: int | None):
    from coordinator.domain.tasks import training_policy  # noqa: PLC0415

    return training_policy(limited(plan(), separation=separation))


def test_a_device_rests_and_then_comes_back(federation: Federation) -> None:
    federation.start(settings=limited(plan(goal=1, rounds=5), separation=3))
    first, *others = (federation.enrol() for _ in range(4))
    commit_round(federation, first)

    for other in others[:2]:
        assert federation.check_in(first) is RESTING
        commit_round(federation, other)

    commit_round(federation, first)  # round 4 = 1 + 3
    assert federation.check_in(first) is RESTING
    assert federation.task().rounds_committed == 4


def test_a_device_takes_part_in_so_many_rounds_and_no_more(
    federation: Federation,
) -> None:
    federation.start(settings=limited(plan(goal=1, rounds=5), max_rounds=2))
    device, other = federation.enrol(), federation.enrol()
    for _ in range(2):
        commit_round(federation, device)

    assert federation.check_in(device) is CAPPED
    assert isinstance(federation.check_in(other), Work)


def test_only_what_was_accepted_and_not_abandoned_counts(
    federation: Federation,
) -> None:
    federation.start(
        settings=limited(plan(goal=2, minimum=2), max_rounds=1, separation=9)
    )
    device = federation.enrol()
    federation.give_up(federation.lease(device))
    federation.take_part(device_id=device)
    federation.clock.advance(120)
    federation.advance()  # one update is too few: the round is tried again

    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]
    commit_round(federation, device, federation.enrol())
    assert federation.check_in(device) in {CAPPED, RESTING}


def test_other_tasks_and_evaluations_do_not_count(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=1, minimum=1)
    settings = limited(plan(goal=1, evaluation=evaluation), max_rounds=2)
    federation.start("first", settings)
    device = federation.enrol()
    commit_round(federation, device)

    other = federation.lease()  # takes the only place in training
    scored = federation.lease(device)
    assert scored.round.kind is Kind.EVALUATE
    federation.evaluate(scored)
    federation.release(federation.must_claim())
    federation.give_up(other)

    commit_round(federation, device)
    scored = federation.lease(device)
    assert scored.round.kind is Kind.EVALUATE
    federation.evaluate(scored)
    assert federation.check_in(device) is CAPPED
    federation.start("second", settings)
    assert federation.lease(device).task.id == "second"


def test_many_calls_of_one_device_at_once_keep_the_separation(
    federation: Federation,
) -> None:
    """An update that lands, and check-ins that ask for the next place meanwhile."""
    asynchronous = AsynchronousPlan(concurrency=4)
    settings = plan(goal=1, rounds=8, asynchronous=asynchronous)
    federation.start(settings=limited(settings, separation=3))
    device = federation.enrol()
    work = federation.lease(device)
    body = update_body([1.0] * 10)

    answers = at_once(
        [
            functools.partial(federation.submit, work, body),
            *[functools.partial(federation.check_in, device) for _ in range(THREADS)],
        ]
    )

    federation.release(federation.must_claim())
    works = [each for each in answers if isinstance(each, Work)]
    assert {each.assignment.id for each in works} <= {work.assignment.id}
    assert federation.check_in(device) is RESTING


def test_an_asynchronous_update_counts_in_the_round_where_it_lands(
    federation: Federation,
) -> None:
    asynchronous = AsynchronousPlan(concurrency=4)
    settings = plan(goal=1, rounds=8, asynchronous=asynchronous)
    federation.start(settings=limited(settings, separation=2))
    slow, *fast = (federation.enrol() for _ in range(5))
    work = federation.lease(slow)  # in round 1
    for device in fast[:2]:
        commit_round(federation, device)
    federation.submit(work, update_body([1.0] * 10))  # in round 3
    federation.release(federation.must_claim())

    assert federation.check_in(slow) is RESTING  # in round 4
    commit_round(federation, fast[2])
    assert isinstance(federation.check_in(slow), Work)  # in round 5


def test_a_restart_does_not_forget(federation: Federation) -> None:
    """All that decides is in rows: nothing is remembered by a process."""
    federation.start(settings=limited(plan(goal=1), separation=2))
    device = federation.enrol()
    commit_round(federation, device)
    federation.store.close()  # every connection

    assert federation.check_in(device) is RESTING
