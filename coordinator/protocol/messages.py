"""JSON bodies between a device and the coordinator. Times are UTC, RFC 3339."""

import datetime as dt
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field

from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.device_keys import MAX_CHARACTERS
from coordinator.protocol.encodings import MAX_EXAMPLES, MAX_LOSS
from coordinator.protocol.local_noise import LocalNoise
from coordinator.protocol.manifest import Name, Record, Request, Sha256, example
from coordinator.protocol.plan_training import TrainingPlan
from coordinator.protocol.vocabulary import FailureReason, Kind, WaitReason

PRINTABLE: Final = r"^[^\x00]*$"  # Postgres stores no zero byte
Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Capabilities(Request):
    """What a device can run."""

    runtime: str = Field(
        "litert", max_length=40, description="What executes the graphs."
    )
    runtime_version: str | None = Field(
        None, max_length=40, description="Version of that runtime."
    )


class EnrolRequest(Request):
    """A device introduces itself."""

    model_config = example(
        name="pixel-7",
        capabilities={
            "runtime": "litert",
            "runtime_version": "2.1.0",
        },
    )

    name: str | None = Field(
        None,
        max_length=80,
        pattern=PRINTABLE,
        description="A label for operators; need not be unique.",
    )
    capabilities: Capabilities = Capabilities()
    enrolment_token: str | None = Field(
        None,
        max_length=100,
        description="Where the coordinator enrols by token: the one for this device, "
        "or for its fleet.",
    )
    public_key: str | None = Field(
        None,
        max_length=MAX_CHARACTERS,
        description="The device's public key, Ed25519 or P-256: base64 of its DER "
        "SubjectPublicKeyInfo. A request that holds one is signed with it; the same "
        "key again is the same device.",
    )
    attestation: tuple[
        Annotated[str, Field(max_length=12_000, pattern="^[A-Za-z0-9+/]+={0,2}$")], ...
    ] = Field(
        (),
        max_length=10,
        strict=False,  # JSON has lists and no tuples
        description="Where the coordinator insists on it: the key's chain of "
        "certificates, leaf first, each the base64 of its DER.",
    )


class Enrolment(Record):
    """The device's identity. The token is shown this once."""

    device_id: Id = Field(description="Names the device in lists and logs.")
    auth: Literal["bearer", "signature"] = Field(
        "bearer",
        description="How the device proves itself in every later call: by `token`, or "
        "by a signature with its key.",
    )
    token: str | None = Field(
        description="Bearer token of every later call; only its hash is stored. "
        "Absent where calls are signed."
    )


class Challenge(Record):
    """What the attestation of a key has to answer."""

    challenge: str = Field(
        description="Base64 of 56 bytes: hand the bytes to the phone's key store as "
        "the attestation challenge of the new key."
    )
    expires_at: AwareDatetime


class CheckInRequest(Request):
    """A device asks for work."""

    model_config = example(wait_s=10)

    wait_s: float = Field(
        0,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Seconds that the answer may be held back until there is work; "
        "0 answers at once.",
    )
    encodings: tuple[EncodingName, ...] = Field(
        ("f32",),
        max_length=8,
        strict=False,  # JSON has lists and no tuples
        description="Encodings that the device can write, beside `f32`, which all can.",
    )


class Download(Record):
    """Immutable bytes to fetch once and keep; cacheable by anyone."""

    url: str = Field(description="Path on the coordinator.")
    sha256: Sha256 = Field(description="SHA-256 of the bytes, to verify and to cache.")
    size_bytes: int = Field(description="Length of the bytes.")


class SecAggTerms(Record):
    """The round takes sums of cohorts: join it with what was trained, and no report.

    Steps are at `path`: POST `/announcement`; then, each as soon as the answer to the
    GET has it, GET `/roster` and POST `/dealing`; GET `/inbox` and POST the masked
    vector to the assignment's `report_to`; GET `/survivors` and POST `/reveal`.
    """

    session: Id = Field(description="What is joined: other keys for every other.")
    path: str = Field(description="Path under which the steps are.")


class EncryptionTerms(Record):
    """The round takes encrypted results: ask for its key once there is a result.

    GET `path` answers with the key. The result is laid out as under `secagg`, each
    number modulo the key's, and encrypted; its body is the eight bytes `SHOALBFV`, the
    device's signature (64 bytes) and the ciphertexts, and goes to `report_to`.
    """

    session: Id = Field(description="What is joined: another key for every other.")
    path: str = Field(description="Where the key is asked for.")


