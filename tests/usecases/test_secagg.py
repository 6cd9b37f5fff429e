"""Rounds of secure aggregation: sums of those that stay, exact, or none at all."""

import json
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.domain import privacy_statement
from coordinator.domain.errors import (
    AlreadyReported,
    CohortEnded,
    ForeignAssignment,
    LeaseLapsed,
    LeftOut,
    NotSecure,
    RoundClosed,
    SecAggNeeded,
)
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.domain.uploads import PartialUpload, Whole
from coordinator.protocol import device_keys, digests, fixed_point
from coordinator.protocol.encodings import Report
from coordinator.protocol.plan_privacy import PrivacyPlan
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.secagg import device, scrutiny
from coordinator.protocol.secagg.messages import Dealing, Reveal
from coordinator.protocol.secagg.refusals import (
    KeysRefused,
    WrongShares,
    WrongVector,
)
from coordinator.protocol.vocabulary import Kind, WaitReason
from coordinator.store import secagg as stored
from coordinator.usecases import devices as devices_
from coordinator.usecases import (
    participation,
    privacy,
    rounds,
    secagg,
    tasks,
    uploads,
)
from coordinator.usecases.participation import Expected
from tests.support.federation import Federation
from tests.support.models import update_body
from tests.support.secure_rounds import (
    CLIP,
    SIZE,
    STEP_S,
    SecureDevice,
    deal,
    gather,
    reveal,
    secure,
    send,
)


def phase(federation: Federation) -> Phase:
    return federation.phases()[-1]


def release(federation: Federation) -> int | None:
    return federation.release(federation.must_claim())


def moved(federation: Federation, version: int) -> float:
    """What a version's first weight has changed by, from the one before."""
    before = federation.weights(version - 1)
    change = federation.weights(version) - before
    assert change[1:] == pytest.approx(0, abs=1e-5)
    return float(change[0])


# The sum


def test_a_round_is_the_weighted_mean_of_all(federation: Federation) -> None:
    federation.start(settings=secure())
    examples = [10, 5, 2, 20, 10, 1]  # from 10 on, the weight is 1
    devices = gather(federation, examples=examples)
    assert phase(federation) is Phase.SHARING
    deal(devices)
    assert phase(federation) is Phase.MASKING
    send(devices)
    assert phase(federation) is Phase.UNMASKING
    reveal(devices[:4])
    assert phase(federation) is Phase.AGGREGATING  # no more shares are needed
    assert release(federation) == 1
    weights = np.minimum(examples, 10) / 10
    expected = weights @ np.arange(1, 7) / weights.sum()
    assert moved(federation, 1) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("step", [Phase.SHARING, Phase.MASKING, Phase.UNMASKING])
def test_who_vanishes_is_in_the_sum_if_its_vector_is(
    federation: Federation, step: Phase
) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    steps = ((Phase.SHARING, deal), (Phase.MASKING, send), (Phase.UNMASKING, reveal))
    for at, take in steps:
        if at is step:
            gone = devices.pop()
        take(devices)
        if at is step and at is not Phase.UNMASKING:
            assert phase(federation) is at  # it may still come
            federation.clock.advance(STEP_S)
            federation.advance()
    assert phase(federation) is Phase.AGGREGATING
    assert release(federation) == 1
    counted = range(1, 7 if step is Phase.UNMASKING else 6)
    assert moved(federation, 1) == pytest.approx(np.mean(counted), abs=1e-5)
    with pytest.raises(RoundClosed):
        gone.deal()


