"""Refusals on the wire: RFC 9457 problem documents with stable types.

A device decides by ``type`` alone; ``status`` and ``detail`` are for people.
"""

import dataclasses
from http import HTTPStatus
from typing import Any, Final

import pydantic
from pydantic import Field

MEDIA_TYPE: Final = "application/problem+json"
_PREFIX: Final = "urn:shoal:problem:"
_REGISTERED: Final = "https://iana.org/assignments/http-problem-types#"


@dataclasses.dataclass(frozen=True, slots=True)
class ProblemType:
    """One way to be refused."""

    slug: str
    status: HTTPStatus
    title: str
    retry: bool = False  #: the same request may succeed later
    is_registered: bool = False  #: with IANA, and not of this API alone

    @property
    def type(self) -> str:
        """The stable name on the wire."""
        return (_REGISTERED if self.is_registered else _PREFIX) + self.slug


class Problem(pydantic.BaseModel):
    """Why a request was refused. Nothing was changed by it."""

    model_config = pydantic.ConfigDict(extra="allow")

    type: str = Field(
        description="Stable name of the refusal, the only field to decide by.",
        examples=[_PREFIX + "lease-lapsed"],
    )
    title: str = Field(description="The same for every refusal of this type.")
    status: int = Field(description="The HTTP status.")
    detail: str | None = Field(None, description="What was wrong this time.")
    retry_after_s: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait before the same request may succeed; "
        "absent where trying again is of no use.",
    )


def _problem(
    slug: str,
    status: HTTPStatus,
    title: str,
    *,
    retry: bool = False,
    is_registered: bool = False,
) -> ProblemType:
    return ProblemType(slug, status, title, retry, is_registered)


_S = HTTPStatus
# Anyone
INVALID_REQUEST = _problem(
    "invalid-request", _S.UNPROCESSABLE_ENTITY, "The request is not of its form"
)
NOT_FOUND = _problem("not-found", _S.NOT_FOUND, "There is nothing here")
METHOD_NOT_ALLOWED = _problem(
    "method-not-allowed", _S.METHOD_NOT_ALLOWED, "This path does not take this method"
)
UNAUTHENTICATED = _problem(
    "unauthenticated", _S.UNAUTHORIZED, "A valid token or device key is needed"
)
FORBIDDEN = _problem("forbidden", _S.FORBIDDEN, "This token may not do this")
INTERNAL = _problem(
    "internal", _S.INTERNAL_SERVER_ERROR, "The coordinator failed", retry=True
)
BODY_TOO_LARGE = _problem(
    "body-too-large", _S.REQUEST_ENTITY_TOO_LARGE, "The body is longer than any may be"
)
MALFORMED_HTTP = _problem(
    "malformed-http", _S.BAD_REQUEST, "What came is no valid HTTP request"
)
HEAD_TOO_LONG = _problem(
    "head-too-long",
    _S.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "The head of the request is longer than any may be",
)
TOO_SLOW = _problem(
    "too-slow",
    _S.REQUEST_TIMEOUT,
    "The request came in too slowly, or paused for too long",
    retry=True,
)
TOO_MANY_REQUESTS = _problem(
    "too-many-requests",
    _S.TOO_MANY_REQUESTS,
    "This device or address makes more requests than it may",
    retry=True,
)
COORDINATOR_FULL = _problem(
    "coordinator-full",
    _S.SERVICE_UNAVAILABLE,
    "The coordinator has as much to do as it takes on",
    retry=True,
)
#: What any request may be answered with before its call is looked at.
LIMITS: Final = (
    MALFORMED_HTTP,
    HEAD_TOO_LONG,
    TOO_SLOW,
    TOO_MANY_REQUESTS,
    COORDINATOR_FULL,
)
UNAVAILABLE = _problem(
    "unavailable", _S.SERVICE_UNAVAILABLE, "The coordinator is busy", retry=True
)
NOT_READY = _problem(
    "not-ready",
    _S.SERVICE_UNAVAILABLE,
    "Something is missing that a round needs",
    retry=True,
)
# Files
STORAGE_UNAVAILABLE = _problem(
    "storage-unavailable",
    _S.SERVICE_UNAVAILABLE,
    "The coordinator cannot write or read its files now",
    retry=True,
)
BLOB_LOST = _problem(
    "blob-lost",
    _S.SERVICE_UNAVAILABLE,
    "The coordinator has lost these bytes and its operator must bring them back",
    retry=True,
)
FILES: Final = (STORAGE_UNAVAILABLE, BLOB_LOST)
# Enrolment
ENROLMENT_TOKEN_NEEDED = _problem(
    "enrolment-token-needed", _S.UNAUTHORIZED, "Enrolling needs an enrolment token"
)
ENROLMENT_TOKEN_REFUSED = _problem(
    "enrolment-token-refused", _S.FORBIDDEN, "The enrolment token admits nobody"
)
DEVICE_KEY_NEEDED = _problem(
    "device-key-needed", _S.BAD_REQUEST, "Enrolling needs a device key"
)
DEVICE_KEY_REFUSED = _problem(
    "device-key-refused",
    _S.UNPROCESSABLE_ENTITY,
    "The device key is of no kind that is taken",
)
ATTESTATION_NEEDED = _problem(
    "attestation-needed", _S.UNAUTHORIZED, "Enrolling needs an attestation of the key"
)
ATTESTATION_REFUSED = _problem(
    "attestation-refused", _S.FORBIDDEN, "The attestation does not vouch for the key"
)
CHALLENGE_UNKNOWN = _problem(
    "challenge-unknown", _S.CONFLICT, "The attestation answers no open challenge"
)
ATTESTATION_NOT_ASKED = _problem(
    "attestation-not-asked", _S.CONFLICT, "Devices enrol here without an attestation"
)
# Signed requests
SIGNATURE_NEEDED = _problem(
    "signature-needed", _S.UNAUTHORIZED, "The request must be signed"
)
SIGNATURE_INVALID = _problem(
    "signature-invalid",
    _S.UNAUTHORIZED,
    "The signature is not of this request, or covers too little",
)
SIGNATURE_STALE = _problem(
    "signature-stale", _S.UNAUTHORIZED, "The signature is too old, or of the future"
)
SIGNATURE_REPLAYED = _problem(
    "signature-replayed", _S.CONFLICT, "This very request came before"
)
BODY_NOT_SIGNED = _problem(
    "body-not-signed", _S.UNAUTHORIZED, "The body is not the one that was signed"
)
TOO_MANY_SIGNATURES = _problem(
    "too-many-signatures",
    _S.TOO_MANY_REQUESTS,
    "The device signs more requests than may be remembered",
    retry=True,
)
DEVICE_REVOKED = _problem("device-revoked", _S.FORBIDDEN, "The device is revoked")
# Check-in
IDEMPOTENCY_KEY_NEEDED = _problem(
    "idempotency-key-needed",
    _S.BAD_REQUEST,
    "A check-in needs an Idempotency-Key of 1 to 64 characters",
)
IDEMPOTENCY_KEY_REUSED = _problem(
    "idempotency-key-reused",
    _S.CONFLICT,
    "This Idempotency-Key belongs to an assignment that has ended",
)
# Models
MODEL_UNKNOWN = _problem("model-unknown", _S.NOT_FOUND, "No such model")
VERSION_UNKNOWN = _problem("version-unknown", _S.NOT_FOUND, "No such version")
TAG_UNKNOWN = _problem("tag-unknown", _S.NOT_FOUND, "No such tag")
MODEL_EXISTS = _problem(
    "model-exists", _S.CONFLICT, "A different model has this name already"
)
RANGE_NOT_SATISFIABLE = _problem(
    "range-not-satisfiable",
    _S.REQUESTED_RANGE_NOT_SATISFIABLE,
    "The file ends before the Range begins",
)
# Assignments
ASSIGNMENT_UNKNOWN = _problem("assignment-unknown", _S.NOT_FOUND, "No such assignment")
FOREIGN_ASSIGNMENT = _problem(
    "foreign-assignment", _S.FORBIDDEN, "The assignment belongs to another device"
)
WRONG_KIND = _problem(
    "wrong-kind", _S.CONFLICT, "The assignment asks for another kind of result"
)
LEASE_LAPSED = _problem(
    "lease-lapsed", _S.CONFLICT, "The assignment's lease has lapsed"
)
ROUND_CLOSED = _problem("round-closed", _S.CONFLICT, "The round takes no more results")
# Secure aggregation
SECAGG_NEEDED = _problem(
    "secagg-needed",
    _S.CONFLICT,
    "The round takes no result in the clear: it has to be joined",
)
ENCRYPTION_NEEDED = _problem(
    "encryption-needed", _S.CONFLICT, "The round takes encrypted results alone"
)
WRONG_CIPHERTEXT = _problem(
    "wrong-ciphertext",
    _S.UNPROCESSABLE_ENTITY,
    "The body is no encrypted result, or its device did not sign it for this round",
)
ENCRYPTION_KEY_UNKNOWN = _problem(
    "encryption-key-unknown", _S.NOT_FOUND, "No open round has this key"
)
NOT_SECURE = _problem("not-secure", _S.CONFLICT, "The round takes results in the clear")
COHORT_ENDED = _problem("cohort-ended", _S.CONFLICT, "The cohort's sum cannot be had")
LEFT_OUT = _problem("left-out", _S.CONFLICT, "The device is not among those that go on")
KEYS_REFUSED = _problem(
    "keys-refused",
    _S.UNPROCESSABLE_ENTITY,
    "The keys are unusable, or not signed by the device's key",
)
WRONG_SHARES = _problem(
    "wrong-shares",
    _S.UNPROCESSABLE_ENTITY,
    "Shares are missing, doubled or of the wrong devices",
)
WRONG_VECTOR = _problem(
    "wrong-vector", _S.UNPROCESSABLE_ENTITY, "The masked vector has another length"
)
BETWEEN_ROUNDS = _problem(
    "between-rounds",
    _S.SERVICE_UNAVAILABLE,
    "The task's next round opens in a moment and takes this then",
    retry=True,
)
ASSIGNMENT_ENDED = _problem(
    "assignment-ended", _S.CONFLICT, "The device gave this assignment up"
)
ALREADY_REPORTED = _problem(
    "already-reported",
    _S.CONFLICT,
    "A different result of this assignment was accepted before",
)
# Updates
DIGEST_NEEDED = _problem(
    "digest-needed", _S.BAD_REQUEST, "A body needs a Content-Digest with sha-256"
)
DIGEST_MISMATCH = _problem(
    "digest-mismatch", _S.BAD_REQUEST, "The body has another digest than it says"
)
UPDATE_TOO_LARGE = _problem(
    "update-too-large", _S.REQUEST_ENTITY_TOO_LARGE, "The body exceeds an update's size"
)
UNSUPPORTED_CODING = _problem(
    "unsupported-coding",
    _S.UNSUPPORTED_MEDIA_TYPE,
    "Content-Encoding must be identity, gzip or zstd",
)
BAD_CODING = _problem(
    "bad-coding", _S.BAD_REQUEST, "The body is not of its Content-Encoding"
)
INFLATES_TOO_FAR = _problem(
    "inflates-too-far",
    _S.REQUEST_ENTITY_TOO_LARGE,
    "The body inflates beyond an update's size",
)
MALFORMED_TENSORS = _problem(
    "malformed-tensors", _S.UNPROCESSABLE_ENTITY, "The body is no safetensors body"
)
LEFTOVER_BYTES = _problem(
    "leftover-bytes", _S.UNPROCESSABLE_ENTITY, "The body holds bytes of no tensor"
)
WRONG_METADATA = _problem(
    "wrong-metadata", _S.UNPROCESSABLE_ENTITY, "A metadata field is wrong"
)
UNKNOWN_ENCODING = _problem(
    "unknown-encoding", _S.UNPROCESSABLE_ENTITY, "The encoding is not taken here"
)
WRONG_TENSOR_NAMES = _problem(
    "wrong-tensor-names",
    _S.UNPROCESSABLE_ENTITY,
    "The tensors are not the manifest's, in its order",
)
WRONG_DTYPE = _problem(
    "wrong-dtype", _S.UNPROCESSABLE_ENTITY, "A tensor has the wrong dtype"
)
WRONG_SHAPE = _problem(
    "wrong-shape", _S.UNPROCESSABLE_ENTITY, "A tensor has the wrong shape"
)
NOT_FINITE = _problem(
    "not-finite", _S.UNPROCESSABLE_ENTITY, "The delta holds NaN or infinity"
)
WRONG_INDICES = _problem(
    "wrong-indices",
    _S.UNPROCESSABLE_ENTITY,
    "The places of a sparse update are out of range or not in rising order",
)
# Resumable uploads; the registered ones are those of the draft
UPLOAD_UNKNOWN = _problem("upload-unknown", _S.NOT_FOUND, "No such partial upload")
MISMATCHING_OFFSET = _problem(
    "mismatching-upload-offset",
    _S.CONFLICT,
    "The part does not begin where the upload ends",
    is_registered=True,
)
COMPLETED_UPLOAD = _problem(
    "completed-upload",
    _S.BAD_REQUEST,
    "The upload is complete already",
    is_registered=True,
)
INCONSISTENT_LENGTH = _problem(
    "inconsistent-upload-length",
    _S.BAD_REQUEST,
    "The lengths that requests give of an upload do not fit together",
    is_registered=True,
)
PART_FIELDS_NEEDED = _problem(
    "part-fields-needed",
    _S.BAD_REQUEST,
    "A part needs Upload-Offset and Upload-Complete",
)
NOT_A_PART = _problem(
    "not-a-part",
    _S.UNSUPPORTED_MEDIA_TYPE,
    "A part is application/partial-upload, without Content-Encoding",
)
TOO_MANY_PARTS = _problem(
    "too-many-parts", _S.CONFLICT, "The upload has as many parts as may be"
)
TOO_MANY_UPLOADS = _problem(
    "too-many-uploads",
    _S.SERVICE_UNAVAILABLE,
    "As much is kept of partial uploads as may be",
    retry=True,
)

# Evaluations
INVALID_EVALUATION = _problem(
    "invalid-evaluation",
    _S.UNPROCESSABLE_ENTITY,
    "The evaluation's sums contradict each other",
)
# Operator
DEVICE_UNKNOWN = _problem("device-unknown", _S.NOT_FOUND, "No such device")
TOKEN_UNKNOWN = _problem("token-unknown", _S.NOT_FOUND, "No such token")
TASK_UNKNOWN = _problem("task-unknown", _S.NOT_FOUND, "No such task")
TASK_EXISTS = _problem("task-exists", _S.CONFLICT, "A task has this name already")
UNSUITABLE_PLAN = _problem(
    "unsuitable-plan",
    _S.UNPROCESSABLE_ENTITY,
    "The plan asks for what its model cannot do",
)
TASK_ENDED = _problem("task-ended", _S.CONFLICT, "The task has ended")

ALL: Final[tuple[ProblemType, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, ProblemType)
)


def document(
    kind: ProblemType,
    detail: str | None = None,
    *,
    retry_after_s: float | None = None,
    **members: Any,  # noqa: ANN401 - extension members are any JSON
) -> dict[str, Any]:
    """Return the problem document, without members that are ``None``."""
    content = {
        "type": kind.type,
        "title": kind.title,
        "status": int(kind.status),
        "detail": detail,
        "retry_after_s": retry_after_s,
        **members,
    }
    return {key: value for key, value in content.items() if value is not None}
