"""Security decisions, as the audit log keeps them."""

import dataclasses
import datetime as dt
import enum
from typing import Final, Self

#: Of a reason; beyond them subjects are not told apart any more, so that nobody who
#: only asks can fill the disk. Each reason has its own: results that come late, as they
#: do when a round ends, do not hide who tries keys.
MOST_SUBJECTS_A_MINUTE: Final = 50


class Decision(enum.StrEnum):
    """The kinds of decision. The value is what the database stores."""

    REFUSED = "refused"  # the reason is the problem's name
    DEVICE_ENROLLED = "device_enrolled"
    DEVICE_ENROLLED_AGAIN = "device_enrolled_again"  # the same key proved itself
    DEVICE_REVOKED = "device_revoked"
    DEVICE_ERASED = "device_erased"
    KEY_ATTESTED = "key_attested"  # the reason is the security level
    ENROLMENT_TOKEN_MADE = "enrolment_token_made"  # noqa: S105 - no password
    ENROLMENT_TOKEN_REVOKED = "enrolment_token_revoked"  # noqa: S105 - no password
    OPERATOR_ADMITTED = "operator_admitted"  # the reason is the role
    OPERATOR_REVOKED = "operator_revoked"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Refusals alike, of one minute."""

    reason: str  #: the problem's name
    subject: str  #: id of who was refused; empty: nobody is known
    times: int
    first_at: dt.datetime
    last_at: dt.datetime

    @property
    def minute(self) -> int:
        """In which they came, since 1970."""
        return int(self.first_at.timestamp()) // 60

    def and_more(self, later: Self) -> Self:
        """Return these and others alike as one."""
        return dataclasses.replace(
            self, times=self.times + later.times, last_at=later.last_at
        )

    def of_nobody(self) -> Self:
        """Return them without their subject."""
        return dataclasses.replace(self, subject="")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the audit log."""

    id: int
    at: dt.datetime
    decision: Decision
    subject: str  #: id of the device, token or operator; empty: nobody is known
    by: str | None  #: id of the operator or the enrolment token behind it
    reason: str | None
    times: int  #: refusals alike in that minute; 1 for every other decision
    last_at: dt.datetime
