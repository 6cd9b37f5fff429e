"""Who may call: devices, enrolment tokens, and operators with their roles."""

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping
from typing import Any, Final


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An enrolled device."""

    id: str
    name: str | None
    capabilities: Mapping[str, Any]  #: as messages.Capabilities states them
    enrolled_at: dt.datetime
    public_key: str | None = None  #: canonical base64 of its SPKI; none: bearer only
    attestation: str | None = None  #: security level that vouched for the key
    revoked_at: dt.datetime | None = None
    erased_at: dt.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """Lets so many devices enrol, until it ends or is revoked."""

    id: str
    name: str
    max_uses: int  #: 1: for one device
    uses: int
    created_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None

    def fault(self, now: dt.datetime) -> str | None:
        """Return why it admits nobody any more, or ``None`` if it does."""
        if self.revoked_at is not None:
            return "is revoked"
        if now >= self.expires_at:
            return "has expired"
        if self.uses >= self.max_uses:
            return "is used up"
        return None


class Role(enum.StrEnum):
    """What an operator may do; each role may do what those before it may."""

    READ = "read"  # look at everything
    RUN = "run"  # start, stop and roll back tasks, tag versions, record figures
    ADMIN = "admin"  # make and revoke tokens and operators, revoke devices


_ORDER: Final = tuple(Role)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A person or a script that operates the coordinator."""

    id: str
    name: str
    role: Role
    created_at: dt.datetime
    revoked_at: dt.datetime | None

    def may(self, role: Role) -> bool:
        """Whether the operator may do what needs ``role``."""
        return _ORDER.index(self.role) >= _ORDER.index(role)
