"""What ends a device's part in a cohort, and what ends a cohort."""

import enum


class SecAggRefused(ValueError):
    """The other side asks for, or sends, what would not be safe or cannot be right."""


class UnsuitableCohort(SecAggRefused):
    """No degree and threshold keep the promise for so many devices at such rates."""


class KeysRefused(SecAggRefused):
    """A device's keys are unusable, or not signed by its identity."""


class ForeignCohort(SecAggRefused):
    """The cohort is of another round, model or plan than what the device trained."""


class WeakCohort(SecAggRefused):
    """The cohort is too small, too large or too easily unmasked for this device."""


class WrongRoster(SecAggRefused):
    """The roster contradicts itself, or the device's own keys are not once in it."""


class WrongShares(SecAggRefused):
    """Shares are missing, doubled, of strangers, or cannot be opened."""


class WrongVector(SecAggRefused):
    """The vector has the wrong length, or holds NaN or infinity."""


class WrongSurvivors(SecAggRefused):
    """The survivors are too few, doubled, strangers, or lack the device itself."""


class OutOfStep(SecAggRefused):
    """The step was taken before with other content, or is not this one's turn."""


class AbortReason(enum.StrEnum):
    """Why a cohort comes to nothing."""

    TOO_FEW_SHARED = "too_few_shared"  # devices that dealt their shares out
    TOO_FEW_SURVIVED = "too_few_survived"  # devices whose masked vector came in
    TOO_FEW_REVEALED = "too_few_revealed"  # shares of some device's secret
    WRONG_SHARES = "wrong_shares"  # what shares rebuild is not what was announced
    WRONG_SUM = "wrong_sum"  # the sum does not count the survivors: a mask remains


class CohortAborted(Exception):
    """The cohort's sum cannot be had. Nothing about any vector was learnt."""

    def __init__(self, reason: AbortReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
