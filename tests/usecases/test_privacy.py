"""Releases under differential privacy: each paid for, once, before it happens."""

import json
from typing import Any

import numpy as np
import pytest

from coordinator.api import rendering
from coordinator.domain import privacy_statement
from coordinator.domain.errors import UnsuitablePlan
from coordinator.domain.privacy import BudgetSpent, Release
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan, ParticipationPlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind, WaitReason
from coordinator.store import privacy as stored
from coordinator.store.engine import StaleWrite
from coordinator.usecases import devices, privacy, rounds, tasks
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan
from tests.support.models import update_body


def private(
    participation: ParticipationPlan | None = None,
    *,
    evaluation: EvaluationPlan | None = None,
    task_rounds: int = 3,
    goal: int = 2,
    minimum: int = 1,
    **settings: Any,  # noqa: ANN401 - any field of PrivacyPlan
) -> Plan:
    defaults = {"population": 100, "delta": 1e-5, "clip_norm": 1.0, "epsilon": 1000.0}
    return plan(
        rounds=task_rounds,
        goal=goal,
        minimum=minimum,
        participation=participation,
        evaluation=evaluation,
        privacy=PrivacyPlan(**{**defaults, **settings}),
    )


def by_coin(**settings: Any) -> Plan:  # noqa: ANN401 - any field of PrivacyPlan
    return private(
        sampling="poisson",
        sampling_rate=0.5,
        cap=60,
        **{"noise_multiplier": 8.0, "epsilon": 1000.0, **settings},
    )


def ledger(federation: Federation) -> tuple[Release, ...]:
    return privacy.look(federation.store, task_id="task").ledger


def run_round(federation: Federation, devices_: list[str] | None = None) -> int | None:
    for device in devices_ or [federation.enrol(), federation.enrol()]:
        federation.take_part([1.0] * 10, device_id=device)
    return federation.release(federation.must_claim())


def everything_said(federation: Federation) -> str:
    """All that the operators' API is made from, but for the plan."""
    now = federation.clock.now()
    return repr(
        [
            tasks.list_rounds(federation.store, task_id="task", now=now),
            tasks.list_metrics(federation.store, task_id="task"),
            tasks.list_events(federation.store, after=0, limit=1000),
            devices.list_devices(federation.store, limit=1000),
        ]
    )


# What is released


def test_a_release_is_the_noisy_sum_by_a_constant(federation: Federation) -> None:
    federation.start(settings=private(noise_multiplier=0.05))
    before = federation.weights(0)
    federation.take_part([0.1] * 10, examples=5)
    federation.take_part([100.0] + [0.0] * 9, examples=1)

    federation.release(federation.must_claim())

    # Clipped to length 1 and halved; weighted by examples the first would be 0.25.
    expected = before + np.array([0.55] + [0.05] * 9)
    noise = federation.weights(1) - expected
    assert 0.001 < np.abs(noise).max() < 6 * 0.05 / 2


def test_devices_that_add_noise_themselves_are_told_to_and_the_worker_adds_none(
    federation: Federation,
) -> None:
    settings = private(
        mechanism="local_gaussian",
        noise_multiplier=1.0,
        goal=2,
        evaluation=EvaluationPlan(every=1, goal=1, minimum=1),
    )
    federation.start(settings=settings)
    before = federation.weights(0)
    works = [federation.lease() for _ in range(2)]
    told = rendering.assignment(
        works[0], encodings_known=(), now=federation.clock.now()
    )
    assert told.noise == LocalNoise(clip_norm=1.0, noise_multiplier=1.0)
    for work in works:
        federation.submit(work, update_body([1.5] * 10))  # longer than the clip norm

    federation.release(federation.must_claim())

    assert federation.weights(1) - before == pytest.approx([1.5] * 10, abs=1e-4)
    scoring = federation.lease()
    while scoring.round.kind is not Kind.EVALUATE:
        scoring = federation.lease()
    asked = rendering.assignment(
        scoring, encodings_known=(), now=federation.clock.now()
    )
    assert asked.noise is None
    (entry,) = ledger(federation)
    assert (entry.mechanism, entry.clip_norm) == ("local_gaussian", 1.0)
    stated = privacy_statement.of(settings, (entry,))
    assert (stated.trusted or "").startswith("nobody but the device itself")
    assert "the coordinator, and anybody" in (stated.observer or "")
    assert any("clips its own update" in each for each in stated.assumptions)


def test_few_updates_are_divided_by_the_same_constant(federation: Federation) -> None:
    federation.start(settings=private(goal=4, noise_multiplier=0.05))
    before = federation.weights(0)
    federation.take_part([100.0] + [0.0] * 9)
    federation.clock.advance(120)
    federation.advance()

    federation.release(federation.must_claim())

    moved = federation.weights(1) - before
    assert moved[0] == pytest.approx(1 / 4, abs=6 * 0.05 / 4)


