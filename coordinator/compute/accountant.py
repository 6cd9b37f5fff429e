"""What releases cost: epsilon, by ``dp-accounting``.

Where coins choose who takes part, a release is a truncated Poisson-subsampled Gaussian,
counted by its privacy loss distribution. That takes seconds, so it is worked out for
many numbers of releases at once and kept in memory. Where no claim is made of chance,
all releases that one device may be in are one Gaussian, which is exact and quick; so
are those of the banded square root, whose columns have length 1 and do not meet.

Source: Chua et al. 2024, "Scalable DP-SGD: Shuffling vs. Poisson Subsampling" (the
    cap); Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization", theorem
    on participations that are at least the bands apart.
"""

import importlib.metadata
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from coordinator.domain.privacy import Terms

_AT_ONCE: Final = 32  # numbers of releases
_WAIT_S: Final = 1.0
#: Of privacy losses, where noise is 1: ten times the library's own, and ten times as
#: quick. The bound stays one, because it is rounded up; epsilon grows by 0.2 % at most.
_INTERVAL: Final = 1e-3


def name(terms: Terms) -> str:
    """Return which accountant says so, and its version."""
    version = importlib.metadata.version("dp-accounting")
    how = "gaussian" if terms.sampling_rate is None else "pld truncated poisson"
    return f"dp-accounting {version} {how}"


class Accountant:
    """Works epsilon out, and remembers it."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._curves: dict[tuple[Terms, int], list[float]] = {}
        self._single: dict[Terms, Any] = {}  # the loss distribution of one release

    def epsilon(
        self, terms: Terms, releases: int, *, on_wait: Callable[[], None]
    ) -> float:
        """Return epsilon at ``terms.delta`` of so many releases.

        Args:
            terms: The same for all of them.
            releases: At least 0.
            on_wait: Called every second while it is worked out.
        """
        if releases == 0:
            return 0.0
        if terms.sampling_rate is None:
            return _gaussian(terms, releases)
        chunk, place = divmod(releases - 1, _AT_ONCE)
        if (terms, chunk) not in self._curves:
            with ThreadPoolExecutor(1, "accountant") as pool:
                working = pool.submit(self._curve, terms, chunk * _AT_ONCE + 1)
                self._curves[terms, chunk] = _waited_for(working, on_wait)
        return self._curves[terms, chunk][place]

    def _curve(self, terms: Terms, first: int) -> list[float]:
        """Return epsilon of ``first`` releases, and of each number after it."""
        if terms not in self._single:
            self._single[terms] = _truncated_poisson(terms)
        one = self._single[terms]
        all_so_far = one.self_compose(first)
        curve = [float(all_so_far.get_epsilon_for_delta(terms.delta))]
        for _ in range(_AT_ONCE - 1):
            all_so_far = all_so_far.compose(one)
            curve.append(float(all_so_far.get_epsilon_for_delta(terms.delta)))
        return curve


def _waited_for(
    working: "Future[list[float]]", on_wait: Callable[[], None]
) -> list[float]:
    while True:
        try:
            return working.result(timeout=_WAIT_S)
        except TimeoutError:
            on_wait()


def _gaussian(terms: Terms, releases: int) -> float:
    from dp_accounting import get_epsilon_gaussian  # noqa: PLC0415 - takes 2 s

    multiplier = terms.noise_multiplier / math.sqrt(terms.participations(releases))
    return float(get_epsilon_gaussian(multiplier, terms.delta))


def _truncated_poisson(terms: Terms) -> Any:  # noqa: ANN401 - the library has no types
    from dp_accounting import NeighboringRelation  # noqa: PLC0415 - takes 2 s
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415

    return privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=terms.population,
        sampling_probability=terms.sampling_rate,
        truncated_batch_size=terms.cap,
        noise_multiplier=terms.noise_multiplier,
        value_discretization_interval=_INTERVAL / max(1.0, terms.noise_multiplier),
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )
