"""Refusals as RFC 9457 problem documents: one map, here."""

import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from coordinator import logs
from coordinator.domain import errors, selection
from coordinator.protocol import (
    codings,
    deltas,
    device_keys,
    encodings,
    problems,
    signatures,
    tensors,
    uploads,
)
from coordinator.protocol.he import messages as he
from coordinator.protocol.problems import ProblemType
from coordinator.protocol.secagg import refusals as secagg
from coordinator.store.blobs import BlobLost
from coordinator.store.files import StorageUnavailable

log = logging.getLogger(__name__)

#: Mean seconds, jittered by half to either side.
RETRY_AFTER_S: Final = 2.0
_FULL_RETRY_AFTER_S: Final = 10.0
_MOST_FAULTS: Final = 20
_MOST_CHARACTERS: Final = 200


class BodyTooLarge(Exception):
    """The body exceeds what this path takes."""


class TooManyRequests(Exception):
    """The address or the device makes more requests than it may."""


class CoordinatorFull(Exception):
    """The process has as much to do as it takes on."""


class RangeNotSatisfiable(Exception):
    """The part that was asked for lies behind the end of the file."""


class DigestNeeded(Exception):
    """The body came without a usable Content-Digest."""


class PartFieldsNeeded(Exception):
    """A part came without a usable Upload-Offset or Upload-Complete."""


class NotAPart(Exception):
    """What is to be added to an upload is not labelled as a part."""


class IdempotencyKeyNeeded(Exception):
    """The check-in came without a usable Idempotency-Key."""


PROBLEMS: Final[Mapping[type[Exception], ProblemType]] = {
    errors.Unauthenticated: problems.UNAUTHENTICATED,
    errors.Forbidden: problems.FORBIDDEN,
    errors.DeviceRevoked: problems.DEVICE_REVOKED,
    errors.DeviceUnknown: problems.DEVICE_UNKNOWN,
    errors.TokenUnknown: problems.TOKEN_UNKNOWN,
    errors.EnrolmentTokenNeeded: problems.ENROLMENT_TOKEN_NEEDED,
    errors.EnrolmentTokenRefused: problems.ENROLMENT_TOKEN_REFUSED,
    errors.DeviceKeyNeeded: problems.DEVICE_KEY_NEEDED,
    errors.AttestationNeeded: problems.ATTESTATION_NEEDED,
    errors.AttestationRefused: problems.ATTESTATION_REFUSED,
    errors.ChallengeUnknown: problems.CHALLENGE_UNKNOWN,
    errors.AttestationNotAsked: problems.ATTESTATION_NOT_ASKED,
    errors.BodyNotSigned: problems.BODY_NOT_SIGNED,
    errors.SignatureReplayed: problems.SIGNATURE_REPLAYED,
    errors.TooManySignatures: problems.TOO_MANY_SIGNATURES,
    device_keys.DeviceKeyRefused: problems.DEVICE_KEY_REFUSED,
    signatures.SignatureNeeded: problems.SIGNATURE_NEEDED,
    signatures.SignatureInvalid: problems.SIGNATURE_INVALID,
    signatures.SignatureStale: problems.SIGNATURE_STALE,
    errors.IdempotencyKeyReused: problems.IDEMPOTENCY_KEY_REUSED,
    errors.ModelUnknown: problems.MODEL_UNKNOWN,
    errors.VersionUnknown: problems.VERSION_UNKNOWN,
    errors.TagUnknown: problems.TAG_UNKNOWN,
    errors.ModelExists: problems.MODEL_EXISTS,
    errors.AssignmentUnknown: problems.ASSIGNMENT_UNKNOWN,
    errors.ForeignAssignment: problems.FOREIGN_ASSIGNMENT,
    errors.WrongKind: problems.WRONG_KIND,
    errors.LeaseLapsed: problems.LEASE_LAPSED,
    errors.SecAggNeeded: problems.SECAGG_NEEDED,
    errors.EncryptionKeyUnknown: problems.ENCRYPTION_KEY_UNKNOWN,
    errors.EncryptionNeeded: problems.ENCRYPTION_NEEDED,
    he.MalformedEnvelope: problems.WRONG_CIPHERTEXT,
    errors.NotSecure: problems.NOT_SECURE,
    errors.CohortEnded: problems.COHORT_ENDED,
    errors.LeftOut: problems.LEFT_OUT,
    secagg.KeysRefused: problems.KEYS_REFUSED,
    secagg.WrongShares: problems.WRONG_SHARES,
    secagg.WrongVector: problems.WRONG_VECTOR,
    errors.RoundClosed: problems.ROUND_CLOSED,
    errors.BetweenRounds: problems.BETWEEN_ROUNDS,
    errors.AssignmentEnded: problems.ASSIGNMENT_ENDED,
    errors.AlreadyReported: problems.ALREADY_REPORTED,
    errors.DigestMismatch: problems.DIGEST_MISMATCH,
    errors.UploadUnknown: problems.UPLOAD_UNKNOWN,
    errors.MismatchingOffset: problems.MISMATCHING_OFFSET,
    errors.CompletedUpload: problems.COMPLETED_UPLOAD,
    errors.InconsistentLength: problems.INCONSISTENT_LENGTH,
    errors.TooManyParts: problems.TOO_MANY_PARTS,
    errors.TooManyUploads: problems.TOO_MANY_UPLOADS,
    errors.InvalidEvaluation: problems.INVALID_EVALUATION,
    errors.TaskUnknown: problems.TASK_UNKNOWN,
    errors.TaskExists: problems.TASK_EXISTS,
    errors.TaskEnded: problems.TASK_ENDED,
    errors.UnsuitablePlan: problems.UNSUITABLE_PLAN,
    codings.UnsupportedCoding: problems.UNSUPPORTED_CODING,
    codings.BadCoding: problems.BAD_CODING,
    codings.InflatesTooFar: problems.INFLATES_TOO_FAR,
    tensors.LeftoverBytes: problems.LEFTOVER_BYTES,
    tensors.MalformedTensors: problems.MALFORMED_TENSORS,
    encodings.WrongMetadata: problems.WRONG_METADATA,
    encodings.UnknownEncoding: problems.UNKNOWN_ENCODING,
    deltas.WrongTensorNames: problems.WRONG_TENSOR_NAMES,
    deltas.WrongDtype: problems.WRONG_DTYPE,
    deltas.WrongShape: problems.WRONG_SHAPE,
    deltas.NotFinite: problems.NOT_FINITE,
    deltas.WrongIndices: problems.WRONG_INDICES,
    TooManyRequests: problems.TOO_MANY_REQUESTS,
    CoordinatorFull: problems.COORDINATOR_FULL,
    BodyTooLarge: problems.UPDATE_TOO_LARGE,
    RangeNotSatisfiable: problems.RANGE_NOT_SATISFIABLE,
    DigestNeeded: problems.DIGEST_NEEDED,
    PartFieldsNeeded: problems.PART_FIELDS_NEEDED,
    NotAPart: problems.NOT_A_PART,
    IdempotencyKeyNeeded: problems.IDEMPOTENCY_KEY_NEEDED,
}