def test_each_release_is_in_the_ledger_with_what_all_before_cost(
    federation: Federation,
) -> None:
    federation.start(settings=private(task_rounds=3, noise_multiplier=2.0))
    for _ in range(3):
        run_round(federation)

    entries = ledger(federation)

    assert [entry.number for entry in entries] == [1, 2, 3]
    attempts = [round_.id for round_ in federation.attempts()]
    assert [entry.round_id for entry in entries] == attempts
    # delta 1e-5 = F(m/2 - e/m) - exp(e) F(-m/2 - e/m), m = sqrt(1, 2, 3) / 2
    expected = [1.99309, 2.94323, 3.70863]
    assert [entry.epsilon for entry in entries] == pytest.approx(expected, rel=1e-5)
    assert {entry.accountant for entry in entries} == {"dp-accounting 0.6.0 gaussian"}
    assert federation.task().status is Status.FINISHED


def test_a_task_without_privacy_has_no_ledger_and_no_secret(
    federation: Federation,
) -> None:
    federation.start()
    run_round(federation)

    assert ledger(federation) == ()
    assert federation.rows()["noise_secrets"] == []
    statement = privacy_statement.of(federation.task().plan, ())
    assert (statement.mechanism, statement.epsilon) == ("off", None)


def test_going_back_to_an_older_version_costs_and_repeats_nothing(
    federation: Federation,
) -> None:
    resting = ParticipationPlan(min_separation=2)
    settings = private(
        resting, mechanism="central_bsr", bands=2, noise_multiplier=1.0, task_rounds=9
    )
    federation.start(settings=settings)
    start = federation.weights(0)
    run_round(federation)
    run_round(federation)
    first, second = federation.weights(1), federation.weights(2)
    tasks.roll_back(
        federation.store, task_id="task", number=1, now=federation.clock.now()
    )

    run_round(federation)

    third = federation.weights(3)
    assert len(ledger(federation)) == 3
    # The same updates from the same version, and other noise: of the third release.
    assert np.abs((third - first) - (second - first)).max() > 0.05
    assert np.abs(third - start).max() > 0


# What is not told


def test_what_devices_say_of_their_training_is_not_kept(federation: Federation) -> None:
    federation.start(settings=private())
    body = update_body([1.0] * 10, examples=77, train_loss=3.25, train_accuracy=0.625)
    accepted = federation.submit(federation.lease(), body)
    federation.submit(federation.lease(), update_body([1.0] * 10, examples=78))
    federation.release(federation.must_claim())

    assert accepted.update.examples == 1
    kept = json.dumps(federation.rows(), default=repr)
    for told in ("77", "3.25", "0.625"):
        assert f" {told}," not in kept
    (version, _) = tasks.list_metrics(federation.store, task_id="task")
    assert version.train is None
    views = tasks.list_rounds(
        federation.store, task_id="task", now=federation.clock.now()
    )
    assert [view.score for view in views] == [None, None]
    assert federation.rows()["scores"] == []


def test_an_update_may_be_sent_again_though_its_report_is_not_kept(
    federation: Federation,
) -> None:
    federation.start(settings=private())
    work = federation.lease()
    body = update_body([1.0] * 10, examples=77)
    first = federation.submit(work, body)

    assert federation.submit(work, body) == first


def test_the_secret_is_deleted_when_the_task_has_ended(federation: Federation) -> None:
    federation.start(settings=private(task_rounds=1))
    ((_, secret),) = federation.rows()["noise_secrets"]
    assert secret not in everything_said(federation)
    run_round(federation)
    assert len(federation.rows()["noise_secrets"]) == 1

    rounds.clean_up(federation.store, federation.blobs)

    assert federation.rows()["noise_secrets"] == []
    assert len(ledger(federation)) == 1


def test_the_secret_stays_while_the_task_runs(federation: Federation) -> None:
    federation.start(settings=private())
    run_round(federation)

    rounds.clean_up(federation.store, federation.blobs)

    assert len(federation.rows()["noise_secrets"]) == 1


# The budget


