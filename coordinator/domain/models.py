"""Models and their versions."""

import dataclasses
import datetime as dt
from typing import Final

from coordinator.protocol.manifest import Manifest

PRODUCTION: Final = "production"  #: the tag of the version that apps should run


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
    aggregate_norm: float | None  #: L2; none: no round made it, or an early one did
    published_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a version comes from, and whether its task goes on from it."""

    round_number: int | None  #: none: the first of its task
    base_version: int | None  #: that the round's devices started from
    is_current: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A name that points to a version until it is set anew."""

    model: str
    name: str
    version: int
    set_at: dt.datetime