def test_a_longer_update_is_scaled_down(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = [
        SecureDevice.come(federation, [100.0 * CLIP, *[0.0] * (SIZE - 1)])
        for _ in range(6)
    ]
    for take in (SecureDevice.join, SecureDevice.deal, SecureDevice.send):
        for each in devices:
            take(each)
    reveal(devices[:4])
    assert release(federation) == 1
    assert moved(federation, 1) == pytest.approx(CLIP, abs=1e-5)


def test_many_devices_are_summed_in_several_cohorts(federation: Federation) -> None:
    settings = SecAggPlan(clip_norm=32.0, max_examples=1, cohort_size=7)
    federation.start(settings=secure(goal=18, minimum=15, secagg=settings))
    devices = gather(federation, 18)
    members = {}
    for each in devices:
        roster = secagg.roster(federation.store, **each.names)
        assert roster is not None
        members.setdefault(roster.manifest.cohort, []).append(roster.index)
    assert sorted(map(sorted, members.values())) == [[*range(6)]] * 3
    for take in (deal, send, reveal):
        take(devices)
    assert release(federation) == 1
    assert moved(federation, 1) == pytest.approx(np.mean(range(1, 19)), abs=1e-5)


def test_a_cohort_that_comes_to_nothing_is_left_out(federation: Federation) -> None:
    settings = SecAggPlan(
        clip_norm=32.0, max_examples=1, cohort_size=6, cohort_minimum=5
    )
    federation.start(settings=secure(goal=12, minimum=6, secagg=settings))
    devices = gather(federation, 12)
    deal(devices)
    cohorts = {}
    for each in devices:
        assert each.state.roster is not None
        cohorts.setdefault(each.state.roster.manifest.cohort, []).append(each)
    lost, kept = cohorts.values()
    send([*kept, *lost[:3]])
    federation.clock.advance(STEP_S)
    federation.advance()
    with pytest.raises(CohortEnded, match="3 masked vectors came in"):
        lost[0].reveal()
    assert federation.happenings().count("cohort_ended") == 1
    reveal(kept)
    assert release(federation) == 1
    expected = np.mean([each.delta[0] for each in kept])
    assert moved(federation, 1) == pytest.approx(expected, abs=1e-5)


def test_training_metrics_are_known_of_the_sum_alone(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation, examples=[10, 10, 10, 10, 10, 5])
    for take in (deal, send):
        take(devices)
    now = federation.clock.now()
    (view,) = tasks.list_rounds(federation.store, task_id="task", now=now)
    assert view.score is None
    reveal(devices)
    release(federation)
    first, *_ = tasks.list_rounds(federation.store, task_id="task", now=now)
    assert first.score is not None
    assert first.score.loss == pytest.approx(1.5, abs=1e-4)
    assert first.score.accuracy == pytest.approx(0.5, abs=1e-4)
    assert first.score.examples == 55
    (*_, metrics) = tasks.list_metrics(federation.store, task_id="task")
    assert metrics.train == first.score


def test_an_evaluation_is_summed_in_the_same_way(federation: Federation) -> None:
    evaluation = EvaluationPlan(every=1, goal=6, minimum=5)
    federation.start(settings=secure(rounds=1, evaluation=evaluation))
    devices = gather(federation)
    for take in (deal, send, reveal):
        take(devices)
    release(federation)
    scoring = [
        SecureDevice.come(federation, [0.0], device_id=each.names["device_id"])
        for each in devices
    ]
    assert {each.work.round.kind for each in scoring} == {Kind.EVALUATE}
    for index, each in enumerate(scoring):
        each.report = Report(
            examples=index + 1, train_loss=float(index), train_accuracy=index / 5
        )
        with pytest.raises(SecAggNeeded):
            federation.evaluate(each.work)
        each.join()
    for take in (deal, send, reveal):
        take(scoring)
    assert release(federation) is None
    (*_, metrics) = tasks.list_metrics(federation.store, task_id="task")
    assert metrics.federated is not None
    assert metrics.federated.devices == 6
    weights = np.arange(1, 7)
    score = metrics.federated.score
    assert score.examples == 21
    assert score.loss == pytest.approx(weights @ np.arange(6) / 21, abs=1e-3)
    assert score.accuracy == pytest.approx(weights @ np.arange(6) / 105, abs=1e-3)
    assert metrics.federated.distribution is None


def test_a_private_sum_has_the_noise_and_the_price_of_a_clear_one(
    federation: Federation,
) -> None:
    settings = PrivacyPlan(
        population=1000, delta=1e-6, clip_norm=CLIP, epsilon=500.0, noise_multiplier=1.0
    )
    federation.start(
        settings=secure(secagg=SecAggPlan(max_examples=10), privacy=settings)
    )
    devices = gather(federation, examples=[1, 2, 3, 4, 5, 6])
    for take in (deal, send, reveal):
        take(devices)
    assert release(federation) == 1
    change = federation.weights(1) - federation.weights(0)
    noise = change.astype(np.float64) - np.array([21 / 6, *[0.0] * (SIZE - 1)])
    stddev = CLIP / 6
    assert 0.2 * stddev < np.sqrt(np.mean(noise**2)) < 3 * stddev
    (entry,) = privacy.look(federation.store, task_id="task").ledger
    assert entry.clip_norm == CLIP
    clear = federation.compute.epsilon(entry.terms, 1, on_wait=lambda: None)
    assert entry.epsilon == clear
    (*_, metrics) = tasks.list_metrics(federation.store, task_id="task")
    assert metrics.train is None


def test_devices_add_the_noise_and_the_worker_none(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object) -> None:
        raise AssertionError("the worker draws noise")

    monkeypatch.setattr("coordinator.compute.private._sample", draw)
    settings = PrivacyPlan(
        mechanism="distributed_gaussian",
        population=1000,
        delta=1e-6,
        clip_norm=CLIP,
        epsilon=500.0,
        noise_multiplier=1.0,
    )
    federation.start(settings=secure(secagg=SecAggPlan(), privacy=settings))
    devices = gather(federation)
    for take in (deal, send, reveal):
        take(devices)
    (round_,) = federation.attempts()
    (formed,) = federation.store.read(lambda tx: stored.cohorts(tx, round_.id))
    encoding = formed.cohort.manifest.encoding
    least = fixed_point.longest(encoding.bits, SIZE) / math.sqrt(5)  # five are honest
    assert encoding.noise_stddev == pytest.approx(least)

    assert release(federation) == 1
    change = federation.weights(1) - federation.weights(0)
    noise = change.astype(np.float64) - np.array([21 / 6, *[0.0] * (SIZE - 1)])
    stddev = math.sqrt(6 / 5) * CLIP / 6
    assert 0.2 * stddev < np.sqrt(np.mean(noise**2)) < 3 * stddev
    (entry,) = privacy.look(federation.store, task_id="task").ledger
    assert entry.mechanism == "distributed_gaussian"
    assert entry.epsilon == federation.compute.epsilon(
        entry.terms, 1, on_wait=lambda: None
    )
    stated = privacy_statement.of(federation.task().plan, ())
    assert "noise: every sum has all of it from 5 devices" in (stated.trusted or "")
    assert "the coordinator, and anybody" in (stated.observer or "")
    assert any("abandoned after devices" in each for each in stated.not_covered)


def test_the_statement_says_what_sums_hide(federation: Federation) -> None:
    task = federation.start(settings=secure())
    stated = privacy_statement.of(task.plan, ())
    assert stated.mechanism == "off"
    assert "sums of at least 5 devices" in stated.withheld[0]
    assert "0.05 of a cohort" in stated.withheld[0]
    assert "sums and versions" in stated.not_covered[0]
    noisy = PrivacyPlan(population=1000, delta=1e-6)
    plan_ = secure(secagg=SecAggPlan(), privacy=noisy)
    stated = privacy_statement.of(plan_, ())
    assert "sums of cohorts without noise" in (stated.trusted or "")
    assert any("clips its own update" in each for each in stated.assumptions)


# What is too little


def test_too_few_who_join_abandon_the_round(federation: Federation) -> None:
    federation.start(settings=secure())
    gather(federation, 4)
    federation.clock.advance(120)
    federation.advance()
    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]


