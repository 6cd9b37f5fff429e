"""Models and their versions."""

import dataclasses
import datetime as dt

from coordinator.protocol.manifest import Manifest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An architecture that the coordinator holds."""

    manifest: Manifest
    manifest_sha256: str  #: of its canonical JSON
    manifest_size_bytes: int

    @property
    def id(self) -> str:
        """Its name."""
        return self.manifest.model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published set of weights."""

    model: str
    number: int  #: from 0, over all tasks of the model
    task: str
    round_id: int | None  #: none: the first of its task
    weights_sha256: str
    size_bytes: int
    optimizer_sha256: str | None  #: state of the server optimizer, if it has any
    published_at: dt.datetime
