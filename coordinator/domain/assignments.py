"""The assignment: one device's leased place in a round."""

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping
from typing import Final

from coordinator.domain.errors import AlreadyReported, AssignmentEnded, LeaseLapsed
from coordinator.protocol.vocabulary import FailureReason


class State(enum.StrEnum):
    """Where an assignment is. The value is what the database stores."""

    LEASED = "leased"  # the device works on it until the lease ends
    ACCEPTED = "accepted"  # terminal: its result counts
    FAILED = "failed"  # terminal: the device gave up, saying why
    LAPSED = "lapsed"  # terminal: the lease ended in silence
    WITHDRAWN = "withdrawn"  # terminal: its result counted, and was erased in time


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.LEASED: frozenset({State.ACCEPTED, State.FAILED, State.LAPSED}),
    State.ACCEPTED: frozenset({State.WITHDRAWN}),
    State.FAILED: frozenset(),
    State.LAPSED: frozenset(),
    State.WITHDRAWN: frozenset(),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One device's leased place in a round."""

    id: str
    round_id: int  #: an asynchronous task moves a lease on to its next round
    base_version: int | None  #: it trains from; none: its round's, from older schemas
    device_id: str
    idempotency_key: str
    state: State
    leased_at: dt.datetime
    lease_expires_at: dt.datetime
    ended_at: dt.datetime | None
    failure: FailureReason | None

    def is_live(self, now: dt.datetime) -> bool:
        """Whether it holds a place that the device may still report on."""
        return self.state is State.LEASED and now < self.lease_expires_at

    def ended(
        self, state: State, *, now: dt.datetime, failure: FailureReason | None = None
    ) -> "Assignment":
        """Return the assignment as it ends in ``state``.

        Raises:
            AlreadyReported: A result was accepted before.
            AssignmentEnded: The device gave it up before.
            LeaseLapsed: The lease has run out.
            ValueError: ``state`` is no end.
        """
        if state not in TRANSITIONS[State.LEASED]:
            raise ValueError(f"an assignment cannot end as {state}")
        if self.state is State.ACCEPTED:
            raise AlreadyReported(self.id)
        if self.state is State.FAILED:
            raise AssignmentEnded(self.id)
        if self.state in {State.LAPSED, State.WITHDRAWN} or (
            state is not State.LAPSED and now >= self.lease_expires_at
        ):
            raise LeaseLapsed(self.id)
        return dataclasses.replace(self, state=state, ended_at=now, failure=failure)

    def withdrawn(self, *, now: dt.datetime) -> "Assignment":
        """Return the assignment without the result that was accepted.

        Raises:
            ValueError: None was.
        """
        if State.WITHDRAWN not in TRANSITIONS[self.state]:
            raise ValueError(f"assignment {self.id} is {self.state}")
        return dataclasses.replace(self, state=State.WITHDRAWN, ended_at=now)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many of a round's assignments are where."""

    live: int  #: leased and not lapsed
    accepted: int
    failed: int
    lapsed: int  #: by state or by the clock, and those withdrawn

    @property
    def reported(self) -> int:
        """Devices that sent a result or gave up."""
        return self.accepted + self.failed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """In which training rounds of a task a device's updates count."""

    rounds: int
    last_round: int | None  #: its number; none: in no round
