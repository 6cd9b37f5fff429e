"""The round: one collection of results, from opening to release.

                 goal reached, or deadline with the minimum
    collecting ------------------------------------------> aggregating
        |                                                       |
        | deadline below the minimum,             released      |  claimed too often,
        | or cancelled                                  v       v  or cancelled
    abandoned                                   committed / abandoned

Under secure aggregation three steps lie between, each with a deadline of its own, at
which those that are silent drop out. With fewer than the minimum left, the round is
abandoned.

    collecting --> sharing --> masking --> unmasking --> aggregating

*collecting*: devices check in, hold leased assignments and report. Its deadline ends it
whatever they do. *aggregating*: a worker claims the round until the deadline, which is
the worker's lease; when that passes, another worker may claim it, so a worker that dies
costs time and nothing else. A worker that lives and cannot fold it now, because a disk
is full, hands it back. *committed* and *abandoned* are terminal.
"""

import dataclasses
import datetime as dt
import enum
import math
from collections.abc import Mapping
from typing import Final

from coordinator.domain.errors import RoundClosed
from coordinator.protocol.vocabulary import Kind

FOLD_LEASE: Final = dt.timedelta(seconds=15)  # a worker that folds renews it
MAX_CLAIMS: Final = 5
HAND_BACK_PAUSE: Final = dt.timedelta(seconds=5)  # until it may be claimed again


class Phase(enum.StrEnum):
    """Where a round is. The value is what the database stores."""

    COLLECTING = "collecting"
    SHARING = "sharing"  # secure aggregation: devices deal shares of their secrets
    MASKING = "masking"  # they send masked vectors
    UNMASKING = "unmasking"  # they reveal what takes the masks out of the sum
    AGGREGATING = "aggregating"
    COMMITTED = "committed"  # terminal: a version or an evaluation is published
    ABANDONED = "abandoned"  # terminal: nothing leaves


class Event(enum.StrEnum):
    """What can happen to a round."""

    GOAL_REACHED = "goal_reached"  # the goal's last result was accepted
    MINIMUM_MET = "minimum_met"  # the deadline passed with enough results
    MINIMUM_MISSED = "minimum_missed"  # the deadline passed with too few
    GATHERED = "gathered"  # secure aggregation: those who joined are in cohorts
    SHARED = "shared"  # shares were dealt by as many as will deal
    MASKED = "masked"  # masked vectors came of as many as will send
    REVEALED = "revealed"  # the sums can be unmasked
    CLAIMED = "claimed"  # a worker took the round to fold it
    HANDED_BACK = "handed_back"  # the worker cannot fold it now, and lives
    RELEASED = "released"  # the result was published
    GIVEN_UP = "given_up"  # folding failed too often, or its result is unusable
    CANCELLED = "cancelled"  # an operator stopped the task


