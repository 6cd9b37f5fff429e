"""The device: who trains."""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An enrolled device."""

    id: str
    name: str | None
    capabilities: Mapping[str, Any]  #: as messages.Capabilities states them
    enrolled_at: dt.datetime
