"""Every fuzzer by name."""

from collections.abc import Mapping
from typing import Final

from tests.fuzz import data, identity, secagg, wire
from tests.fuzz.target import Target

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        *wire.TARGETS,
        *identity.TARGETS,
        *secagg.TARGETS,
        *data.TARGETS,
    )
}
