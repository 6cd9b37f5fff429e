"""JSON bodies between an operator and the coordinator. Times are UTC, RFC 3339."""

from typing import Any, Literal

from pydantic import AwareDatetime, Field

from coordinator.protocol.manifest import Name, Record, Request, Sha256, example
from coordinator.protocol.messages import Download, Id
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind


class TaskRequest(Request):
    """Start a task."""

    model_config = example(
        id="digits", plan={"model": "cnn", "rounds": 10, "round": {"goal": 50}}
    )

    id: Name = Field(description="Names the task in every URL; unique.")
    plan: Plan


class RoundState(Record):
    """One attempt at one round."""

    id: int
    task: Name
    kind: Kind
    number: int = Field(description="Round within the task, from 1.")
    attempt: int = Field(description="Attempt at this round, from 1.")
    phase: str = Field(
        description="collecting, aggregating, committed or abandoned; under secure "
        "aggregation also sharing, masking and unmasking, before it aggregates.",
    )
    base_version: int = Field(description="Version that the devices start from.")
    result_version: int | None = Field(description="Version it published, if any.")
    goal: int = Field(description="Results with which it closes.")
    minimum: int = Field(description="Results that it needs at its deadline.")
    places: int = Field(description="Most devices that hold a place at once.")
    assigned: int = Field(description="Devices that hold a live lease now.")
    reported: int = Field(description="Devices that sent a result or gave up.")
    accepted: int = Field(description="Results that count.")
    failed: int = Field(description="Devices that gave up, saying why.")
    lapsed: int = Field(description="Devices whose lease ran out.")
    bytes_up: int = Field(description="Bytes of accepted updates.")
    examples: int = Field(description="Examples behind the accepted results.")
    train_loss: float | None = Field(description="Mean, weighted by examples.")
    train_accuracy: float | None = Field(description="Mean, weighted by examples.")
    staleness_mean: float | None = Field(
        None,
        description="Rounds that its updates were behind, mean; asynchronous tasks.",
    )
    staleness_max: int | None = Field(None, description="The same, of the stalest.")
    opened_at: AwareDatetime
    deadline: AwareDatetime = Field(description="When the present phase ends.")
    closed_at: AwareDatetime | None = Field(description="When it reached its end.")
    reason: str | None = Field(
        description="Why it was abandoned, or its version gone back from."
    )


class TaskState(Record):
    """A task and where it is."""

    id: Name
    status: Literal["running", "finished", "stopped"]
    reason: str | None = Field(description="Why it stopped.")
    plan: Plan
    version: int = Field(
        description="Version that its next round starts from: mostly its newest."
    )
    rounds_committed: int = Field(description="Training rounds that published.")
    created_at: AwareDatetime
    open_rounds: tuple[RoundState, ...]


class RollbackRequest(Request):
    """Let a task go on from another of its versions."""

    model_config = example(version=3)

    version: int = Field(
        ge=0, le=2**31 - 1, description="A version that the task published."
    )


class TaskList(Record):
    """Every task, newest first."""

    tasks: tuple[TaskState, ...]


class RoundList(Record):
    """Every attempt at every round of a task, oldest first."""

    rounds: tuple[RoundState, ...]


class Score(Request):
    """How good a version is on some examples."""

    examples: int = Field(ge=1, le=2**53, description="Examples behind the figures.")
    loss: float = Field(ge=0, allow_inf_nan=False, description="Mean cross-entropy.")
    accuracy: float = Field(ge=0, le=1, description="Share of right answers.")


class Distribution(Record):
    """A figure of one device, over the devices of an evaluation.

    Quantiles are interpolated linearly between devices.
    """

    p10: float = Field(description="10 % of the devices are below it.")
    p25: float = Field(description="25 % are.")
    p50: float = Field(description="Median.")
    p75: float = Field(description="75 % are below it.")
    p90: float = Field(description="90 % are.")
    worst_tenth: float = Field(
        description="Mean of the lowest tenth of the devices, rounded up."
    )


class Personalized(Record):
    """How good a version is once each device has fine-tuned a copy of it.

    On the examples of `federated`. A device that did not fine-tune counts with the
    version as it is, which it would run.
    """

    devices: int = Field(description="Devices that fine-tuned.")
    score: Score
    distribution: Distribution | None = Field(
        description="Accuracy of one device; absent where under 10 fine-tuned."
    )
    change: Distribution | None = Field(
        description="What fine-tuning adds to the accuracy of one device, below 0 "
        "where it harms; absent where under 10 fine-tuned."
    )


class HeldOutReport(Request):
    """An operator's own measurement of a version on central held-out examples."""

    model_config = example(
        version=3, score={"examples": 1000, "loss": 0.31, "accuracy": 0.91}
    )

    version: int = Field(
        ge=0, le=2**31 - 1, description="A version that the task published."
    )
    score: Score


class VersionMetrics(Record):
    """What is known of how good one version is."""

    version: int = Field(description="Number within its model.")
    round: int | None = Field(description="Round that published it; none for the first")
    published_at: AwareDatetime
    train: Score | None = Field(description="As its devices saw it while training.")
    federated: Score | None = Field(
        description="On the devices' own test examples, summed over devices."
    )
    federated_devices: int | None = Field(description="Devices behind that figure.")
    federated_distribution: Distribution | None = Field(
        None, description="Accuracy of one device; absent for under 10 devices."
    )
    personalized: Personalized | None = Field(
        None, description="After fine-tuning, where the plan asks for that."
    )
    held_out: Score | None = Field(description="As the operator measured it centrally.")


