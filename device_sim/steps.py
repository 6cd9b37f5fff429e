"""What a step of a device did, or what it waits for."""

import dataclasses
import enum

from coordinator.protocol.messages import Assignment
from coordinator.protocol.vocabulary import WaitReason


class Action(enum.StrEnum):
    """What a step did."""

    ENROLLED = "enrolled"
    CHECKED_IN = "checked_in"  # holds an assignment, or will ask again at once
    DOWNLOADED = "downloaded"
    TRAINED = "trained"
    SCORED = "scored"
    STEPPED = "stepped"  # took a step of secure aggregation
    REPORTED = "reported"  # the result was accepted
    GAVE_UP = "gave_up"  # the assignment ended without an accepted result


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """A piece of work is done; step again at once."""

    action: Action
    assignment: Assignment | None = None
    why: str | None = None  #: of GAVE_UP


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """There is no work; step again after ``seconds``."""

    seconds: float
    reason: WaitReason | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Vanished:
    """The device took ``assignment`` and went silent; step again once it is over."""

    assignment: Assignment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Every task has ended."""


Step = Progressed | Waiting | Vanished | Done
