import inspect

import pytest

from coordinator.domain import errors
from coordinator.domain.errors import DomainError

MESSAGES: list[tuple[DomainError, str]] = [
    (errors.Unauthenticated("no token"), "no token"),
    (errors.Forbidden("not an operator", "d1"), "not an operator"),
    (errors.DeviceRevoked("d1"), "device d1 is revoked"),
    (errors.DeviceUnknown("d1"), "no device has the id d1"),
    (errors.TokenUnknown("t1"), "no token has the id t1"),
    (errors.EnrolmentTokenNeeded("none was sent"), "none was sent"),
    (errors.EnrolmentTokenRefused("it is used up"), "it is used up"),
    (errors.DeviceKeyNeeded("none was sent"), "none was sent"),
    (errors.AttestationNeeded("none was sent"), "none was sent"),
    (errors.AttestationRefused("another key"), "another key"),
    (errors.ChallengeUnknown("it was used"), "it was used"),
    (errors.AttestationNotAsked("none is asked for"), "none is asked for"),
    (errors.BodyNotSigned("another digest"), "another digest"),
    (errors.SignatureReplayed("used before"), "used before"),
    (errors.TooManySignatures("9 are kept"), "9 are kept"),
    (
        errors.IdempotencyKeyReused("a1"),
        "the key belongs to assignment a1, which ended",
    ),
    (errors.ModelUnknown("cnn"), "no model is named 'cnn'"),
    (errors.VersionUnknown("cnn", 3), "model 'cnn' has no version 3"),
    (errors.TagUnknown("cnn", "best"), "model 'cnn' has no tag 'best'"),
    (errors.ModelExists("cnn"), "model 'cnn' is registered with another manifest"),
    (errors.AssignmentUnknown("a1"), "no assignment has the id a1"),
    (errors.ForeignAssignment("a1"), "assignment a1 is another device's"),
    (errors.WrongKind("a1", "evaluate"), "assignment a1 asks to evaluate"),
    (errors.LeaseLapsed("a1"), "the lease of assignment a1 has lapsed"),
    (
        errors.RoundClosed(7, "committed", "update"),
        "round 7 is committed and takes no update",
    ),
    (
        errors.BetweenRounds(7),
        "round 7 has its results, the next opens shortly",
    ),
    (errors.AssignmentEnded("a1"), "assignment a1 was given up"),
    (errors.AlreadyReported("a1"), "assignment a1 has another accepted result"),
    (
        errors.SecAggNeeded(7),
        "round 7 takes no result in the clear: join it",
    ),
    (errors.EncryptionNeeded(7), "round 7 takes encrypted results alone"),
    (errors.EncryptionKeyUnknown("k1"), "no open round has the key k1"),
    (errors.NotSecure(7), "round 7 takes results in the clear"),
    (
        errors.CohortEnded("c1", "too few"),
        "cohort c1 has come to nothing: too few",
    ),
    (
        errors.LeftOut("a1"),
        "assignment a1 is not among those of its cohort that go on",
    ),
    (errors.DigestMismatch("0a", "0b"), "Content-Digest says 0a, the body has 0b"),
    (errors.UploadUnknown("a1"), "assignment a1 has no such upload"),
    (
        errors.MismatchingOffset(expected=7, provided=9),
        "the offset is 7, the part begins at 9",
    ),
    (errors.InconsistentLength("9 bytes of 8"), "9 bytes of 8"),
    (errors.CompletedUpload("a1"), "the upload of assignment a1 is complete"),
    (errors.TooManyParts("9 parts have come in"), "9 parts have come in"),
    (errors.TooManyUploads("9 bytes are kept"), "9 bytes are kept"),
    (errors.InvalidEvaluation("correct is 9 of 8"), "correct is 9 of 8"),
    (errors.TaskUnknown("t"), "no task is named 't'"),
    (errors.TaskExists("t"), "a task is named 't' already"),
    (errors.TaskEnded("t", "finished"), "task 't' has finished"),
    (errors.UnsuitablePlan("max_shift needs images"), "max_shift needs images"),
]


@pytest.mark.parametrize(
    ("error", "message"), MESSAGES, ids=[type(error).__name__ for error, _ in MESSAGES]
)
def test_a_refusal_states_its_ids(error: DomainError, message: str) -> None:
    assert str(error) == message


def test_the_tree_in_the_module_shows_every_refusal() -> None:
    kinds = {kind.__name__ for kind in DomainError.__subclasses__()}
    assert {type(error).__name__ for error, _ in MESSAGES} == kinds
    tree = inspect.getdoc(errors) or ""
    drawn = {
        name.strip()
        for line in tree.splitlines()
        if line.startswith("+-- ")
        for name in line.removeprefix("+-- ").split(",")
    }
    assert drawn == kinds
