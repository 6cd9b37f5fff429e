"""Words that both ends and the coordinator's own records use alike."""

import enum


class Kind(enum.StrEnum):
    """What an assignment asks of a device."""

    TRAIN = "train"  # train on the own examples, post an update
    EVALUATE = "evaluate"  # score a version on the own test examples, post sums


class WaitReason(enum.StrEnum):
    """Why there is no work."""

    NO_OPEN_ROUND = "no_open_round"  # between rounds, or no task runs yet
    ROUND_FULL = "round_full"  # every place of the open round is leased
    ALREADY_REPORTED = "already_reported"  # this device's result is in
    RESTING = "resting"  # took part lately: the plan's min_separation
    CAP_REACHED = "cap_reached"  # took part in as many rounds as one device may
    TASKS_ENDED = "tasks_ended"  # every task has finished or stopped


class FailureReason(enum.StrEnum):
    """Why a device gives an assignment up."""

    INTERRUPTED = "interrupted"  # no longer idle, charging or on an unmetered network
    OUT_OF_MEMORY = "out_of_memory"
    NO_EXAMPLES = "no_examples"  # nothing to train on or to score
    BAD_DOWNLOAD = "bad_download"  # digest mismatch or unreadable file
    RUNTIME_ERROR = "runtime_error"  # the graph failed to run
    NOT_FINITE = "not_finite"  # training diverged on this device
    REFUSED = "refused"  # the coordinator refused the report
