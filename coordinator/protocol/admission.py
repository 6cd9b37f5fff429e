"""JSON bodies of those who decide who may call: tokens, operators, the audit log."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from coordinator.protocol.manifest import Record, Request, example
from coordinator.protocol.messages import PRINTABLE, Id

Label = Annotated[
    str,
    Field(
        min_length=1, max_length=80, pattern=PRINTABLE, description="For people's eyes."
    ),
]
RoleName = Literal["read", "run", "admin"]


class EnrolmentTokenRequest(Request):
    """Make an enrolment token."""

    model_config = example(name="pilot fleet", max_uses=200, valid_s=604_800)

    name: Label
    max_uses: int = Field(
        1,
        ge=1,
        le=10_000_000,
        description="Devices that may enrol with it; 1: one-time.",
    )
    valid_s: float = Field(
        86_400,
        gt=0,
        le=315_360_000,
        allow_inf_nan=False,
        description="Seconds until it expires.",
    )


class EnrolmentTokenState(Record):
    """An enrolment token, without its text."""

    id: Id
    name: str
    max_uses: int = Field(description="Devices that may enrol with it.")
    uses: int = Field(description="Devices that have.")
    created_at: AwareDatetime
    expires_at: AwareDatetime
    revoked_at: AwareDatetime | None


class NewEnrolmentToken(EnrolmentTokenState):
    """An enrolment token with its text, which is shown this once."""

    token: str = Field(description="Hand it to the app; only its hash is stored.")


class EnrolmentTokenList(Record):
    """Every enrolment token, newest first."""

    tokens: tuple[EnrolmentTokenState, ...]


class OperatorRequest(Request):
    """Admit an operator."""

    model_config = example(name="dashboard", role="read")

    name: Label
    role: RoleName = Field(
        description="read: look at everything; run: tasks and tags too; admin: tokens, "
        "operators and devices too."
    )


class OperatorState(Record):
    """An operator, without the token."""

    id: Id
    name: str
    role: RoleName = Field(description="What the operator may do.")
    created_at: AwareDatetime
    revoked_at: AwareDatetime | None


class NewOperator(OperatorState):
    """An operator with the token, which is shown this once."""

    token: str = Field(description="Bearer token; only its hash is stored.")


class OperatorList(Record):
    """Every operator, oldest first."""

    operators: tuple[OperatorState, ...]


class AuditEntry(Record):
    """One security decision. Its words never change; refusals alike are counted."""

    id: int = Field(description="Grows; ask for what is `after` the last one.")
    at: AwareDatetime
    decision: str = Field(description="What was decided, refused for one.")
    subject: str = Field(
        description="Id of the device, token or operator; empty where nobody is known."
    )
    by: str | None = Field(
        description="Id of the operator or of the enrolment token behind it."
    )
    reason: str | None = Field(description="Of a refusal: the problem's name.")
    times: int = Field(description="Refusals alike within that minute.")
    last_at: AwareDatetime = Field(description="When the last of them was.")


class AuditLog(Record):
    """Entries, oldest first."""

    entries: tuple[AuditEntry, ...]