@pytest.mark.parametrize("step", [Phase.SHARING, Phase.MASKING, Phase.UNMASKING])
def test_too_few_who_stay_abandon_the_round(
    federation: Federation, step: Phase
) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    for at, take in (
        (Phase.SHARING, deal),
        (Phase.MASKING, send),
        (Phase.UNMASKING, reveal),
    ):
        if at is step:
            take(devices[:3])
            break
        take(devices)
    federation.clock.advance(STEP_S)
    federation.advance()
    first, second = federation.attempts()
    assert (first.phase, second.phase) == (Phase.ABANDONED, Phase.COLLECTING)
    assert first.reason == (
        f"0 devices are left of secure aggregation after {step}, the minimum is 5"
    )
    assert first.session != second.session
    with pytest.raises(RoundClosed):
        secagg.survivors(federation.store, **devices[0].names)
    federation.clock.advance(1)
    rounds.clean_up(federation.store, federation.blobs)
    assert federation.rows()["secagg_members"] == []
    assert federation.rows()["secagg_cohorts"] == []
    with pytest.raises(RoundClosed):
        secagg.roster(federation.store, **devices[0].names)


def test_a_round_that_was_abandoned_is_tried_with_other_keys(
    federation: Federation,
) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    federation.clock.advance(STEP_S)
    federation.advance()
    again = [
        SecureDevice.come(federation, each.delta, device_id=each.names["device_id"])
        for each in devices
    ]
    for new, old in zip(again, devices, strict=True):
        assert new.state.session.id != old.state.session.id
        with pytest.raises(RoundClosed):
            old.deal()
        new.join()
    for take in (deal, send, reveal):
        take(again)
    assert release(federation) == 1
    assert moved(federation, 1) == pytest.approx(3.5, abs=1e-5)