def test_a_release_that_would_pass_the_budget_does_not_happen(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.start(settings=private(noise_multiplier=1.0, epsilon=5.0))
    for _ in range(2):
        federation.take_part()
    claim = federation.must_claim()
    before = federation.state()
    # Plans refuse what one release would break: a stricter accountant came since.
    monkeypatch.setattr(federation.compute, "epsilon", lambda *_, **__: 5.377)

    with pytest.raises(BudgetSpent, match=r"release 1 would take epsilon to 5\.377, "):
        federation.release(claim)

    assert federation.state() == before
    rounds.stop_spent(
        federation.store, claim, "it is spent", now=federation.clock.now()
    )
    task = federation.task()
    assert (task.status, task.reason, task.version) == (
        Status.STOPPED,
        "it is spent",
        0,
    )
    assert federation.phases() == [Phase.ABANDONED]
    assert federation.happenings()[-1] == "task_stopped"
    assert ledger(federation) == ()


def test_no_round_is_opened_whose_release_the_budget_would_refuse(
    federation: Federation,
) -> None:
    federation.start(settings=private(noise_multiplier=2.0, epsilon=3.0))
    run_round(federation)
    assert federation.task().status is Status.RUNNING

    run_round(federation)

    task = federation.task()
    assert (task.status, task.rounds_committed) == (Status.STOPPED, 2)
    assert task.reason == "release 3 would take epsilon to 3.709, the budget is 3"
    assert federation.phases() == [Phase.COMMITTED] * 2
    assert federation.happenings()[-1] == "task_stopped"


def test_devices_that_rest_make_releases_cheaper(federation: Federation) -> None:
    resting = ParticipationPlan(min_separation=3)
    federation.start(settings=private(resting, task_rounds=4, noise_multiplier=2.0))
    for _ in range(4):
        run_round(federation)

    epsilons = [entry.epsilon for entry in ledger(federation)]

    assert epsilons[0] == epsilons[1] == epsilons[2] < epsilons[3]


# A worker that dies, or is too slow


def test_a_round_that_is_folded_again_is_released_once_with_the_same_noise(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.start(settings=private())
    for _ in range(2):
        federation.take_part()
    claim = federation.must_claim()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stored, "insert_release", die)
        with pytest.raises(KeyboardInterrupt):
            federation.release(claim)
    left = set(federation.files())
    assert ledger(federation) == ()
    assert federation.task().version == 0
    federation.clock.advance(16)

    federation.release(federation.must_claim("another"))

    # The file that the dead worker left is the one that is published: no second draw.
    assert set(federation.files()) == left
    assert len(ledger(federation)) == 1


def test_a_worker_that_was_overtaken_enters_nothing(federation: Federation) -> None:
    federation.start(settings=private())
    for _ in range(2):
        federation.take_part()
    slow = federation.must_claim("slow")
    federation.clock.advance(16)
    federation.release(federation.must_claim("fast"))
    before = federation.state()

    with pytest.raises(StaleWrite):
        federation.release(slow)

    assert federation.state() == before
    assert len(ledger(federation)) == 1


def test_an_abandoned_attempt_costs_nothing_and_shares_no_noise(
    federation: Federation,
) -> None:
    federation.start(settings=private(noise_multiplier=1.0))
    for _ in range(2):
        federation.take_part()
    claim = federation.must_claim()
    rounds.give_up(federation.store, claim, "lost", now=federation.clock.now())
    assert ledger(federation) == ()

    run_round(federation)

    (entry,) = ledger(federation)
    assert (entry.number, entry.round_id) == (1, federation.attempts()[1].id)


# Secret coins


def test_only_devices_that_coins_chose_are_let_in(federation: Federation) -> None:
    enrolled = [federation.enrol() for _ in range(40)]
    federation.start(settings=by_coin())
    ((round_id, *_),) = {(row[0],) for row in federation.rows()["chosen"]}
    chosen = {device for _, device in federation.rows()["chosen"]}
    assert 5 < len(chosen) < 35

    answers = {device: federation.check_in(device) for device in enrolled}

    assert round_id == federation.attempts()[0].id
    for device, answer in answers.items():
        if device in chosen:
            assert isinstance(answer, Work)
        else:
            assert answer is WaitReason.NO_OPEN_ROUND
    assert federation.check_in(federation.enrol()) is WaitReason.NO_OPEN_ROUND


def test_coins_need_devices_to_choose_among(federation: Federation) -> None:
    enrolled = [federation.enrol() for _ in range(3)]
    settings = private(sampling="poisson", sampling_rate=0.4, goal=10, minimum=2)
    federation.register()
    before = federation.rows()

    with pytest.raises(UnsuitablePlan, match=r"of 3 enrolled devices .* 1\.2 on av"):
        federation.start(settings=settings)

    # but for the model and the first weights, nothing was made
    assert federation.rows() == before
    enrolled += [federation.enrol() for _ in range(2)]
    assert federation.start(settings=settings).status is Status.RUNNING


def test_a_round_closes_when_all_who_were_chosen_have_come(
    federation: Federation,
) -> None:
    for _ in range(40):
        federation.enrol()
    federation.start(settings=by_coin())
    chosen = [device for _, device in federation.rows()["chosen"]]
    for device in chosen[:-1]:
        federation.take_part(device_id=device)
    assert federation.phases() == [Phase.COLLECTING]

    federation.take_part(device_id=chosen[-1])

    assert federation.phases() == [Phase.AGGREGATING]
    federation.release(federation.must_claim())
    second = {row for row in federation.rows()["chosen"] if row[1] not in chosen}
    assert second  # fresh coins in the second round
    (entry,) = ledger(federation)
    assert (entry.terms.sampling_rate, entry.terms.cap) == (0.5, 60)
    assert entry.accountant == "dp-accounting 0.6.0 pld truncated poisson"


def test_nothing_that_is_told_names_who_was_chosen(federation: Federation) -> None:
    enrolled = [federation.enrol() for _ in range(40)]
    federation.start(settings=by_coin(task_rounds=1))
    chosen = [device for _, device in federation.rows()["chosen"]]
    for device in chosen[:3]:
        federation.take_part(device_id=device)
    federation.give_up(federation.lease(chosen[3]))
    federation.lease(chosen[4])
    federation.clock.advance(60)
    federation.advance()  # that lease lapses

    told = tasks.list_events(federation.store, after=0, limit=1000)

    named = {
        device
        for event in told
        if event.happening != "device_enrolled"
        for device in enrolled
        if device in repr(event)
    }
    assert named == set()
    counted = devices.list_devices(federation.store, limit=1000)
    assert {count for _, count in counted} == {0}
    happenings = {str(event.happening) for event in told}
    assert happenings >= {"place_leased", "result_accepted", "device_failed"}
    assert "lease_lapsed" in happenings


def test_the_list_of_the_chosen_goes_when_the_round_has_ended(
    federation: Federation,
) -> None:
    for _ in range(40):
        federation.enrol()
    federation.start(settings=by_coin(task_rounds=1))
    for device in [device for _, device in federation.rows()["chosen"]]:
        federation.take_part(device_id=device)
    federation.release(federation.must_claim())
    assert federation.rows()["chosen"]

    rounds.clean_up(federation.store, federation.blobs)

    assert federation.rows()["chosen"] == []


def test_another_attempt_flips_its_own_coins(federation: Federation) -> None:
    for _ in range(40):
        federation.enrol()
    federation.start(settings=by_coin())
    federation.clock.advance(120)
    federation.advance()

    lists = {
        round_.id: {d for r, d in federation.rows()["chosen"] if r == round_.id}
        for round_ in federation.attempts()
    }

    assert len(lists) == 2
    first, second = lists.values()
    assert first != second


def test_who_enrolled_beyond_the_population_or_is_revoked_is_never_chosen(
    federation: Federation,
) -> None:
    enrolled = []
    for _ in range(12):
        enrolled.append(federation.enrol())
        federation.clock.advance(1)
    devices.revoke(
        federation.store, device_id=enrolled[0], by="x", now=federation.clock.now()
    )
    settings = private(
        sampling="poisson",
        sampling_rate=0.9,
        cap=10,
        population=10,
        noise_multiplier=8.0,
    )
    federation.start(settings=settings)
    for _ in range(1):
        federation.clock.advance(120)
        federation.advance()

    chosen = {device for _, device in federation.rows()["chosen"]}

    assert chosen
    assert chosen <= set(enrolled[1:11])


def test_evaluations_take_whoever_comes(federation: Federation) -> None:
    enrolled = [federation.enrol() for _ in range(40)]
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=by_coin(evaluation=evaluation, task_rounds=1))
    for device in [device for _, device in federation.rows()["chosen"]]:
        federation.take_part(device_id=device)
    federation.release(federation.must_claim())

    work = federation.lease(enrolled[0])

    assert work.round.kind is Kind.EVALUATE