TRANSITIONS: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    Phase.COLLECTING: {
        Event.GOAL_REACHED: Phase.AGGREGATING,
        Event.MINIMUM_MET: Phase.AGGREGATING,
        Event.GATHERED: Phase.SHARING,
        Event.MINIMUM_MISSED: Phase.ABANDONED,
        Event.CANCELLED: Phase.ABANDONED,
    },
    Phase.SHARING: {
        Event.SHARED: Phase.MASKING,
        Event.MINIMUM_MISSED: Phase.ABANDONED,
        Event.CANCELLED: Phase.ABANDONED,
    },
    Phase.MASKING: {
        Event.MASKED: Phase.UNMASKING,
        Event.MINIMUM_MISSED: Phase.ABANDONED,
        Event.CANCELLED: Phase.ABANDONED,
    },
    Phase.UNMASKING: {
        Event.REVEALED: Phase.AGGREGATING,
        Event.MINIMUM_MISSED: Phase.ABANDONED,
        Event.CANCELLED: Phase.ABANDONED,
    },
    Phase.AGGREGATING: {
        Event.CLAIMED: Phase.AGGREGATING,
        Event.HANDED_BACK: Phase.AGGREGATING,
        Event.RELEASED: Phase.COMMITTED,
        Event.GIVEN_UP: Phase.ABANDONED,
        Event.CANCELLED: Phase.ABANDONED,
    },
    Phase.COMMITTED: {},
    Phase.ABANDONED: {},
}
TERMINAL: Final = frozenset(phase for phase, row in TRANSITIONS.items() if not row)
#: Phases of secure aggregation, in their order.
STEPS: Final = (Phase.SHARING, Phase.MASKING, Phase.UNMASKING)
_STEP_ENDS: Final[Mapping[Phase, Event]] = {
    Phase.SHARING: Event.SHARED,
    Phase.MASKING: Event.MASKED,
    Phase.UNMASKING: Event.REVEALED,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a round has enough results, and how long it waits for them."""

    goal: int
    minimum: int
    over_select: float  #: share of the goal, 0.3 = 30 % more places
    lease_s: float
    deadline_s: float
    concurrency: int | None = None  #: most live leases; none: synchronous
    max_rounds: int | None = None  #: of the task, that a device takes part in
    min_separation: int | None = None  #: rounds from one of them to the next
    sampling_rate: float | None = None  #: of secret coins; none: who comes first
    step_s: float | None = None  #: of secure aggregation; none: updates in the clear
    is_encrypted: bool = False  #: whether results are ciphertexts

    @property
    def is_secure(self) -> bool:
        """Whether devices join, and take steps of secure aggregation."""
        return self.step_s is not None

    @property
    def sums_unseen(self) -> bool:
        """Whether the coordinator sees sums, and no device's result."""
        return self.is_secure or self.is_encrypted

    @property
    def chooses_in_secret(self) -> bool:
        """Whether secret coins say who takes part, so that nobody may learn it."""
        return self.sampling_rate is not None

    @property
    def limits_participation(self) -> bool:
        """Whether earlier rounds decide who may take part."""
        return self.max_rounds is not None or self.min_separation is not None

    @property
    def is_asynchronous(self) -> bool:
        """Whether leases outlive the round, and updates land in the open one."""
        return self.concurrency is not None

    @property
    def places(self) -> int:
        """The most devices that hold a place; accepted ones too if synchronous."""
        if self.concurrency is not None:
            return self.concurrency
        return self.goal + math.ceil(round(self.goal * self.over_select, 9))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewRound:
    """A round before the database has named it."""

    task: str
    kind: Kind
    number: int  #: within the task, from 1
    attempt: int  #: from 1
    model: str
    base_version: int
    policy: Policy
    opened_at: dt.datetime

    @property
    def deadline(self) -> dt.datetime:
        """When collecting ends."""
        return self.opened_at + dt.timedelta(seconds=self.policy.deadline_s)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One attempt at one round."""

    id: int
    task: str
    kind: Kind
    number: int
    attempt: int
    model: str
    base_version: int
    policy: Policy
    phase: Phase
    deadline: dt.datetime  #: when the present phase ends
    opened_at: dt.datetime
    claims: int  #: how often a worker took it to fold
    owner: str | None  #: the worker that holds it
    result_version: int | None
    closed_at: dt.datetime | None
    reason: str | None
    revision: int  #: grows by one with every change
    session: str | None = None  #: what devices join; none: updates in the clear

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.phase in TERMINAL

    def takes_results(self, now: dt.datetime) -> bool:
        """Whether a device may still join or report."""
        return self.phase is Phase.COLLECTING and now < self.deadline

    def keeps_leases(self, now: dt.datetime) -> bool:
        """Whether a device that holds a place may go on with its work."""
        if self.policy.is_asynchronous:
            return not self.is_terminal
        return self.takes_results(now)

    def lease_end(self, now: dt.datetime) -> dt.datetime:
        """When a lease that begins now ends: with the round, unless asynchronous."""
        end = now + dt.timedelta(seconds=self.policy.lease_s)
        return end if self.policy.is_asynchronous else min(end, self.deadline)

    def after(
        self,
        event: Event,
        *,
        now: dt.datetime,
        owner: str | None = None,
        result_version: int | None = None,
        reason: str | None = None,
    ) -> "Round":
        """Return the round as ``event`` leaves it.

        Raises:
            RoundClosed: The phase does not take ``event``.
        """
        phase = TRANSITIONS[self.phase].get(event)
        if phase is None:
            raise RoundClosed(self.id, self.phase, event)
        deadline, claims = now, self.claims  # entered just now, it may be claimed
        if event is Event.CLAIMED:
            deadline, claims = now + FOLD_LEASE, claims + 1
        elif event is Event.HANDED_BACK:
            # The claim does not count: it did not kill its worker.
            deadline, claims = now + HAND_BACK_PAUSE, claims - 1
        elif phase in STEPS:
            deadline = now + dt.timedelta(seconds=self.policy.step_s or 0.0)
        return dataclasses.replace(
            self,
            phase=phase,
            deadline=deadline,
            claims=claims,
            owner=owner,
            result_version=result_version,
            closed_at=now if phase in TERMINAL else None,
            reason=reason,
            revision=self.revision + 1,
        )


def noted(round_: Round, reason: str) -> Round:
    """Return a round that has ended with what is to be said of it."""
    return dataclasses.replace(round_, reason=reason, revision=round_.revision + 1)


def due_event(
    round_: Round, *, now: dt.datetime, accepted: int, goal: int
) -> Event | None:
    """Return what has to happen to a collecting round now, if anything does.

    Args:
        round_: The round.
        now: The present moment.
        accepted: Results that count.
        goal: The policy's, or how many devices coins chose.
    """
    if round_.phase is not Phase.COLLECTING:
        return None
    is_full = accepted >= max(goal, round_.policy.minimum)
    if not is_full and now < round_.deadline:
        return None
    if accepted < round_.policy.minimum:
        return Event.MINIMUM_MISSED
    if round_.policy.is_secure:
        return Event.GATHERED
    return Event.GOAL_REACHED if is_full else Event.MINIMUM_MET


def step_event(round_: Round, *, left: int) -> Event:
    """Return what the end of a step of secure aggregation is for its round.

    Args:
        round_: In one of ``STEPS``.
        left: Devices that go on, in all cohorts together.
    """
    if left < round_.policy.minimum:
        return Event.MINIMUM_MISSED
    return _STEP_ENDS[round_.phase]
