"""A device's part in secure aggregation: from a trained update to the last share.

``step`` takes one step and answers with the part as it is to be remembered. Keys and
shares are made in one step and sent in the next, so that what was sent is remembered
first: a device that is killed between the two sends the same again.
"""

import asyncio
import base64
import dataclasses
import enum
import os
from collections.abc import Mapping
from typing import Any, Final, Self, TypeVar

import numpy as np

from coordinator.protocol import digests, encodings
from coordinator.protocol.device_keys import PrivateKey
from coordinator.protocol.manifest import Manifest, Record
from coordinator.protocol.messages import Assignment, EvaluationReport
from coordinator.protocol.secagg import device, session, summands
from coordinator.protocol.secagg.masks import Words
from coordinator.protocol.secagg.messages import (
    Inbox,
    InboxAnswer,
    RosterAnswer,
    SurvivorsAnswer,
)
from coordinator.protocol.secagg.scrutiny import Policy
from coordinator.protocol.secagg.summands import Encoding
from coordinator.protocol.vocabulary import Kind
from device_sim import client
from device_sim.identity import Credential

_POLICY: Final = Policy()
_R = TypeVar("_R", bound=Record)


class Stage(enum.StrEnum):
    """What is done next."""

    JOIN = "join"  # announce the keys
    ASK_ROSTER = "ask_roster"  # and deal shares
    DEAL = "deal"  # send them
    ASK_INBOX = "ask_inbox"
    SEND = "send"  # mask the vector, and send it
    ASK_SURVIVORS = "ask_survivors"
    REVEAL = "reveal"
    DONE = "done"


