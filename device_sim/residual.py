"""What an encoding leaves out, kept for the next update."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from coordinator.protocol.manifest import Vector


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What an encoding left out of an update: the next one of the task makes it up."""

    task: str
    values: Vector  #: shape (manifest.trainable_size,)

    def to_fields(self) -> dict[str, str]:
        """Return it as JSON fields."""
        content = self.values.astype("<f4").tobytes()
        return {"task": self.task, "values": base64.b64encode(content).decode()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Read what ``to_fields`` wrote. Raises ValueError: It did not."""
        content = base64.b64decode(fields["values"], validate=True)
        values = np.frombuffer(content, "<f4").astype(np.float32)
        return cls(task=fields["task"], values=values)
