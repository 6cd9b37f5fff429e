"""Every refusal: the other side is wrong or late, and nothing was changed.

DomainError
+-- Unauthenticated, Forbidden, DeviceRevoked, DeviceUnknown, TokenUnknown
+-- EnrolmentTokenNeeded, EnrolmentTokenRefused, DeviceKeyNeeded
+-- AttestationNeeded, AttestationRefused, AttestationNotAsked, ChallengeUnknown
+-- BodyNotSigned, SignatureReplayed, TooManySignatures
+-- IdempotencyKeyReused
+-- ModelUnknown, VersionUnknown, TagUnknown, ModelExists
+-- AssignmentUnknown, ForeignAssignment, WrongKind
+-- LeaseLapsed, RoundClosed, BetweenRounds, AssignmentEnded, AlreadyReported
+-- SecAggNeeded, NotSecure, CohortEnded, LeftOut
+-- EncryptionNeeded, EncryptionKeyUnknown
+-- DigestMismatch, InvalidEvaluation
+-- UploadUnknown, MismatchingOffset, InconsistentLength, CompletedUpload
+-- TooManyParts, TooManyUploads
+-- TaskUnknown, TaskExists, TaskEnded, UnsuitablePlan
"""


class DomainError(Exception):
    """A refusal. The message states the fact and the value, never a secret."""

    subject: str = ""  #: id of who was refused, where the refusal knows it


class Unauthenticated(DomainError):
    """The token is missing or unknown."""


class Forbidden(DomainError):
    """The token is known, but not for this."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class DeviceRevoked(DomainError):
    """An operator has revoked the device."""

    def __init__(self, device_id: str) -> None:
        super().__init__(f"device {device_id} is revoked")
        self.subject = device_id


class DeviceUnknown(DomainError):
    """No device has this id."""

    def __init__(self, device_id: str) -> None:
        super().__init__(f"no device has the id {device_id}")


class TokenUnknown(DomainError):
    """No enrolment token or operator has this id."""

    def __init__(self, token_id: str) -> None:
        super().__init__(f"no token has the id {token_id}")


class EnrolmentTokenNeeded(DomainError):
    """This coordinator enrols only devices that bear a token for it."""


class EnrolmentTokenRefused(DomainError):
    """The enrolment token is unknown, used up, expired or revoked."""


class DeviceKeyNeeded(DomainError):
    """This coordinator enrols only devices that register a key."""


class AttestationNeeded(DomainError):
    """This coordinator enrols only devices whose key is attested."""


class AttestationRefused(DomainError):
    """The attestation does not vouch for the device's key."""


class ChallengeUnknown(DomainError):
    """The attestation answers no challenge that is still open."""


class AttestationNotAsked(DomainError):
    """This coordinator enrols devices without an attestation."""


class BodyNotSigned(DomainError):
    """The body is not the one whose digest was signed."""


class SignatureReplayed(DomainError):
    """The nonce of the signature was used before."""


class TooManySignatures(DomainError):
    """The device has signed more requests than may be remembered."""


class IdempotencyKeyReused(DomainError):
    """The key of a check-in belongs to an assignment that has ended."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"the key belongs to assignment {assignment_id}, which ended")


class ModelUnknown(DomainError):
    """No model has this name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"no model is named {model!r}")


class VersionUnknown(DomainError):
    """The model has no such version."""

    def __init__(self, model: str, number: int) -> None:
        super().__init__(f"model {model!r} has no version {number}")


class TagUnknown(DomainError):
    """The model has no such tag."""

    def __init__(self, model: str, tag: str) -> None:
        super().__init__(f"model {model!r} has no tag {tag!r}")


class ModelExists(DomainError):
    """Another manifest is registered under this name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r} is registered with another manifest")


class AssignmentUnknown(DomainError):
    """No assignment has this id."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"no assignment has the id {assignment_id}")


class ForeignAssignment(DomainError):
    """The assignment was leased to another device."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"assignment {assignment_id} is another device's")


class WrongKind(DomainError):
    """A result of another kind than the assignment asks for."""

    def __init__(self, assignment_id: str, kind: str) -> None:
        super().__init__(f"assignment {assignment_id} asks to {kind}")


class LeaseLapsed(DomainError):
    """The device was silent for too long."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"the lease of assignment {assignment_id} has lapsed")


class RoundClosed(DomainError):
    """The round's phase does not take this."""

    def __init__(self, round_id: int, phase: str, event: str) -> None:
        super().__init__(f"round {round_id} is {phase} and takes no {event}")


class BetweenRounds(DomainError):
    """An asynchronous task's next round opens in a moment; it takes this then."""

    def __init__(self, round_id: int) -> None:
        super().__init__(f"round {round_id} has its results, the next opens shortly")


class AssignmentEnded(DomainError):
    """The device gave the assignment up before."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"assignment {assignment_id} was given up")


class AlreadyReported(DomainError):
    """Another result of this assignment was accepted before."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"assignment {assignment_id} has another accepted result")


class SecAggNeeded(DomainError):
    """The round takes sums of cohorts, and no result in the clear."""

    def __init__(self, round_id: int) -> None:
        super().__init__(f"round {round_id} takes no result in the clear: join it")


class EncryptionNeeded(DomainError):
    """A result came in the clear where it has to be encrypted."""

    def __init__(self, round_id: int) -> None:
        super().__init__(f"round {round_id} takes encrypted results alone")


class EncryptionKeyUnknown(DomainError):
    """There is no such key, or its round has ended."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no open round has the key {key_id}")


class NotSecure(DomainError):
    """The round takes results in the clear, and has no cohorts to join."""

    def __init__(self, round_id: int) -> None:
        super().__init__(f"round {round_id} takes results in the clear")


class CohortEnded(DomainError):
    """The cohort's sum cannot be had."""

    def __init__(self, cohort_id: str, reason: str) -> None:
        super().__init__(f"cohort {cohort_id} has come to nothing: {reason}")


class LeftOut(DomainError):
    """The device is not among those of its cohort that go on."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(
            f"assignment {assignment_id} is not among those of its cohort that go on"
        )


class DigestMismatch(DomainError):
    """The body's digest is not the one its header names."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"Content-Digest says {expected}, the body has {actual}")


class UploadUnknown(DomainError):
    """Nothing has come in of this update, or it has ended."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"assignment {assignment_id} has no such upload")


class MismatchingOffset(DomainError):
    """A part begins elsewhere than at the end of what has come in."""

    def __init__(self, *, expected: int, provided: int) -> None:
        super().__init__(f"the offset is {expected}, the part begins at {provided}")
        self.expected = expected
        self.provided = provided


class InconsistentLength(DomainError):
    """What requests say of an upload's length does not fit together."""


class CompletedUpload(DomainError):
    """Everything has come in already."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(f"the upload of assignment {assignment_id} is complete")


class TooManyParts(DomainError):
    """An upload has come in in as many parts as may be."""


class TooManyUploads(DomainError):
    """As many bytes of partial uploads are kept as may be."""


class InvalidEvaluation(DomainError):
    """The sums of an evaluation contradict each other."""


class TaskUnknown(DomainError):
    """No task has this id."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"no task is named {task_id!r}")


class TaskExists(DomainError):
    """A task has this id already."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"a task is named {task_id!r} already")


class UnsuitablePlan(DomainError):
    """The plan asks for what its model cannot do."""


class TaskEnded(DomainError):
    """The task has finished or stopped."""

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(f"task {task_id!r} has {status}")
