"""A device reports on its assignment: an update, an evaluation or a failure.

Each report is looked at twice: before its body is read, to refuse early, and inside the
transaction that accepts it, because the round may have moved on meanwhile.
"""

import dataclasses
import datetime as dt
import mmap
import os
import pathlib
from collections.abc import Callable
from typing import Final

from coordinator.domain.aggregation import AcceptedUpdate
from coordinator.domain.assignments import Assignment, State
from coordinator.domain.errors import (
    AlreadyReported,
    BetweenRounds,
    DigestMismatch,
    DomainError,
    EncryptionNeeded,
    ForeignAssignment,
    InvalidEvaluation,
    SecAggNeeded,
    WrongKind,
)
from coordinator.domain.evaluation import Evaluation, Sums
from coordinator.domain.events import Happening
from coordinator.domain.rounds import Round
from coordinator.protocol import codings, digests, encodings
from coordinator.protocol.encodings import Report
from coordinator.protocol.he.messages import open_envelope
from coordinator.protocol.messages import EvaluationReport, PersonalizedSums
from coordinator.protocol.secagg import unmasking
from coordinator.protocol.vocabulary import FailureReason, Kind
from coordinator.store import assignments, events, models, rounds, tasks
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.files import Incoming
from coordinator.usecases import encrypted, secagg
from coordinator.usecases.phases import end_if_due, staleness
from coordinator.usecases.reporting import insist_open, note, own

