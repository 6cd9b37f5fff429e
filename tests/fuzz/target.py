"""What a fuzzer is: one decoder of bytes from outside, and how its bytes are spoilt."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tests.fuzz import mutations

Mutation = Callable[[bytes, np.random.Generator], bytes]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One decoder.

    ``run`` returns where the bytes were read, or refused as documented; whatever it
    raises is a find. Where bytes were read, it insists on what the decoder promises.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]  #: what is valid, and finds of old
    mutate: Mutation = mutations.spoil  #: knows the shape of the bytes
    max_bytes: int = 1 << 14
    peak_bytes: int = 16 << 20  #: most memory that one input may take
