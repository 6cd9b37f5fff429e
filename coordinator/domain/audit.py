"""Security decisions, as the audit log keeps them."""

import dataclasses
import datetime as dt
import enum


class Decision(enum.StrEnum):
    """The kinds of decision. The value is what the database stores."""

    REFUSED = "refused"  # the reason is the problem's name
    DEVICE_ENROLLED = "device_enrolled"
    DEVICE_ENROLLED_AGAIN = "device_enrolled_again"  # the same key proved itself
    DEVICE_REVOKED = "device_revoked"
    KEY_ATTESTED = "key_attested"  # the reason is the security level
    ENROLMENT_TOKEN_MADE = "enrolment_token_made"  # noqa: S105 - no password
    ENROLMENT_TOKEN_REVOKED = "enrolment_token_revoked"  # noqa: S105 - no password
    OPERATOR_ADMITTED = "operator_admitted"  # the reason is the role
    OPERATOR_REVOKED = "operator_revoked"


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