#: What is kept of a device's report where no noise would cover it.
_UNTOLD: Final = Report(examples=1, train_loss=0.0, train_accuracy=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an update of an assignment must be."""

    round_id: int
    max_bytes: int  #: that the body may have, before and after content coding
    #: What is kept of what a body says of itself; raises where it is none.
    check: Callable[[bytes | mmap.mmap], Report]
    is_masked: bool  #: whether it is a masked vector
    previous: AcceptedUpdate | None  #: what was accepted before, if anything was
    ends_at: dt.datetime  #: until then it may come


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A body that came in whole, and what its header fields say of it."""

    path: pathlib.Path  #: of the bytes as sent; the caller deletes what is left there
    content_digest: str  #: SHA-256 that Content-Digest names, 64 hex digits
    coding: str  #: Content-Encoding


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An update that counts."""

    update: AcceptedUpdate
    accepted_at: dt.datetime


def expect_update(
    store: Store, *, device_id: str, assignment_id: str, now: dt.datetime
) -> Expected:
    """Say what an assignment's update must be, or refuse it before it is read.

    An assignment whose update is accepted already passes: it may be the same again.

    Raises:
        AssignmentUnknown, ForeignAssignment, WrongKind, LeaseLapsed, AssignmentEnded,
        RoundClosed: As their names say.
    """

    def body(tx: Transaction) -> Expected:
        assignment, round_ = own(tx, device_id, assignment_id, None)
        if round_.policy.is_secure:
            return _expect_masked(tx, assignment, round_, now)
        if round_.policy.is_encrypted:
            return _expect_encrypted(tx, assignment, round_, now)
        if round_.kind is not Kind.TRAIN:
            raise WrongKind(assignment_id, round_.kind)
        known = _known(tx, assignment)
        if known is None:
            insist_open(assignment, round_, now)
        plan = tasks.get(tx, round_.task).plan
        manifest = models.get(tx, round_.model).manifest

        def check(plain: bytes | mmap.mmap) -> Report:
            report = encodings.check_update(
                manifest,
                plain,
                max_examples=plan.training.max_examples,
                encodings=tuple(dict.fromkeys(("f32", plan.update.encoding))),
            )
            return report if plan.privacy is None else _UNTOLD

        return Expected(
            round_id=round_.id,
            max_bytes=encodings.max_update_bytes(manifest),
            check=check,
            is_masked=False,
            previous=None if known is None else known.update,
            ends_at=assignment.lease_expires_at,
        )

    return store.read(body)


def _expect_masked(
    tx: Transaction, assignment: Assignment, round_: Round, now: dt.datetime
) -> Expected:
    encoding, previous = secagg.expect_vector(tx, assignment, round_, now)

    def check(plain: bytes | mmap.mmap) -> Report:
        unmasking.check_vector(plain, encoding)
        return _UNTOLD

    return Expected(
        round_id=round_.id,
        max_bytes=encoding.size_bytes,
        check=check,
        is_masked=True,
        previous=previous,
        ends_at=round_.deadline,
    )


def _expect_encrypted(
    tx: Transaction, assignment: Assignment, round_: Round, now: dt.datetime
) -> Expected:
    known = _known(tx, assignment)
    keys = None  # of what was accepted the digest tells, and its key may be gone
    if known is None:
        insist_open(assignment, round_, now)
        keys = encrypted.expect(tx, assignment, round_)

    def check(plain: bytes | mmap.mmap) -> Report:
        if keys is not None:
            key, device_key = keys
            with memoryview(plain) as body:
                open_envelope(body, device_key, key.statement)
        return _UNTOLD

    return Expected(
        round_id=round_.id,
        max_bytes=encrypted.max_bytes(tx, round_),
        check=check,
        is_masked=False,
        previous=None if known is None else known.update,
        ends_at=assignment.lease_expires_at,
    )


def submit_update(
    store: Store,
    blobs: BlobStore,
    expected: Expected,
    sent: Sent,
    *,
    device_id: str,
    assignment_id: str,
    now: dt.datetime,
) -> Accepted:
    """Accept an update once. The same body again gives the same receipt.

    Raises:
        DigestMismatch: The body is not the one its header names.
        AlreadyReported: Another body was accepted before.
        StorageUnavailable: The body cannot be kept now.
        ValueError: One of the refusals of ``codings``, ``tensors``, ``encodings``.
        WrongVector, LeftOut, CohortEnded: A masked vector is none, or not asked for.
        AssignmentUnknown, ForeignAssignment, WrongKind, LeaseLapsed, AssignmentEnded,
        RoundClosed: As their names say.
    """
    plain, sha256, size_bytes = _read_body(sent, expected)
    kept = expected.check(plain)
    previous = expected.previous
    blob = (
        previous.blob
        if previous is not None
        else blobs.keep_update(
            sent.path,
            round_id=expected.round_id,
            assignment_id=assignment_id,
            sha256=sha256,
        )
    )
    candidate = AcceptedUpdate(
        assignment_id=assignment_id,
        blob=blob,
        sha256=sha256,
        size_bytes=size_bytes,
        examples=kept.examples,
        train_loss=kept.train_loss,
        train_accuracy=kept.train_accuracy,
    )

    def body(tx: Transaction) -> Accepted:
        round_ = rounds.get(tx, expected.round_id)
        assignment = assignments.get(tx, assignment_id)
        if assignment.device_id != device_id:
            raise ForeignAssignment(assignment_id)
        if assignment.round_id != round_.id:
            # The body lies with a round that has ended, and would go with it.
            raise BetweenRounds(round_.id)
        known = _known(tx, assignment)
        if known is None:
            land = _land_masked if expected.is_masked else _land
            return land(tx, candidate, assignment, round_, now)
        if known.update.sha256 != sha256:
            raise AlreadyReported(assignment_id)
        return known

    try:
        accepted = store.run("submit_update", body)
    except DomainError:
        if previous is None:
            blobs.drop_update(blob)
        raise
    if accepted.update.blob != blob:  # the same body was accepted meanwhile
        blobs.drop_update(blob)
    return accepted


def _known(tx: Transaction, assignment: Assignment) -> Accepted | None:
    """Return what was accepted of an assignment before, if anything was."""
    if assignment.state is not State.ACCEPTED:
        return None
    known = assignments.update_of(tx, assignment.id)
    return None if known is None else Accepted(update=known[0], accepted_at=known[1])


def _land(
    tx: Transaction,
    candidate: AcceptedUpdate,
    assignment: Assignment,
    round_: Round,
    now: dt.datetime,
) -> Accepted:
    """Let an update count in the round that is open now."""
    insist_open(assignment, round_, now)
    assignments.end(tx, assignment.ended(State.ACCEPTED, now=now))
    stale = staleness(tx, assignment, round_)
    landed = dataclasses.replace(candidate, staleness=stale)
    assignments.insert_update(tx, landed, round_id=round_.id, now=now)
    note(
        tx,
        Happening.RESULT_ACCEPTED,
        round_,
        assignment,
        now,
        examples=landed.examples,
        bytes=landed.size_bytes,
        **({"staleness": stale} if round_.policy.is_asynchronous else {}),
    )
    if not end_if_due(tx, round_, now):
        _note_freed_place(tx, round_, now)
    return Accepted(update=landed, accepted_at=now)


def _land_masked(
    tx: Transaction,
    candidate: AcceptedUpdate,
    assignment: Assignment,
    round_: Round,
    now: dt.datetime,
) -> Accepted:
    """Let a masked vector count in its cohort's sum."""
    secagg.expect_vector(tx, assignment, round_, now)
    assignments.insert_update(tx, candidate, round_id=round_.id, now=now)
    note(
        tx,
        Happening.RESULT_ACCEPTED,
        round_,
        assignment,
        now,
        bytes=candidate.size_bytes,
    )
    end_if_due(tx, round_, now)
    return Accepted(update=candidate, accepted_at=now)


def _read_body(sent: Sent, expected: Expected) -> tuple[bytes | mmap.mmap, str, int]:
    """Check and undo what the header fields say of a body.

    Returns:
        The plain body, its SHA-256, and the size of what was sent. What lies at
        ``sent.path`` is the plain body afterwards.
    """
    content: bytes | mmap.mmap = b""
    with sent.path.open("rb") as file:
        if size_bytes := os.fstat(file.fileno()).st_size:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sha256 = digests.sha256_hex(content)
    if sha256 != sent.content_digest:
        raise DigestMismatch(sent.content_digest, sha256)
    if codings.is_identity(sent.coding):
        return content, sha256, size_bytes
    plain = codings.inflate(bytes(content), sent.coding, limit=expected.max_bytes)
    sent.path.unlink()  # the bytes as sent stay mapped until they are let go
    with Incoming(sent.path) as incoming:
        incoming.write(plain)
    return plain, digests.sha256_hex(plain), size_bytes


def submit_evaluation(
    store: Store,
    report: EvaluationReport,
    *,
    device_id: str,
    assignment_id: str,
    now: dt.datetime,
) -> dt.datetime:
    """Accept an evaluation once. Returns when it was accepted.

    The same sums again change nothing. Once the round has ended and its sums are
    deleted, nor do any others.

    Raises:
        InvalidEvaluation: More answers are right than there are examples, or there are
            sums after fine-tuning that were not asked for.
        AlreadyReported: Other sums were accepted before.
        AssignmentUnknown, ForeignAssignment, WrongKind, LeaseLapsed, AssignmentEnded,
        RoundClosed: As their names say.
    """
    evaluation = _evaluation(report)

    def body(tx: Transaction) -> dt.datetime:
        assignment, round_ = own(tx, device_id, assignment_id, Kind.EVALUATE, lock=True)
        if round_.policy.is_secure:
            raise SecAggNeeded(round_.id)
        if round_.policy.is_encrypted:
            raise EncryptionNeeded(round_.id)
        if assignment.state is State.ACCEPTED and assignment.ended_at is not None:
            known = assignments.evaluation_of(tx, assignment_id)
            # None: the round has ended, and its sums are deleted.
            if known is not None and known != evaluation:
                raise AlreadyReported(assignment_id)
            return assignment.ended_at
        insist_open(assignment, round_, now)
        plan = tasks.get(tx, round_.task).plan
        if evaluation.personalized is not None and plan.personalization is None:
            raise InvalidEvaluation("the assignment asks for no personalized sums")
        assignments.end(tx, assignment.ended(State.ACCEPTED, now=now))
        assignments.insert_evaluation(tx, assignment, evaluation, now=now)
        note(
            tx,
            Happening.RESULT_ACCEPTED,
            round_,
            assignment,
            now,
            examples=report.examples,
        )
        end_if_due(tx, round_, now)
        return now

    return store.run("submit_evaluation", body)


def _evaluation(report: EvaluationReport) -> Evaluation:
    """Return the sums of a report, or refuse those that contradict each other."""
    personalized = report.personalized
    for name, sums in (("correct", report), ("personalized.correct", personalized)):
        if sums is not None and sums.correct > report.examples:
            raise InvalidEvaluation(
                f"{name} must be at most examples {report.examples}, got {sums.correct}"
            )
    return Evaluation(
        examples=report.examples,
        sums=_sums(report),
        personalized=None if personalized is None else _sums(personalized),
    )


def _sums(reported: EvaluationReport | PersonalizedSums) -> Sums:
    return Sums(loss_sum=reported.loss_sum, correct=reported.correct)


def report_failure(
    store: Store,
    *,
    device_id: str,
    assignment_id: str,
    reason: FailureReason,
    detail: str | None,
    now: dt.datetime,
) -> dt.datetime:
    """Let a device give its assignment up. Returns when; again is no change.

    Raises:
        AlreadyReported: Its result was accepted before.
        AssignmentUnknown, ForeignAssignment, LeaseLapsed: As their names say.
    """

    def body(tx: Transaction) -> dt.datetime:
        assignment, round_ = own(tx, device_id, assignment_id, None, lock=True)
        if assignment.state is State.FAILED and assignment.ended_at is not None:
            return assignment.ended_at
        ended = assignment.ended(State.FAILED, now=now, failure=reason)
        assignments.end(tx, ended, failure_detail=detail)
        events.append_of(
            tx,
            Happening.DEVICE_FAILED,
            round_,
            now=now,
            device=device_id,
            assignment=assignment_id,
            reason=reason,
        )
        return now

    return store.run("report_failure", body)


def _note_freed_place(tx: Transaction, round_: Round, now: dt.datetime) -> None:
    """Wake waiting devices where an accepted update made room for one."""
    if not round_.policy.is_asynchronous:
        return
    if assignments.counts(tx, round_.id, now).live == round_.policy.places - 1:
        events.append_of(tx, Happening.PLACE_FREED, round_, now=now)
