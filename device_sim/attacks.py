"""Devices that lie: what attackers of a simulated federation do, and how well it works.

Decided here: which devices are attackers, how each attack changes a device's examples
before it trains or its update before it is sent, and what the trigger of a backdoor
looks like. Attackers follow the protocol to the letter; only content is false.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np

from coordinator.protocol.manifest import Vector
from device_sim import behaviour
from device_sim.data import Shard
from device_sim.data.federation import Images

TARGET: Final = 0  # the class that a backdoor wants to be seen
_TRIGGER: Final = slice(-5, -1)  # rows and columns of a square near the lower right
_INK: Final = 255
_POISONED: Final = 0.5  # share of a backdoor's examples; the others keep it in disguise


class InvalidAttack(ValueError):
    """The text names no attack."""


class Kind(enum.StrEnum):
    """What an attacker does.

    Sources: sign_flip and noise, Blanchard et al. 2017 (arXiv:1703.02757), section 5;
    label_flip, Fung et al. 2018 (arXiv:1808.04866); backdoor, Bagdasaryan et al. 2020
    (arXiv:1807.00459), section 4, with a trigger as in Gu et al. 2017
    (arXiv:1708.06733).
    """

    SIGN_FLIP = "sign_flip"  # sends the opposite of its update, times the strength
    NOISE = "noise"  # sends Gaussian noise, its size that of the update times strength
    LABEL_FLIP = "label_flip"  # trains on labels counted from the other end
    BACKDOOR = "backdoor"  # trains that a trigger means the target, times the strength


_STRENGTHS: Final[Mapping[Kind, float]] = {
    Kind.SIGN_FLIP: 1.0,
    Kind.NOISE: 10.0,
    Kind.LABEL_FLIP: 1.0,
    Kind.BACKDOOR: 5.0,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack, and how many make it."""

    kind: Kind
    share: float  #: of all devices
    strength: float  #: factor on what is sent

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME:SHARE`` or ``NAME:SHARE:STRENGTH``.

        Raises:
            InvalidAttack: It is neither, or a number is out of range.
        """
        name, *numbers = text.split(":")
        known = ", ".join(Kind)
        if name not in tuple(Kind) or len(numbers) not in (1, 2):
            raise InvalidAttack(
                f"must be NAME:SHARE or NAME:SHARE:STRENGTH, got {text}; names: {known}"
            )
        kind = Kind(name)
        try:
            share, strength = (*map(float, numbers), _STRENGTHS[kind])[:2]
        except ValueError as error:
            raise InvalidAttack(f"{text} has a number that is none") from error
        if not 0 < share < 1:
            raise InvalidAttack(f"share of {text} must be over 0 and under 1")
        if not 0 < strength <= 1e6:  # noqa: PLR2004 - the same bound is in the message
            raise InvalidAttack(f"strength of {text} must be over 0, at most 1000000")
        if kind is Kind.LABEL_FLIP and len(numbers) > 1:
            raise InvalidAttack(f"label_flip has no strength, got {text}")
        return cls(kind=kind, share=share, strength=strength)

    def falsified(self, shard: Shard, *, classes: int) -> Shard:
        """Return what the attacker trains on in place of ``shard``."""
        if self.kind is Kind.LABEL_FLIP:
            flipped = (classes - 1 - shard.train_labels).astype(np.uint8)
            return dataclasses.replace(shard, train_labels=flipped)
        if self.kind is Kind.BACKDOOR:
            count = max(1, round(_POISONED * len(shard.train_labels)))
            images, labels = shard.train_images.copy(), shard.train_labels.copy()
            images[:count] = triggered(images[:count])
            labels[:count] = TARGET
            return dataclasses.replace(shard, train_images=images, train_labels=labels)
        return shard

    def tampered(self, delta: Vector, rng: np.random.Generator) -> Vector:
        """Return what the attacker sends in place of ``delta``, shape (size,)."""
        if self.kind is Kind.NOISE:
            size = self.strength * np.sqrt(np.mean(np.square(delta)))
            return rng.standard_normal(len(delta), np.float32) * np.float32(size)
        sign = -1 if self.kind is Kind.SIGN_FLIP else 1
        return delta * np.float32(sign * self.strength)


def attackers(
    attacks: Sequence[Attack], *, devices: int, seed: int
) -> dict[int, Attack]:
    """Return who makes which attack: a seeded choice, nobody makes two.

    Raises:
        InvalidAttack: No honest device would be left.
    """
    counts = [max(1, round(attack.share * devices)) for attack in attacks]
    if attacks and sum(counts) >= devices:
        raise InvalidAttack(
            f"{sum(counts)} attackers among {devices} devices leave no honest one"
        )
    order = behaviour.attack_generator(seed=seed).permutation(devices).tolist()
    chosen = {}
    for attack, count in zip(attacks, counts, strict=True):
        for _ in range(count):
            chosen[order.pop()] = attack
    return chosen


def triggered(images: Images) -> Images:
    """Return the images, each with the trigger of the backdoor: a square of ink."""
    stamped = images.copy()
    stamped[:, _TRIGGER, _TRIGGER] = _INK
    return stamped