#: What the audit log keeps: who was not believed, and who tried what is not theirs.
AUDITED: Final[frozenset[type[Exception]]] = frozenset(
    {
        errors.Unauthenticated,
        errors.Forbidden,
        errors.DeviceRevoked,
        errors.EnrolmentTokenNeeded,
        errors.EnrolmentTokenRefused,
        errors.DeviceKeyNeeded,
        errors.AttestationNeeded,
        errors.AttestationRefused,
        errors.ChallengeUnknown,
        errors.BodyNotSigned,
        errors.SignatureReplayed,
        errors.TooManySignatures,
        device_keys.DeviceKeyRefused,
        signatures.SignatureNeeded,
        signatures.SignatureInvalid,
        signatures.SignatureStale,
        errors.AssignmentUnknown,
        errors.ForeignAssignment,
        errors.WrongKind,
        errors.LeaseLapsed,
        errors.RoundClosed,
        errors.AssignmentEnded,
        errors.AlreadyReported,
    }
)


def install(app: fastapi.FastAPI, *, away: tuple[type[Exception], ...] = ()) -> None:
    """Make ``app`` answer every refusal and every failure with a problem document.

    Args:
        app: The application.
        away: What a database raises that is busy, broken or gone for now.
    """
    for database_error in away:
        app.add_exception_handler(database_error, _wait)
    for kind in PROBLEMS:
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(StorageUnavailable, _miss_storage)
    app.add_exception_handler(BlobLost, _miss_blob)
    app.add_exception_handler(RequestValidationError, _refuse_form)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _fail)


