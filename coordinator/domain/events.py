"""What happens, as it is kept in the history."""

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping
from typing import Any, Final


class Happening(enum.StrEnum):
    """The types of event. The value is what the database stores."""

    DEVICE_ENROLLED = "device_enrolled"
    MODEL_REGISTERED = "model_registered"
    TASK_CREATED = "task_created"
    TASK_FINISHED = "task_finished"
    TASK_STOPPED = "task_stopped"
    ROUND_OPENED = "round_opened"
    ROUND_KEYED = "round_keyed"  # encryption: devices may encrypt what they trained
    ROUND_SHARING = "round_sharing"  # secure aggregation: those who joined are enough
    ROUND_MASKING = "round_masking"  # shares are dealt
    ROUND_UNMASKING = "round_unmasking"  # masked vectors are in
    COHORT_ENDED = "cohort_ended"  # its sum cannot be had; the others' can
    ROUND_AGGREGATING = "round_aggregating"  # it has its results
    ROUND_CLAIMED = "round_claimed"  # a worker folds it
    ROUND_HANDED_BACK = "round_handed_back"  # it could not be folded then
    ROUND_COMMITTED = "round_committed"
    ROUND_ABANDONED = "round_abandoned"
    VERSION_PUBLISHED = "version_published"
    PLACE_LEASED = "place_leased"
    DEVICE_JOINED = "device_joined"  # trained, and waits for its cohort
    RESULT_ACCEPTED = "result_accepted"
    RESULT_WITHDRAWN = "result_withdrawn"  # its device was erased, which freed a place
    PLACE_FREED = "place_freed"  # an asynchronous task was full, and is no more
    DEVICE_FAILED = "device_failed"  # a device gave up, which freed its place
    LEASE_LAPSED = "lease_lapsed"  # a device was silent, which freed its place
    VERSION_SCORED = "version_scored"
    TASK_ROLLED_BACK = "task_rolled_back"  # it goes on from another version
    TAG_SET = "tag_set"
    TAG_REMOVED = "tag_removed"


#: After one of these a device that waits may get another answer.
MAKES_WORK: Final = frozenset(
    {
        Happening.ROUND_OPENED,
        Happening.ROUND_KEYED,
        Happening.ROUND_SHARING,
        Happening.ROUND_MASKING,
        Happening.ROUND_UNMASKING,
        Happening.ROUND_AGGREGATING,
        Happening.RESULT_WITHDRAWN,
        Happening.PLACE_FREED,
        Happening.DEVICE_FAILED,
        Happening.LEASE_LAPSED,
        Happening.TASK_FINISHED,
        Happening.TASK_STOPPED,
        Happening.ROUND_COMMITTED,
        Happening.ROUND_ABANDONED,
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One event as it was kept."""

    id: int
    at: dt.datetime
    happening: Happening
    task: str | None
    round_id: int | None
    data: Mapping[str, Any]