# What is said


def test_the_statement_says_what_epsilon_means(federation: Federation) -> None:
    for _ in range(40):
        federation.enrol()
    federation.start(settings=by_coin())
    view = privacy.look(federation.store, task_id="task")

    statement = privacy_statement.of(view.task.plan, view.ledger)
    lines = statement.lines()

    assert (statement.epsilon, statement.delta, statement.budget) == (0.0, 1e-5, 1000.0)
    assert statement.accountant is None
    assert "epsilon 0 at delta 1e-05, of a budget of 1000" in lines
    text = "\n".join(lines)
    for word in ("one enrolled device", "zero-out", "coordinator", "evaluation"):
        assert word in text
    assert any("secret coin" in line for line in lines)
    assert any("nobody learns who took part" in line for line in lines)


def test_without_sampling_nothing_is_claimed_of_chance(federation: Federation) -> None:
    resting = ParticipationPlan(min_separation=2)
    federation.start(settings=private(resting))
    for _ in range(3):
        run_round(federation)
    view = privacy.look(federation.store, task_id="task")

    statement = privacy_statement.of(view.task.plan, view.ledger)

    assert statement.assumptions[0] == (
        "one device was in at most 2 of 3 releases, which the coordinator insists on; "
        "nothing is claimed of chance"
    )
    assert not any("coin" in each for each in statement.assumptions)