def test_a_device_that_lies_ends_the_cohort_and_nothing_is_published(
    federation: Federation,
) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    deal(devices)
    for each in devices[1:]:
        each.send()
    body = bytearray(devices[0].masked())
    body[-20:] = bytes(20)  # the figures, masks and all
    federation.submit(devices[0].work, bytes(body))
    reveal(devices)
    claim = federation.must_claim()
    with pytest.raises(ArithmeticError, match="sums of 0 devices"):
        federation.release(claim)
    rounds.give_up(federation.store, claim, "no sum", now=federation.clock.now())
    assert federation.phases() == [Phase.ABANDONED, Phase.COLLECTING]
    assert federation.task().version == 0


def test_the_task_stops_when_no_attempt_has_a_sum(federation: Federation) -> None:
    federation.start(settings=secure())
    for _ in range(2):
        gather(federation)
        federation.clock.advance(STEP_S)
        federation.advance()
    assert federation.task().status is Status.STOPPED
    assert "secure aggregation" in (federation.task().reason or "")


def test_who_trains_still_when_enough_have_joined_loses_its_place(
    federation: Federation,
) -> None:
    federation.start(settings=secure(over_select=0.5))
    slow = SecureDevice.come(federation, [1.0] * SIZE)
    gather(federation)
    assert federation.counts(1) == (0, 6, 0, 1)
    with pytest.raises(RoundClosed):
        slow.join()
    work = federation.check_in(slow.names["device_id"])
    assert work is WaitReason.NO_OPEN_ROUND


# Order, and again


def test_every_step_may_be_taken_again_and_changes_nothing(
    federation: Federation,
) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    one = devices[0]
    before = federation.rows()
    one.join()
    assert federation.rows() == before
    for take, again in ((deal, one.deal), (send, one.send)):
        take(devices[:-1])
        before = federation.state()
        again()
        assert federation.state() == before
        take(devices[-1:])
    one.reveal()
    before = federation.state()
    one.reveal()
    assert federation.state() == before


