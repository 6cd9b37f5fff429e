"""A device reports: accepted once, or refused without a trace."""

import gzip

import numpy as np
import pytest
import zstandard

from coordinator.domain.errors import (
    AlreadyReported,
    AssignmentEnded,
    AssignmentUnknown,
    DigestMismatch,
    ForeignAssignment,
    InvalidEvaluation,
    LeaseLapsed,
    RoundClosed,
    WrongKind,
)
from coordinator.domain.rounds import Phase
from coordinator.protocol import codings, deltas, encodings, tensors
from coordinator.protocol.digests import sha256_hex
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.vocabulary import FailureReason
from coordinator.usecases import participation
from coordinator.usecases.check_in import Work
from tests.support.federation import Federation, plan
from tests.support.models import update_body

BODY = update_body([0.5] * 10, examples=3)
OTHER_BODY = update_body([0.25] * 10, examples=3)


def evaluation_work(federation: Federation, *, personalize_epochs: int = 0) -> Work:
    """A device's assignment to evaluate version 1."""
    evaluation = EvaluationPlan(every=1, goal=2, personalize_epochs=personalize_epochs)
    federation.start(settings=plan(goal=1, rounds=1, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    return federation.lease()


def test_an_update_is_accepted(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.clock.advance(10)

    accepted = federation.submit(work, BODY)

    assert accepted.accepted_at == federation.clock.now()
    assert accepted.update.sha256 == sha256_hex(BODY)
    assert accepted.update.size_bytes == len(BODY)
    assert accepted.update.examples == 3
    assert federation.files()[accepted.update.blob] == BODY
    assert federation.counts(work.round.id) == (0, 1, 0, 0)
    assert federation.happenings()[-1] == "result_accepted"
    assert federation.round(work.round.id).phase is Phase.COLLECTING


def test_the_same_body_again_gives_the_same_receipt(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    accepted = federation.submit(work, BODY)
    before = federation.state()
    federation.clock.advance(1_000)

    assert federation.submit(work, BODY) == accepted
    again = federation.submit(work, gzip.compress(BODY), coding="gzip")

    assert again == accepted
    assert federation.state() == before


def test_the_receipt_outlives_the_round(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    work = federation.lease()
    accepted = federation.submit(work, BODY)
    federation.release(federation.must_claim())
    before = federation.state()

    assert federation.submit(work, BODY) == accepted

    assert federation.state() == before


def test_another_body_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.submit(work, BODY)
    before = federation.state()

    with pytest.raises(AlreadyReported, match=work.assignment.id):
        federation.submit(work, OTHER_BODY)

    assert federation.state() == before


@pytest.mark.parametrize("coding", ["gzip", "zstd", " GZIP "])
def test_a_compressed_update_is_kept_plain(federation: Federation, coding: str) -> None:
    federation.start()
    work = federation.lease()
    compress = zstandard.compress if coding == "zstd" else gzip.compress

    accepted = federation.submit(work, compress(BODY), coding=coding)

    assert accepted.update.sha256 == sha256_hex(BODY)
    assert accepted.update.size_bytes == len(compress(BODY))
    assert federation.files()[accepted.update.blob] == BODY


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (update_body([np.nan] + [0.0] * 9), deltas.NotFinite),
        (update_body([0.0] * 10, examples=10_001), encodings.WrongMetadata),
        (BODY + b"x", tensors.LeftoverBytes),
        (b"", tensors.MalformedTensors),
    ],
)
def test_a_bad_update_is_refused_and_the_place_stays(
    federation: Federation, body: bytes, refusal: type[Exception]
) -> None:
    federation.start()
    work = federation.lease()
    before = federation.state()

    with pytest.raises(refusal):
        federation.submit(work, body)

    assert federation.state() == before
    federation.submit(work, BODY)  # it may still send the right one


def test_a_wrong_digest_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    before = federation.state()

    with pytest.raises(DigestMismatch, match=sha256_hex(OTHER_BODY)):
        federation.submit(work, BODY, digest=sha256_hex(OTHER_BODY))

    assert federation.state() == before


def test_a_body_that_inflates_too_far_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    before = federation.state()

    with pytest.raises(codings.InflatesTooFar):
        federation.submit(work, gzip.compress(bytes(10_000_000)), coding="gzip")

    assert federation.state() == before


def test_an_unknown_assignment_is_refused(federation: Federation) -> None:
    federation.start()
    device = federation.enrol()

    with pytest.raises(AssignmentUnknown, match="f" * 32):
        participation.expect_update(
            federation.store,
            device_id=device,
            assignment_id="f" * 32,
            now=federation.clock.now(),
        )


def test_another_devices_assignment_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    thief = federation.enrol()
    before = federation.state()

    with pytest.raises(ForeignAssignment):
        federation.submit(work, BODY, device_id=thief)

    assert federation.state() == before


def test_even_an_accepted_assignment_is_its_devices_alone(
    federation: Federation,
) -> None:
    federation.start()
    work = federation.take_part()
    thief = federation.enrol()

    with pytest.raises(ForeignAssignment):
        federation.submit(work, update_body([1.0] * 10), device_id=thief)


def test_a_lapsed_lease_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.clock.advance(60)
    before = federation.state()

    with pytest.raises(LeaseLapsed, match=work.assignment.id):
        federation.submit(work, BODY)

    assert federation.state() == before


def test_the_last_moment_of_a_lease_counts(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.clock.advance(59.999999)

    federation.submit(work, BODY)

    assert federation.counts(work.round.id) == (0, 1, 0, 0)


def test_a_lease_that_lapses_while_the_body_comes_in_is_refused(
    federation: Federation,
) -> None:
    federation.start()
    work = federation.lease()
    expected = participation.expect_update(
        federation.store,
        device_id=work.assignment.device_id,
        assignment_id=work.assignment.id,
        now=federation.clock.now(),
    )
    before = federation.state()
    federation.clock.advance(60)
    incoming = federation.blobs.new_incoming()
    incoming.write_bytes(BODY)

    with pytest.raises(LeaseLapsed):
        participation.submit_update(
            federation.store,
            federation.blobs,
            expected,
            participation.Sent(
                path=incoming, content_digest=sha256_hex(BODY), coding="identity"
            ),
            device_id=work.assignment.device_id,
            assignment_id=work.assignment.id,
            now=federation.clock.now(),
        )

    assert federation.state() == before


def test_the_goals_last_update_closes_the_round(federation: Federation) -> None:
    federation.start(settings=plan(goal=2, over_select=0.5))
    late = federation.lease()
    federation.take_part()
    federation.take_part()
    before = federation.state()

    assert federation.round(late.round.id).phase is Phase.AGGREGATING
    assert federation.happenings()[-2:] == ["result_accepted", "round_aggregating"]
    with pytest.raises(RoundClosed, match="aggregating"):
        federation.submit(late, BODY)

    assert federation.state() == before


def test_a_device_that_gave_up_cannot_come_back(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.give_up(work, FailureReason.OUT_OF_MEMORY)
    before = federation.state()

    with pytest.raises(AssignmentEnded):
        federation.submit(work, BODY)

    assert federation.state() == before


def test_a_failure_is_kept_and_noted_once(federation: Federation) -> None:
    federation.start()
    work = federation.lease()

    federation.give_up(work, FailureReason.OUT_OF_MEMORY)
    before = federation.state()
    federation.clock.advance(100)
    federation.give_up(work, FailureReason.INTERRUPTED)

    assert federation.counts(work.round.id) == (0, 0, 1, 0)
    assert federation.happenings().count("device_failed") == 1
    assert federation.state() == before


def test_a_failure_after_the_result_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.take_part()
    before = federation.state()

    with pytest.raises(AlreadyReported):
        federation.give_up(work)

    assert federation.state() == before


def test_a_failure_after_the_lease_is_refused(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.clock.advance(60)
    before = federation.state()

    with pytest.raises(LeaseLapsed):
        federation.give_up(work)

    assert federation.state() == before


def test_the_kind_of_a_result_must_fit(federation: Federation) -> None:
    evaluating = evaluation_work(federation)
    before = federation.state()

    with pytest.raises(WrongKind, match="evaluate"):
        federation.submit(evaluating, BODY)
    assert federation.state() == before

    federation.start("other")
    training = federation.lease()
    before = federation.state()
    with pytest.raises(WrongKind, match="train"):
        federation.evaluate(training)
    assert federation.state() == before


def test_an_evaluation_is_accepted_once(federation: Federation) -> None:
    work = evaluation_work(federation)

    federation.evaluate(work, examples=10, loss_sum=2.5, correct=7)
    before = federation.state()
    federation.clock.advance(1_000)
    federation.evaluate(work, examples=10, loss_sum=2.5, correct=7)
    assert federation.state() == before

    with pytest.raises(AlreadyReported):
        federation.evaluate(work, examples=10, loss_sum=2.5, correct=8)
    assert federation.state() == before
    assert federation.counts(work.round.id) == (0, 1, 0, 0)


def test_more_right_answers_than_examples_are_refused(federation: Federation) -> None:
    work = evaluation_work(federation)
    before = federation.state()

    with pytest.raises(InvalidEvaluation, match=r"at most examples 10, got 11"):
        federation.evaluate(work, examples=10, correct=11)

    assert federation.state() == before


def test_personalized_sums_are_accepted_once(federation: Federation) -> None:
    work = evaluation_work(federation, personalize_epochs=1)

    federation.evaluate(work, personalized=(1.5, 9))
    before = federation.state()
    federation.evaluate(work, personalized=(1.5, 9))
    for other in ((1.5, 8), (1.25, 9), None):
        with pytest.raises(AlreadyReported):
            federation.evaluate(work, personalized=other)

    assert federation.state() == before
    assert federation.counts(work.round.id) == (0, 1, 0, 0)


def test_a_device_that_cannot_fine_tune_sends_the_plain_sums(
    federation: Federation,
) -> None:
    work = evaluation_work(federation, personalize_epochs=1)

    federation.evaluate(work)

    assert federation.counts(work.round.id) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("epochs", "correct", "message"),
    [
        (0, 5, "asks for no personalized sums"),
        (1, 11, r"personalized\.correct must be at most examples 10, got 11"),
    ],
)
def test_personalized_sums_unasked_or_impossible_are_refused(
    federation: Federation, epochs: int, correct: int, message: str
) -> None:
    work = evaluation_work(federation, personalize_epochs=epochs)
    before = federation.state()

    with pytest.raises(InvalidEvaluation, match=message):
        federation.evaluate(work, personalized=(1.0, correct))

    assert federation.state() == before


def test_a_late_evaluation_is_refused(federation: Federation) -> None:
    work = evaluation_work(federation)
    federation.clock.advance(30)
    before = federation.state()

    with pytest.raises(LeaseLapsed):
        federation.evaluate(work)

    assert federation.state() == before