ASKS: Final = (Stage.ASK_ROSTER, Stage.ASK_INBOX, Stage.ASK_SURVIVORS)
#: The masked vector is in; what is left to do helps the others.
COUNTED: Final = (Stage.ASK_SURVIVORS, Stage.REVEAL, Stage.DONE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a device adds to the sum."""

    manifest: Manifest
    body: bytes  #: an update as it would be sent in the clear, or an evaluation as JSON

    def vector(self, kind: Kind, encoding: Encoding, key: bytes) -> Words:
        """Lay it out as whole numbers; the key decides how it is rounded."""
        if kind is Kind.TRAIN:
            report = encodings.check_update(
                self.manifest, self.body, max_examples=encodings.MAX_EXAMPLES
            )
            delta = encodings.read_delta(self.manifest, self.body)
            return summands.encode(delta, report, encoding, key=key)
        scored = EvaluationReport.model_validate_json(self.body)
        report = encodings.Report(
            examples=scored.examples,
            train_loss=scored.loss_sum / scored.examples,
            train_accuracy=scored.correct / scored.examples,
        )
        nothing = np.zeros(encoding.size, np.float32)
        return summands.encode(nothing, report, encoding, key=key)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a device remembers of a cohort. Secret."""

    stage: Stage
    state: device.State = dataclasses.field(repr=False)
    rounding_key: bytes = dataclasses.field(repr=False)
    inbox: Inbox | None = None  #: while the vector is to be sent

    def to_fields(self) -> dict[str, Any]:
        """Return what to keep, as JSON."""
        return {
            "stage": self.stage,
            "state": self.state.model_dump_json(),
            "rounding_key": base64.b64encode(self.rounding_key).decode(),
            "inbox": None if self.inbox is None else self.inbox.model_dump_json(),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read what ``to_fields`` returned. Raises ValueError."""
        inbox = fields["inbox"]
        return cls(
            stage=Stage(fields["stage"]),
            state=device.State.model_validate_json(fields["state"]),
            rounding_key=base64.b64decode(fields["rounding_key"], validate=True),
            inbox=None if inbox is None else Inbox.model_validate_json(inbox),
        )


def begin(assignment: Assignment, device_id: str, identity: PrivateKey | None) -> Part:
    """Make keys for the round of an assignment; nothing is sent yet."""
    return Part(
        stage=Stage.JOIN,
        state=device.join(session.session_of(assignment), device_id, identity),
        rounding_key=os.urandom(32),
    )


async def step(
    part: Part,
    calls: client.Client,
    credential: Credential,
    assignment: Assignment,
    result: Result,
    *,
    wait_s: float,
) -> Part | float:
    """Take the next step. Returns the part after it, or seconds to wait for others.

    Raises:
        SecAggRefused: The coordinator asks for what would not be safe.
        Refused: The round or the cohort has gone on without this device, or ended.
        Unreachable, UnexpectedAnswer: As their names say.
    """
    steps = _Steps(calls, credential, assignment, wait_s)
    if part.stage in ASKS:
        return await _ask(part, steps)
    if part.stage is Stage.SEND:
        return await _mask_and_send(part, steps, result)
    return await _send(part, steps)


async def _ask(part: Part, steps: "_Steps") -> Part | float:
    """Ask what others did, and work out the answer to it; seconds: they still may."""
    state, stage, inbox = part.state, part.stage, part.inbox
    pause_s: float | None
    if stage is Stage.ASK_ROSTER:
        formed = await steps.ask(RosterAnswer, "roster")
        pause_s = formed.retry_after_s
        if formed.roster is not None:
            state, _ = await asyncio.to_thread(
                device.deal, state, formed.roster, _POLICY
            )
            stage, pause_s = Stage.DEAL, None
    elif stage is Stage.ASK_INBOX:
        dealt = await steps.ask(InboxAnswer, "inbox")
        pause_s = dealt.retry_after_s
        if dealt.inbox is not None:
            stage, inbox, pause_s = Stage.SEND, dealt.inbox, None
    else:
        told = await steps.ask(SurvivorsAnswer, "survivors")
        pause_s = told.retry_after_s
        if told.survivors is not None:
            state, _ = device.reveal(state, told.survivors, _POLICY)
            stage, pause_s = Stage.REVEAL, None
    if stage is part.stage:
        return pause_s or 0.0
    return dataclasses.replace(part, state=state, stage=stage, inbox=inbox)


async def _send(part: Part, steps: "_Steps") -> Part:
    """Send what was worked out."""
    state = part.state
    content: Record | None
    match part.stage:
        case Stage.JOIN:
            name, content, following = "announcement", state.announcement, ASKS[0]
        case Stage.DEAL:
            name, content, following = "dealing", state.dealing, ASKS[1]
        case _:
            name, content, following = "reveal", state.reveal, Stage.DONE
    if content is None:
        raise ValueError(f"there is no {name} yet")
    await steps.send(name, content)
    return dataclasses.replace(part, stage=following)


async def _mask_and_send(part: Part, steps: "_Steps", result: Result) -> Part:
    roster, inbox = part.state.roster, part.inbox
    if roster is None or inbox is None:
        raise ValueError("a vector is masked for a cohort")

    def mask() -> tuple[device.State, bytes]:
        plain = result.vector(
            steps.assignment.kind, roster.manifest.encoding, part.rounding_key
        )
        return device.mask(part.state, inbox, plain)

    state, body = await asyncio.to_thread(mask)
    await steps.upload(body)
    return dataclasses.replace(part, stage=Stage.ASK_SURVIVORS, state=state, inbox=None)


@dataclasses.dataclass(frozen=True, slots=True)
class _Steps:
    """Where the steps of an assignment are, and who takes them."""

    calls: client.Client
    credential: Credential
    assignment: Assignment
    wait_s: float

    async def send(self, name: str, content: Record) -> None:
        await self.calls.send(
            "POST",
            self._path(name),
            credential=self.credential,
            content=content.model_dump_json(exclude_none=True).encode(),
        )

    async def upload(self, body: bytes) -> None:
        await self.calls.send_update(
            self.credential,
            self.assignment.report_to,
            body=body,
            sha256=digests.sha256_hex(body),
            deadline=self.calls.monotonic() + self.assignment.lease_s,
        )

    async def ask(self, kind: type[_R], name: str) -> _R:
        body = await self.calls.send(
            "GET",
            f"{self._path(name)}?wait_s={self.wait_s:g}",
            credential=self.credential,
        )
        return client.parse(kind, body)

    def _path(self, name: str) -> str:
        if self.assignment.secagg is None:
            raise ValueError("the assignment's round takes results in the clear")
        return f"{self.assignment.secagg.path}/{name}"
