"""How many neighbours a device has, and how many shares rebuild its secret.

With less than one chance in 2**40, counted over all devices of a cohort: those that
collude hold a threshold of anybody's shares, or honest survivors fall apart into groups
whose sums could be told apart. With less than one in 2**20, drop-outs make the sum
impossible to unmask.

The threshold exceeds half of the degree by so much that a coordinator that tells
devices different stories about who survived never gets both secrets of one (the
semi-malicious rule): each honest neighbour gives one share, those that collude two.

Source: Bell et al. 2020, theorems 3.10 and 4.3 with lemma 4.7; the formulas are those
    of Google's ``graph_parameter_finder.cc``.
"""

import dataclasses
import functools
import math
from typing import Final

from coordinator.protocol.secagg.refusals import UnsuitableCohort

MIN_DEVICES: Final = 5
MAX_DEVICES: Final = 200  #: of one cohort; a round may have several
_COMPLETE_BELOW: Final = 30  # devices: a sparser graph saves nothing yet
_SECURITY_BITS: Final = 40
_CORRECTNESS_BITS: Final = 20
_ROUNDING: Final = 1e-9  # 0.3 * 10 devices are 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The shape of a cohort."""

    degree: int  #: neighbours of each device
    threshold: int  #: shares that rebuild a secret


def choose(devices: int, *, dropout: float, collusion: float) -> Parameters:
    """Return the smallest degree and threshold that keep the promise.

    Args:
        devices: That joined.
        dropout: Share of them that may vanish after it.
        collusion: Share of them that may work with the coordinator.

    Raises:
        UnsuitableCohort: There are none.
    """
    for name, rate in (("dropout", dropout), ("collusion", collusion)):
        if not 0 <= rate < 1:
            raise UnsuitableCohort(f"{name} must lie in [0, 1), got {rate}")
    if not MIN_DEVICES <= devices <= MAX_DEVICES:
        raise UnsuitableCohort(
            f"a cohort has {MIN_DEVICES} to {MAX_DEVICES} devices, got {devices}"
        )
    if devices >= _COMPLETE_BELOW:
        sparse = smallest(devices, dropout=dropout, collusion=collusion)
        if sparse is not None:
            return sparse
    threshold = least_threshold(devices, devices - 1, collusion=collusion)
    remaining = devices - _share(devices, dropout) - 1
    if remaining < threshold:
        raise UnsuitableCohort(
            f"of {devices} devices, {threshold} neighbours must stay where a share of "
            f"{collusion:g} may collude, and {remaining} do where {dropout:g} drop out"
        )
    return Parameters(degree=devices - 1, threshold=threshold)


@functools.lru_cache(maxsize=1024)
def smallest(devices: int, *, dropout: float, collusion: float) -> Parameters | None:
    """Return the smallest even degree below the complete graph's; ``None``: none does.

    Whatever the number of devices.
    """
    lost = _share(devices, dropout)
    for degree in range(2, devices - 1, 2):
        if not is_connected(devices, degree, lost=lost + _share(devices, collusion)):
            continue
        threshold = least_threshold(devices, degree, collusion=collusion)
        short = sum(_ways(devices, devices - lost, degree)[:threshold])
        chance = short / math.comb(devices, degree)
        if chance < 2.0**-_CORRECTNESS_BITS / devices:
            return Parameters(degree=degree, threshold=threshold)
    return None


def is_connected(devices: int, degree: int, *, lost: int) -> bool:
    """Return whether the others stay in one piece when so many are taken out."""
    pairs = devices * (devices - degree - 1) / 2
    chance = pairs * math.comb(lost, degree) / math.comb(devices, degree)
    return chance < 2.0 ** -(_SECURITY_BITS + 1)


@functools.lru_cache(maxsize=1024)
def least_threshold(devices: int, degree: int, *, collusion: float) -> int:
    """Return the least threshold that is safe against so many that collude."""
    if degree == devices - 1:
        # All that collude may be among the neighbours, and are whole devices.
        corrupt = max(collusion * degree, _share(devices, collusion))
        return math.floor((degree + corrupt) / 2 + _ROUNDING) + 1
    ways = _ways(devices, _share(devices, collusion), degree)
    rare = 2.0 ** -(_SECURITY_BITS + 1) / devices
    total = math.comb(devices, degree)
    most = degree  # neighbours that collude, but for a rare chance
    more = 0  # ways to have more of them
    while most and (more + ways[most]) / total <= rare:
        more += ways[most]
        most -= 1
    return max(math.ceil((most + degree - 1.25) / 2) + 1, 2)


def _share(devices: int, rate: float) -> int:
    return math.floor(rate * devices + _ROUNDING)


def _ways(devices: int, marked: int, degree: int) -> list[int]:
    """Return in how many ways 0, 1, ... of a device's neighbours are marked ones.

    The hypergeometric distribution, in whole numbers: its tails matter at 2**-50.
    """
    return [
        math.comb(marked, count) * math.comb(devices - marked, degree - count)
        for count in range(degree + 1)
    ]
