"""What a device remembers between two steps, as bytes and back."""

import base64
import dataclasses
import json
import uuid
from typing import Final, Self

from coordinator.protocol.messages import Assignment
from device_sim import identity, secure
from device_sim.residual import Residual

_RESIDUALS: Final = ("residual", "next_residual")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a device remembers. Exactly one of key and assignment leads on."""

    check_in_key: str  #: Idempotency-Key of the check-in that is not answered yet
    device_id: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    #: The private key, and whether it and not the token proves who calls.
    key: str | None = dataclasses.field(default=None, repr=False)
    signs: bool = False
    assignment: Assignment | None = None
    body: bytes | None = dataclasses.field(default=None, repr=False)  #: to be sent
    body_sha256: str | None = None
    is_sealed: bool = False  #: whether that body is encrypted already
    #: Of secure aggregation: what the device must remember between its steps.
    part: secure.Part | None = dataclasses.field(default=None, repr=False)
    contributions: int = 0  #: accepted updates
    #: What encodings left out of the last accepted update, and of the one to be sent.
    residual: Residual | None = dataclasses.field(default=None, repr=False)
    next_residual: Residual | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def new(cls) -> Self:
        """Return the state of a device that was never enrolled."""
        return cls(check_in_key=uuid.uuid4().hex, key=identity.new_key())

    @property
    def is_enrolled(self) -> bool:
        """Whether the coordinator knows the device."""
        return self.device_id is not None

    def to_json(self) -> bytes:
        """Return the bytes to keep; they hold the device's token and key."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        if self.assignment is not None:
            fields["assignment"] = self.assignment.model_dump(mode="json")
        if self.body is not None:
            fields["body"] = base64.b64encode(self.body).decode()
        if self.part is not None:
            fields["part"] = self.part.to_fields()
        for name in _RESIDUALS:
            if fields[name] is not None:
                fields[name] = fields[name].to_fields()
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: It did not write this.
        """
        fields = json.loads(content)
        if fields["assignment"] is not None:
            fields["assignment"] = Assignment.model_validate_json(
                json.dumps(fields["assignment"])
            )
        if fields["body"] is not None:
            fields["body"] = base64.b64decode(fields["body"], validate=True)
        if fields["part"] is not None:
            fields["part"] = secure.Part.from_fields(fields["part"])
        for name in _RESIDUALS:
            if fields[name] is not None:
                fields[name] = Residual.from_fields(fields[name])
        return cls(**fields)
