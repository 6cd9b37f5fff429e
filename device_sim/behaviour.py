"""Every random choice of a simulated device, as a function of its seed.

Decided here: how (seed, round, attempt, device) become randomness, which devices of a
population come in a round, and which of them vanish. Two runs with one seed make the
same choices, whatever order the network gives their requests.
"""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np


class Purpose(enum.IntEnum):
    """Keeps streams of randomness apart that share a seed. Values must not change."""

    TRAINING = 1  # order of examples, seed of dropout layers
    DROPOUT = 2  # which devices vanish
    COHORT = 3  # which devices of a population come in a round
    TRACE = 4  # how fast and how well connected a device is
    INTERRUPTION = 5  # whether and when a device drops out of an assignment
    TIE = 6  # who is first of those that are equally early
    ATTACK = 7  # which devices are attackers
    PERSONALIZATION = 8  # as TRAINING, for the copy that an evaluation fine-tunes
    NETWORK = 9  # which bodies break off on their way, and where


def training_generator(
    *, seed: int, round_number: int, device: int
) -> np.random.Generator:
    """Return the generator of one device's training in one round.

    A round that is tried again gives the same device the same draws.

    Args:
        seed: The task's seed, at least 0.
        round_number: Round within the task.
        device: Index of the device within its swarm.
    """
    entropy = (int(Purpose.TRAINING), seed, round_number, device)
    return np.random.default_rng(np.random.SeedSequence(entropy))


def personalization_generator(
    *, seed: int, round_number: int, device: int
) -> np.random.Generator:
    """Return the generator of one device's fine-tuning in one evaluation."""
    entropy = (int(Purpose.PERSONALIZATION), seed, round_number, device)
    return np.random.default_rng(np.random.SeedSequence(entropy))


def trace_generator(*, seed: int, device: int | None = None) -> np.random.Generator:
    """Return the generator of a device's numbers; None: of who is in which group."""
    own = () if device is None else (device + 1,)
    return np.random.default_rng(
        np.random.SeedSequence((int(Purpose.TRACE), seed, *own))
    )


def dropout_generator(
    *, seed: int, round_number: int, attempt: int, device: int, before: int
) -> np.random.Generator:
    """Return the generator of whether and when a device drops out of an assignment.

    ``before`` counts how often it dropped out of this attempt already.
    """
    entropy = (int(Purpose.INTERRUPTION), seed, round_number, attempt, device, before)
    return np.random.default_rng(np.random.SeedSequence(entropy))


def attack_generator(*, seed: int) -> np.random.Generator:
    """Return the generator of who is an attacker."""
    return np.random.default_rng(np.random.SeedSequence((int(Purpose.ATTACK), seed)))


def tie_break(*, seed: int, round_number: int, device: int) -> float:
    """Return the number in [0, 1) that orders devices which are equally early."""
    entropy = (int(Purpose.TIE), seed, round_number, device)
    return np.random.default_rng(np.random.SeedSequence(entropy)).random()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Which devices of a swarm come, and how reliable they are.

    Of a population larger than ``devices`` another seeded choice of that size comes in
    each round, its cohort; every attempt at the round has the same one.

    Each attempt at a round loses the same number of devices, another seeded choice each
    time: a device vanishes with probability ``dropout``, and a round can still wait for
    exactly those that stay, so that a seed decides the result with dropout too.
    """

    devices: int  #: that come in each round
    population: int | None = None  #: all there are; None: as many as come
    dropout: float = 0.0
    flaky: float = 0.0  #: probability with which a body breaks off on its way
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers. Raises ValueError."""
        if self.population is not None and self.population < self.devices:
            raise ValueError(
                f"a population of {self.population} has no cohort of {self.devices}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not 0 <= self.flaky < 1:
            raise ValueError(f"flaky must lie in [0, 1), got {self.flaky}")

    def cohort(self, round_number: int) -> tuple[int, ...]:
        """Return the devices that come in a round, in ascending order."""
        if self.population is None or self.population == self.devices:
            return tuple(range(self.devices))
        drawn = np.random.default_rng(
            np.random.SeedSequence((int(Purpose.COHORT), self.seed, round_number))
        ).permutation(self.population)
        return tuple(sorted(drawn[: self.devices].tolist()))

    def comes(self, *, round_number: int, device: int) -> bool:
        """Whether ``device`` is in the cohort of a round."""
        return device in self.cohort(round_number)

    def network(self, device: int) -> Callable[[int], int | None]:
        """Return what says of each body of a device where it breaks off.

        It is handed a size in bytes and returns how many are sent, fewer than that;
        None: the network holds.
        """
        rng = np.random.default_rng(
            np.random.SeedSequence((int(Purpose.NETWORK), self.seed, device))
        )

        def cut(size: int) -> int | None:
            if not size or rng.random() >= self.flaky:
                return None
            return int(rng.integers(size))

        return cut

    @property
    def survivors(self) -> int:
        """How many devices report in any one attempt at a round, at least 1."""
        return max(1, self.devices - round(self.dropout * self.devices))

    def vanishes(self, *, round_number: int, attempt: int, device: int) -> bool:
        """Whether ``device`` takes its assignment and is not heard of again in it."""
        rank = self._rank_among_vanished(round_number, attempt, device)
        return rank is not None

    def vanishing_moment(
        self, *, round_number: int, attempt: int, device: int, moments: int
    ) -> int | None:
        """Return at which of so many moments ``device`` vanishes; None: it stays.

        Each has its equal share of those that vanish.
        """
        rank = self._rank_among_vanished(round_number, attempt, device)
        return None if rank is None else rank % moments

    def _rank_among_vanished(
        self, round_number: int, attempt: int, device: int
    ) -> int | None:
        if self.survivors == self.devices:
            return None
        order = np.random.default_rng(
            np.random.SeedSequence(
                (int(Purpose.DROPOUT), self.seed, round_number, attempt)
            )
        ).permutation(self.devices)
        cohort = self.cohort(round_number)
        vanished = [cohort[place] for place in order[self.survivors :]]
        return vanished.index(device) if device in vanished else None
