"""Who gets a place in a round."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

from coordinator.domain.assignments import Assignment, Counts, Participation, State
from coordinator.domain.rounds import Round
from coordinator.protocol.vocabulary import WaitReason

MAX_FAILURES: Final = 3  #: after so many a device waits for the next round


def reason_to_wait(
    round_: Round,
    counts: Counts,
    own: Sequence[Assignment],
    *,
    now: dt.datetime,
) -> WaitReason | None:
    """Return why a device gets no place in ``round_`` now, or ``None`` if it does.

    Args:
        round_: A round of a running task.
        counts: Where the round's assignments are.
        own: The device's own assignments in this round, none of them live.
        now: The present moment.
    """
    if not round_.takes_results(now):
        return WaitReason.NO_OPEN_ROUND
    if any(assignment.state is State.ACCEPTED for assignment in own):
        return WaitReason.ALREADY_REPORTED
    if sum(assignment.state is State.FAILED for assignment in own) >= MAX_FAILURES:
        return WaitReason.NO_OPEN_ROUND
    # An asynchronous round's places are for those who train now.
    accepted = 0 if round_.policy.is_asynchronous else counts.accepted
    if counts.live + accepted >= round_.policy.places:
        return WaitReason.ROUND_FULL
    return None


def reason_to_rest(round_: Round, took_part: Participation) -> WaitReason | None:
    """Return why a device that may have a place must not take part in this round.

    A device that took part in round r takes part again in round r + separation at the
    earliest. Its update counts in the round in which it lands, which is this one or, of
    an asynchronous task, a later one: the distance only grows.
    """
    policy = round_.policy
    if policy.max_rounds is not None and took_part.rounds >= policy.max_rounds:
        return WaitReason.CAP_REACHED
    if (
        policy.min_separation is not None
        and took_part.last_round is not None
        and round_.number < took_part.last_round + policy.min_separation
    ):
        return WaitReason.RESTING
    return None


def jittered(base_s: float, draw: float) -> float:
    """Return a wait in seconds, within half of ``base_s`` to either side.

    Args:
        base_s: Mean wait.
        draw: Uniform in [0, 1).
    """
    return base_s * (0.5 + draw)