class Assignment(Record):
    """A device's leased place in a round."""

    id: Id
    kind: Kind
    task: Name
    round: int = Field(description="Number of the round within its task, from 1.")
    attempt: int = Field(description="Attempt at this round, from 1.")
    model: Name
    version: int = Field(description="Version to start from or to score.")
    seed: int = Field(
        description="Mix with round and own identity for local randomness."
    )
    training: TrainingPlan | None = Field(
        description="How to train; absent for kind evaluate."
    )
    personalization: TrainingPlan | None = Field(
        None,
        description="For kind evaluate: how to fine-tune a copy of the version, whose "
        "score is then reported as `personalized` beside the version's own. Absent: "
        "not asked for.",
    )
    signature: str | None = Field(
        None,
        description="Signature of the training graph that trains so; its inputs beside "
        "examples, seed and weights are named as the fields of `training` and "
        "`personalization`. Absent without either.",
    )
    encoding: EncodingName = Field(
        "f32",
        description="Encoding that the update should have: the plan's if the device "
        "said that it can write it, else `f32`.",
    )
    topk_share: float | None = Field(
        None, description="Share of the elements to send; present with `topk`."
    )
    error_feedback: bool = Field(
        False,  # noqa: FBT003 - the default
        description="Whether to add to the delta what the encoding left out of the "
        "last accepted update.",
    )
    noise: LocalNoise | None = Field(
        None,
        description="What to do to the delta before it is written; absent: nothing.",
    )
    secagg: SecAggTerms | None = Field(
        None, description="Absent: what is reported is reported in the clear."
    )
    encryption: EncryptionTerms | None = Field(
        None, description="Absent: results are not encrypted."
    )
    manifest: Download = Field(description="JSON: tensors, signatures, artefacts.")
    train_graph: Download = Field(description="The training artefact, a .tflite file.")
    weights: Download = Field(
        description="The version's weights, safetensors in manifest order."
    )
    report_to: str = Field(
        description="Path to post the update or the evaluation to, by kind."
    )
    failure_to: str = Field(description="Path to post a failure to.")
    lease_expires_at: AwareDatetime = Field(
        description="From then on the place is another's and a report is refused."
    )
    lease_s: float = Field(
        ge=0,
        allow_inf_nan=False,
        description="Seconds of lease that were left when answered.",
    )
    max_report_bytes: int = Field(
        ge=0,
        description="Size that the report's body may have, before and after coding.",
    )


class CheckIn(Record):
    """Work, or how long to wait for it."""

    assignment: Assignment | None
    wait_reason: WaitReason | None = Field(description="Absent with an assignment.")
    retry_after_s: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="Seconds to the next check-in, this device's own; absent with an "
        "assignment.",
    )


class Receipt(Record):
    """The update is durable and will be counted once. Safe to forget it now."""

    assignment: Id
    sha256: Sha256 = Field(description="SHA-256 of the update as accepted.")
    size_bytes: int
    examples: int = Field(description="The weight it has in the mean.")
    accepted_at: AwareDatetime


class _Sums(Request):
    loss_sum: float = Field(
        ge=0,
        le=MAX_LOSS * MAX_EXAMPLES,
        allow_inf_nan=False,
        description="Sum of the examples' cross-entropies.",
    )
    correct: int = Field(ge=0, description="Examples whose likeliest class is right.")


class PersonalizedSums(_Sums):
    """Sums over the same test examples, by the fine-tuned copy of the version."""


class EvaluationReport(_Sums):
    """Sums over the device's own test examples."""

    model_config = example(
        examples=12,
        loss_sum=3.5,
        correct=11,
        personalized={"loss_sum": 1.5, "correct": 12},
    )

    examples: int = Field(
        ge=1, le=MAX_EXAMPLES, description="Test examples that were scored."
    )
    personalized: PersonalizedSums | None = Field(
        None,
        description="Where the assignment has `personalization`; absent from a device "
        "that could not fine-tune.",
    )


class EvaluationReceipt(Record):
    """The evaluation is durable and will be counted once."""

    assignment: Id
    accepted_at: AwareDatetime


class FailureReport(Request):
    """A device gives its assignment up, which frees the place."""

    model_config = example(reason="interrupted", detail="unplugged")

    reason: FailureReason = Field(strict=False)  # JSON has no enumerations
    detail: str | None = Field(
        None,
        max_length=500,
        pattern=PRINTABLE,
        description="What happened, for people; no content of the device.",
    )


class FailureReceipt(Record):
    """The place is free."""

    assignment: Id
    ended_at: dt.datetime
