"""Cohorts that run without HTTP, whose devices vanish when they are told to."""

import dataclasses
import secrets
from collections.abc import Collection
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.protocol import device_keys
from coordinator.protocol.encodings import Report
from coordinator.protocol.manifest import Record
from coordinator.protocol.secagg import (
    cohort,
    device,
    parameters,
    scrutiny,
    stages,
    summands,
    unmasking,
)
from coordinator.protocol.secagg.masks import Words
from coordinator.protocol.secagg.messages import (
    Dealing,
    Reveal,
    Roster,
    Session,
    Survivors,
)
from coordinator.protocol.secagg.summands import CohortSum, Encoding

_Record = TypeVar("_Record", bound=Record)
POLICY = scrutiny.Policy()
SESSION = Session(
    id="0123456789abcdef" * 2,
    task="digits",
    round=3,
    attempt=2,
    model_sha256="ab" * 32,
    plan_sha256="cd" * 32,
)
REPORT = Report(examples=50, train_loss=1.5, train_accuracy=0.75)


def encoding(size: int = 12, **changes: object) -> Encoding:
    fields = {
        "size": size,
        "clip_norm": 2.0,
        "bits": 20,
        "max_devices": 200,
        "weighting": "examples",
        "max_examples": 100,
    }
    return Encoding.model_validate(fields | changes)


@dataclasses.dataclass
class Gathering:
    """A cohort, and all of its devices by index, with what they are to send."""

    cohort: cohort.Cohort
    states: dict[int, device.State]
    vectors: dict[int, Words]
    dealings: dict[int, Dealing] = dataclasses.field(default_factory=dict)
    bodies: dict[int, bytes] = dataclasses.field(default_factory=dict)
    reveals: dict[int, Reveal] = dataclasses.field(default_factory=dict)
    sharers: stages.Indices = frozenset()
    survivors: stages.Indices = frozenset()

    @property
    def everybody(self) -> set[int]:
        return {*self.states}

    @property
    def packed(self) -> dict[int, bytes]:
        return {index: dealing.packed() for index, dealing in self.dealings.items()}

    def roster(self, index: int) -> Roster:
        return over_the_wire(self.cohort.roster(index))

    def deal(self, indices: Collection[int]) -> None:
        for index in indices:
            self.states[index], dealing = device.deal(
                restored(self.states[index]), self.roster(index), POLICY
            )
            self.dealings[index] = over_the_wire(dealing)
            stages.check_dealing(self.cohort, index, dealing)
        self.sharers = stages.choose_sharers(self.cohort, self.dealings)

    def mask(self, indices: Collection[int]) -> None:
        for index in self.sharers & {*indices}:
            inbox = stages.inbox(self.cohort, self.sharers, self.packed, index)
            self.states[index], self.bodies[index] = device.mask(
                restored(self.states[index]), over_the_wire(inbox), self.vectors[index]
            )
        survivors = frozenset(self.bodies)
        stages.insist_survivors(self.cohort, self.sharers, survivors)
        self.survivors = survivors

    def reveal(self, indices: Collection[int]) -> None:
        told = over_the_wire(Survivors(indices=tuple(sorted(self.survivors))))
        for index in self.survivors & {*indices}:
            self.states[index], reveal = device.reveal(
                restored(self.states[index]), told, POLICY
            )
            self.reveals[index] = over_the_wire(reveal)
            stages.check_reveal(
                self.cohort, self.sharers, self.survivors, index, reveal
            )

    def unmask(self, *, threads: int = 1) -> CohortSum:
        total = unmasking.empty_sum(self.cohort.manifest.encoding)
        for index in self.survivors:
            unmasking.add_vector(
                total, self.bodies[index], self.cohort.manifest.encoding
            )
        return unmasking.unmask(
            self.cohort,
            self.sharers,
            self.survivors,
            self.reveals,
            total,
            threads=threads,
        )

    def expected(self) -> Words:
        """The plain sum of the survivors' vectors."""
        total = unmasking.empty_sum(self.cohort.manifest.encoding)
        for index in self.survivors:
            total += self.vectors[index]
        return total


def over_the_wire(message: _Record) -> _Record:
    """The record, as the other side reads it."""
    return type(message).model_validate_json(message.model_dump_json())


def restored(state: device.State) -> device.State:
    """The state, as a device that died reads it back."""
    return over_the_wire(state)


def gather(
    devices: int,
    *,
    dropout: float = 0.1,
    collusion: float = 0.1,
    minimum: int = 5,
    signed: bool = False,
    written: Encoding | None = None,
    seed: int = 0,
) -> Gathering:
    """A cohort of devices that have joined, each with a vector of its own."""
    written = written or encoding()
    states = {}
    members = []
    for _ in range(devices):
        name = secrets.token_hex(16)
        identity = ed25519.Ed25519PrivateKey.generate() if signed else None
        state = device.join(SESSION, name, identity)
        spki = device_keys.of(identity.public_key()).spki if identity else None
        members.append(
            cohort.admit(SESSION, name, spki, over_the_wire(state.announcement))
        )
        states[name] = state
    formed = cohort.form(
        "fedcba9876543210" * 2,
        SESSION,
        members,
        parameters=parameters.choose(devices, dropout=dropout, collusion=collusion),
        encoding=written,
        minimum=minimum,
    )
    rng = np.random.default_rng(seed)
    return Gathering(
        cohort=over_the_wire(formed),
        states={formed.indices[name]: state for name, state in states.items()},
        vectors={
            index: summands.encode(
                rng.standard_normal(written.size).astype(np.float32),
                REPORT,
                written,
                key=rng.bytes(32),
            )
            for index in range(devices)
        },
    )