class MetricsList(Record):
    """Every version of a task, oldest first."""

    versions: tuple[VersionMetrics, ...]


class PrivateRelease(Record):
    """One entry of a task's ledger."""

    number: int = Field(description="From 1.")
    round: int = Field(description="Round of the task.")
    clip_norm: float = Field(description="Longest that an update was, L2.")
    noise_multiplier: float = Field(
        description="Standard deviation of the noise, as a multiple of that."
    )
    epsilon: float = Field(description="Of this release and all before it.")
    released_at: AwareDatetime = Field(description="When its version was published.")


class PrivacyReport(Record):
    """What a task can give away of a device, and what that is worth.

    `epsilon` means nothing without the rest.
    """

    task: Name
    mechanism: str = Field(description="`off` where nothing is promised.")
    epsilon: float | None = Field(
        description="Of every release so far; null: there is no bound."
    )
    delta: float | None = Field(description="Chance with which it may not hold.")
    budget: float | None = Field(
        description="A release that would take epsilon beyond it does not happen."
    )
    unit: str | None = Field(description="Whose privacy it is.")
    adjacency: str | None = Field(description="Which two worlds look alike.")
    trusted: str | None = Field(description="Who could break it.")
    observer: str | None = Field(description="Against whom it holds.")
    accountant: str | None = Field(
        description="What worked epsilon out, and its version; null before the first "
        "release."
    )
    assumptions: tuple[str, ...] = Field(description="What must be so.")
    withheld: tuple[str, ...] = Field(description="What is not told for its sake.")
    not_covered: tuple[str, ...] = Field(description="What epsilon says nothing of.")
    releases: tuple[PrivateRelease, ...] = Field(description="The ledger.")


class ModelState(Record):
    """A model that the coordinator holds."""

    id: Name
    parameters: int
    trainable_parameters: int
    manifest_sha256: Sha256 = Field(description="SHA-256 of its canonical JSON.")
    versions: int = Field(description="How many versions were published.")
    newest_version: int | None = Field(description="None before its first task.")
    tags: dict[Name, int] = Field(description="Version by tag.")


class ModelList(Record):
    """Every model."""

    models: tuple[ModelState, ...]


class VersionState(Record):
    """A version of a model: where it comes from, how good it is, what it is called."""

    version: int = Field(description="Number within its model, over all its tasks.")
    task: Name = Field(description="The task that published it.")
    is_current: bool = Field(description="Whether its task goes on from it.")
    origin: Literal["seed", "weights", "round"] = Field(
        description="seed or weights: its task's first, drawn from the plan's seed or "
        "come with the model. round: its task trained it."
    )
    round: int | None = Field(description="Round of its task that published it.")
    base_version: int | None = Field(description="Version that this round began from.")
    aggregate_norm: float | None = Field(
        description="L2 norm of the round's mean delta; none where it was not kept."
    )
    published_at: AwareDatetime
    train: Score | None = Field(description="As its devices saw it while training.")
    federated: Score | None = Field(
        description="On the devices' own test examples, summed over devices."
    )
    federated_devices: int | None = Field(description="Devices behind that figure.")
    federated_distribution: Distribution | None = Field(
        None, description="Accuracy of one device; absent for under 10 devices."
    )
    personalized: Personalized | None = Field(
        None, description="After fine-tuning, where the plan asks for that."
    )
    held_out: Score | None = Field(description="As the operator measured it centrally.")
    tags: tuple[Name, ...] = Field(description="Names that point to it now.")


class VersionList(Record):
    """Versions of a model, newest first."""

    versions: tuple[VersionState, ...]


class TagRequest(Request):
    """Let a tag point to a version."""

    model_config = example(version=3)

    version: int = Field(ge=0, le=2**31 - 1, description="A version of the model.")


class TagState(Record):
    """The version that a tag points to now."""

    model: Name
    tag: Name = Field(description="The name, for instance production.")
    version: int = Field(description="Number within its model.")
    set_at: AwareDatetime = Field(description="Since when it points there.")
    weights: Download
    inference_file: str = Field(description="Path of the file that an app runs.")


class DeviceState(Record):
    """An enrolled device."""

    id: Id
    name: str | None
    enrolled_at: AwareDatetime
    accepted: int = Field(description="Results of this device that counted.")
    has_key: bool = Field(description="Whether it registered a key.")
    attestation: str | None = Field(
        description="How well the key is kept, where that was attested."
    )
    revoked_at: AwareDatetime | None
    erased_at: AwareDatetime | None


class RevokedDevice(Record):
    """A device that is shut out."""

    id: Id
    revoked_at: AwareDatetime


class DeviceList(Record):
    """Enrolled devices, newest first."""

    devices: tuple[DeviceState, ...]


class EventRecord(Record):
    """One thing that happened."""

    id: int = Field(description="Grows; resume a stream with Last-Event-ID.")
    at: AwareDatetime
    type: str
    task: Name | None
    round_id: int | None
    data: dict[str, Any]


class Health(Record):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Record):
    """All that a round needs is there."""

    status: Literal["ready"] = "ready"
    checks: dict[str, str] = Field(description="`ok`, by check.")