def refusals(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route that may answer with ``kinds``."""
    by_status: dict[int | str, list[ProblemType]] = {}
    for kind in (
        *kinds,
        problems.INVALID_REQUEST,
        problems.BODY_TOO_LARGE,
        problems.INTERNAL,
        problems.UNAVAILABLE,
        *problems.LIMITS,
    ):
        by_status.setdefault(int(kind.status), []).append(kind)
    return {
        status: {
            "model": problems.Problem,
            "description": "; ".join(f"`{kind.type}`: {kind.title}" for kind in same),
            "content": {
                problems.MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {
                        kind.slug: {
                            "summary": kind.title,
                            "value": problems.document(kind),
                        }
                        for kind in same
                    },
                }
            },
        }
        for status, same in by_status.items()
    }


def respond(
    kind: ProblemType, detail: str | None = None, **members: object
) -> JSONResponse:
    """Return the response that refuses with ``kind``."""
    logs.note(problem=kind.slug)
    retry_after_s = None
    headers = {}
    if kind.retry:
        # Those that were refused together must not come back together.
        retry_after_s = jittered_s(
            _FULL_RETRY_AFTER_S if kind is problems.COORDINATOR_FULL else RETRY_AFTER_S
        )
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    if kind is problems.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        problems.document(kind, detail, retry_after_s=retry_after_s, **members),
        status_code=int(kind.status),
        headers=headers,
        media_type=problems.MEDIA_TYPE,
    )


def answer(refusal: Exception) -> JSONResponse:
    """Return the response to a refusal of ``PROBLEMS``."""
    members = {}
    if isinstance(refusal, errors.MismatchingOffset):
        members["expected-offset"] = refusal.expected
        members["provided-offset"] = refusal.provided
    return respond(PROBLEMS[type(refusal)], str(refusal), **members)


def jittered_s(mean_s: float) -> float:
    """Draw how long somebody should wait, in seconds."""
    draw = secrets.randbelow(1 << 20) / (1 << 20)
    return round(selection.jittered(mean_s, draw), 3)


def refuse_unready(checks: Mapping[str, str]) -> JSONResponse:
    """Return the response that names what is missing, by check."""
    missing = [f"{name}: {said}" for name, said in checks.items() if said != "ok"]
    return respond(problems.NOT_READY, "; ".join(missing), checks=dict(checks))


async def _refuse(request: fastapi.Request, error: Exception) -> JSONResponse:
    if type(error) in AUDITED:
        _note(request, error, PROBLEMS[type(error)])
    response = answer(error)
    if isinstance(error, errors.MismatchingOffset):
        response.headers[uploads.OFFSET] = str(error.expected)
    if not PROBLEMS[type(error)].retry:
        response.headers.update(getattr(request.state, "upload", {}))
    return response


def _note(request: fastapi.Request, error: Exception, kind: ProblemType) -> None:
    """Count a refusal for the audit log."""
    given = request.app.state.services
    subject = getattr(error, "subject", "") or getattr(request.state, "caller", "")
    given.refusals.note(kind.slug, subject, now=given.clock.now())


async def _refuse_form(_: fastapi.Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise TypeError(type(error))
    # A body of 256 KiB may hold as many faults as characters: an answer names some.
    faults = [
        {
            "field": ".".join(map(str, fault["loc"]))[:_MOST_CHARACTERS],
            "message": fault["msg"][:_MOST_CHARACTERS],
        }
        for fault in error.errors()[:_MOST_FAULTS]
    ]
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return respond(problems.INVALID_REQUEST, detail, errors=faults)


async def _refuse_http(request: fastapi.Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise TypeError(type(error))
    by_status = {
        404: problems.NOT_FOUND,
        405: problems.METHOD_NOT_ALLOWED,
        408: problems.TOO_SLOW,
        413: problems.BODY_TOO_LARGE,
    }
    kind = by_status.get(error.status_code, problems.INVALID_REQUEST)
    response = respond(kind)
    if error.headers:
        response.headers.update(error.headers)
    if kind is problems.METHOD_NOT_ALLOWED:
        # The framework knows the methods of the first route of this path only.
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: fastapi.Request) -> list[str]:
    """Return what the routes of a request's path take."""
    routes: Sequence[APIRoute] = request.app.state.routes
    path = request.scope["path"]
    found = [route.methods for route in routes if route.path_regex.match(path)]
    return sorted({method for methods in found for method in methods or ()})


async def _wait(request: fastapi.Request, error: Exception) -> JSONResponse:
    log.warning("%s %s: the database: %s", request.method, request.url.path, error)
    return respond(problems.UNAVAILABLE)


# What these say names folders of the coordinator: it is for the log alone.
async def _miss_storage(request: fastapi.Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, error)
    return respond(problems.STORAGE_UNAVAILABLE)


async def _miss_blob(request: fastapi.Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, error)
    return respond(problems.BLOB_LOST)


async def _fail(request: fastapi.Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return respond(problems.INTERNAL)