def test_other_content_than_before_is_refused(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    one = devices[0]
    other = device.join(
        one.state.session.model_copy(update={"id": "0" * 32}),
        one.names["device_id"],
        None,
    )
    with pytest.raises(AlreadyReported):
        secagg.join(
            federation.store,
            other.announcement,
            **one.names,
            now=federation.clock.now(),
        )
    deal(devices[:-1])
    assert one.state.dealing is not None
    shares = one.state.dealing.shares
    changed = shares[0].model_copy(update={"sealed": shares[1].sealed})
    with pytest.raises(AlreadyReported):
        secagg.deal(
            federation.store,
            Dealing(shares=(changed, *shares[1:])),
            **one.names,
            now=federation.clock.now(),
        )
    deal(devices[-1:])
    send(devices[:-1])
    with pytest.raises(AlreadyReported):
        federation.submit(one.work, bytes(4 * (SIZE + 5)))
    send(devices[-1:])
    reveal(devices[:1])
    assert one.state.reveal is not None
    given = one.state.reveal.shares
    wrong = given[0].model_copy(update={"share": given[1].share})
    with pytest.raises(AlreadyReported):
        secagg.reveal(
            federation.store,
            Reveal(shares=(wrong, *given[1:])),
            **one.names,
            now=federation.clock.now(),
        )


def test_a_question_waits_until_its_step(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation, 5)
    one = devices[0]
    store = federation.store
    assert secagg.roster(store, **one.names) is None
    assert secagg.inbox(store, **one.names) is None
    assert secagg.survivors(store, **one.names) is None
    devices += gather(federation, 1)
    assert secagg.roster(store, **one.names) is not None
    assert secagg.inbox(store, **one.names) is None
    deal(devices)
    with pytest.raises(RoundClosed):
        secagg.roster(store, **one.names)
    assert secagg.survivors(store, **one.names) is None
    send(devices)
    told = secagg.survivors(store, **one.names)
    assert told is not None
    assert told.indices == tuple(range(6))


def test_a_step_that_is_not_on_is_refused(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    one, late = devices[0], devices[-1]
    with pytest.raises(RoundClosed, match="is sharing and takes no vector"):
        federation.submit(one.work, bytes(4 * (SIZE + 5)))
    deal(devices)
    before = federation.state()
    with pytest.raises(RoundClosed, match="is masking and takes no reveal"):
        secagg.reveal(
            federation.store,
            Reveal(shares=()),
            **one.names,
            now=federation.clock.now(),
        )
    assert federation.state() == before
    send(devices[:-1])
    federation.clock.advance(STEP_S)  # and nobody has looked yet
    body = late.masked()
    before = federation.state()
    with pytest.raises(RoundClosed, match="takes no vector"):
        federation.submit(late.work, body)
    assert federation.state() == before
    federation.advance()
    with pytest.raises(LeftOut):
        late.reveal()
    with pytest.raises(RoundClosed):
        federation.submit(late.work, body)


def test_who_did_not_deal_is_left_out(federation: Federation) -> None:
    federation.start(settings=secure())
    *devices, silent = gather(federation)
    deal(devices)
    federation.clock.advance(STEP_S)
    federation.advance()
    with pytest.raises(LeftOut):
        silent.masked()
    with pytest.raises(LeftOut):
        federation.submit(silent.work, bytes(4 * (SIZE + 5)))
    with pytest.raises(RoundClosed):
        silent.deal()


def test_what_cannot_be_right_is_refused(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    one, other = devices[0], devices[1]
    now = federation.clock.now()
    roster = secagg.roster(federation.store, **one.names)
    assert roster is not None
    _, dealing = device.deal(one.state, roster, scrutiny.Policy())
    short = Dealing(shares=dealing.shares[:-1])
    with pytest.raises(WrongShares):
        secagg.deal(federation.store, short, **one.names, now=now)
    with pytest.raises(ForeignAssignment):
        secagg.deal(
            federation.store,
            dealing,
            device_id=other.names["device_id"],
            assignment_id=one.names["assignment_id"],
            now=now,
        )
    deal(devices)
    for size in (0, 4 * (SIZE + 5) - 1, 4 * SIZE):
        with pytest.raises(WrongVector):
            federation.submit(one.work, bytes(size))
    with pytest.raises(WrongVector):
        federation.submit(one.work, update_body([1.0] * SIZE)[: 4 * SIZE])
    send(devices)
    with pytest.raises(WrongShares):
        secagg.reveal(federation.store, Reveal(shares=()), **one.names, now=now)


def test_keys_of_nothing_are_refused_and_the_place_is_kept(
    federation: Federation,
) -> None:
    federation.start(settings=secure())
    one = SecureDevice.come(federation, [1.0] * SIZE)
    bad = one.state.announcement.model_copy(update={"sharing_key": bytes(32)})
    with pytest.raises(KeysRefused):
        secagg.join(federation.store, bad, **one.names, now=federation.clock.now())
    one.join()
    assert federation.counts(1)[:2] == (0, 1)


def test_a_lease_that_has_lapsed_joins_nothing(federation: Federation) -> None:
    federation.start(settings=secure())
    one = SecureDevice.come(federation, [1.0] * SIZE)
    federation.clock.advance(60)
    with pytest.raises(LeaseLapsed):
        one.join()


def test_a_clear_round_has_no_cohorts(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    names = {
        "device_id": work.assignment.device_id,
        "assignment_id": work.assignment.id,
    }
    for question in (secagg.roster, secagg.inbox, secagg.survivors):
        with pytest.raises(NotSecure):
            question(federation.store, **names)


def test_no_update_in_the_clear_is_taken(federation: Federation) -> None:
    federation.start(settings=secure())
    work = federation.lease()
    before = federation.state()
    with pytest.raises(RoundClosed, match="takes no vector"):
        federation.submit(work, update_body([1.0] * SIZE))
    assert federation.state() == before


def test_keys_must_be_signed_by_the_devices_own(federation: Federation) -> None:
    federation.start(settings=secure())
    signers = [ed25519.Ed25519PrivateKey.generate() for _ in range(2)]
    device_, _ = devices_.enrol(
        federation.store,
        devices_.Applicant(key=device_keys.of(signers[0].public_key())),
        now=federation.clock.now(),
    )
    one = SecureDevice.come(federation, [1.0] * SIZE, device_id=device_.id)
    for signer in (None, signers[1]):
        one.state = device.join(one.state.session, device_.id, signer)
        with pytest.raises(KeysRefused):
            one.join()
    one.state = device.join(one.state.session, device_.id, signers[0])
    one.join()


def begin_to_send(one: SecureDevice) -> tuple[Expected, PartialUpload, bytes]:
    """Send the first bytes of a masked vector; returns those that are left, too."""
    federation, body = one.federation, one.masked()
    whole = Whole(
        assignment_id=one.names["assignment_id"],
        sha256=digests.sha256_hex(body),
        coding="identity",
        length=len(body),
    )
    expected = participation.expect_update(
        federation.store, **one.names, now=federation.clock.now()
    )
    first = federation.blobs.new_incoming()
    first.write_bytes(body[:25])
    room = uploads.Room(all_bytes=1 << 20, upload_bytes=1 << 20)
    begun = uploads.begin(
        federation.store, federation.blobs, expected, whole, first, room=room
    )
    return expected, begun, body[25:]


def sweep(federation: Federation) -> int:
    now = federation.clock.now()
    return uploads.sweep(federation.store, federation.blobs, now=now)


def test_a_masked_vector_may_come_in_parts(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    deal(devices)
    expected, begun, left = begin_to_send(devices[0])
    assert sweep(federation) == 0  # the lease is over, and the round waits all the same
    rest = federation.blobs.new_incoming()
    rest.write_bytes(left)
    accepted = uploads.complete(
        federation.store,
        federation.blobs,
        expected,
        begun,
        rest,
        device_id=devices[0].names["device_id"],
        now=federation.clock.now(),
    )
    assert accepted.update.size_bytes == 25 + len(left)
    send(devices[1:])
    assert phase(federation) is Phase.UNMASKING


def test_parts_of_a_vector_that_came_too_late_are_deleted(
    federation: Federation,
) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    deal(devices)
    begin_to_send(devices[0])
    send(devices[1:])
    federation.clock.advance(STEP_S)
    federation.advance()
    assert sweep(federation) == 1
    assert federation.rows()["partial_uploads"] == []


# What is decided, and what is kept


def test_a_decision_is_taken_once(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    deal(devices[:-1])
    federation.clock.advance(STEP_S)
    federation.advance()
    (cohort,) = federation.store.read(lambda tx: stored.cohorts(tx, 1))
    decided = cohort.sharers
    assert decided is not None
    assert len(decided) == 5
    federation.advance()
    send(devices[:-1])
    (cohort,) = federation.store.read(lambda tx: stored.cohorts(tx, 1))
    assert (cohort.sharers, cohort.survivors) == (decided, decided)


def test_a_refold_gives_the_same_bytes(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    for take in (deal, send, reveal):
        take(devices)
    first = federation.must_claim("dies")
    federation.clock.advance(20)
    second = federation.must_claim("lives")
    assert federation.release(second) == 1
    weights = federation.weights(1)
    with pytest.raises(Exception, match="release"):
        federation.release(first)
    assert (federation.weights(1) == weights).all()


def test_nothing_that_is_kept_holds_an_update(federation: Federation) -> None:
    federation.start(settings=secure())
    devices = gather(federation)
    for each in devices:
        each.delta = np.arange(1, SIZE + 1, dtype=np.float32) / 7
    for take in (deal, send):
        take(devices)
    reveal(devices[:2])
    kept = repr(federation.rows()).encode() + b"".join(federation.files().values())
    roster = devices[-1].state.roster  # one that has not revealed remembers it
    assert roster is not None
    scaled = devices[0].delta.astype(np.float64) * (
        (1 << roster.manifest.encoding.bits) / CLIP
    )
    for plain in (
        devices[0].delta.tobytes(),
        devices[0].delta.astype(np.float64).tobytes(),
        np.floor(scaled).astype("<i4").tobytes(),
    ):
        for start in range(0, len(plain) - 8, 4):
            assert plain[start : start + 8] not in kept
    assert json.dumps(devices[0].delta.tolist()).encode() not in kept
