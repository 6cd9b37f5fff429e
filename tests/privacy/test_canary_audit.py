"""An audit of the noise: canaries that try to be seen, in the code that releases.

In each round some of the devices send a direction of their own, five times as long as
is allowed. How well the released sum tells them from directions that nobody sent is
what a device loses: for a Gaussian mechanism of noise multiplier z the means of the two
lie at most 1 / z deviations apart. More than that refutes what was promised.

Source: Andrew et al. 2023, "One-shot Empirical Privacy Estimation for Federated
    Learning"; Dong et al. 2022, "Gaussian Differential Privacy".
"""

import dataclasses
import math
import secrets
from typing import Any
from unittest import mock

import numpy as np
import pytest

from coordinator.compute.private import PrivateFolder
from coordinator.domain.aggregation import Folded
from coordinator.domain.privacy import PrivateFold, RoundKeys
from coordinator.protocol import discrete_gaussian, fixed_point
from coordinator.protocol.manifest import Vector

SIZE = 60_000
CLIP = 0.5
HONEST, CANARIES, ROUNDS = 50, 50, 6
GREED = 5.0


def directions(rng: np.random.Generator, count: int) -> Vector:
    vectors = rng.standard_normal((count, SIZE), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@dataclasses.dataclass(frozen=True)
class Finding:
    """How far apart the scores are, in deviations: at least, and as estimated."""

    at_least: float
    estimate: float

    def refutes(self, noise_multiplier: float) -> bool:
        return self.at_least > 1 / noise_multiplier


def audit(settings: PrivateFold) -> Finding:
    """Run rounds through the code that releases, and tell canaries from no one."""
    rng = np.random.default_rng(0)
    folder, seen, unseen = PrivateFolder(), [], []
    for round_id in range(1, ROUNDS + 1):
        canaries, nobody = directions(rng, CANARIES), directions(rng, CANARIES)
        updates = [(1.0, GREED * CLIP * canary) for canary in canaries]
        updates += [(1.0, CLIP * vector) for vector in directions(rng, HONEST)]
        # By a secret of its own: an audit must not depend on one draw of the noise.
        keys = RoundKeys(settings.keys._secret, round_id)
        folded = folder.fold(
            updates,
            dataclasses.replace(settings, keys=keys),
            size=SIZE,
            clip_norm=None,
            on_progress=lambda _: None,
        )
        released = folded.mean * settings.denominator / CLIP
        seen += list(canaries @ released)
        unseen += list(nobody @ released)
    apart = (np.mean(seen) - np.mean(unseen)) / np.std(unseen, ddof=1)
    error = math.sqrt(2 / len(seen) + apart**2 / (2 * len(seen)))
    return Finding(at_least=apart - 1.96 * error, estimate=apart)


def promised(noise_multiplier: float) -> PrivateFold:
    return PrivateFold(
        clip_norm=CLIP,
        noise_multiplier=noise_multiplier,
        denominator=HONEST,
        keys=RoundKeys(bytes(range(32)), 0),
    )


@pytest.mark.parametrize("noise_multiplier", [1.0, 2.0])
def test_the_noise_that_was_promised_is_there(noise_multiplier: float) -> None:
    finding = audit(promised(noise_multiplier))

    assert not finding.refutes(noise_multiplier)
    # and the audit is no blind one: it finds most of what there is to find
    assert finding.estimate > 0.7 / noise_multiplier


def test_the_noise_is_no_less_with_a_secret_that_was_just_drawn() -> None:
    keys = RoundKeys(secrets.token_bytes(32), 0)

    # One in 40 audits of the right noise finds a little more: never half as much again.
    finding = audit(dataclasses.replace(promised(1.0), keys=keys))

    assert not finding.refutes(1 / 1.5)


@pytest.mark.parametrize(
    ("sold_as", "is_really"),
    [
        pytest.param(1.0, 0.5, id="halved noise"),
        pytest.param(2.0, 1.4, id="1.4 sold as 2"),
        pytest.param(1.0, 1e-9, id="no noise"),
    ],
)
def test_less_noise_than_promised_is_found(sold_as: float, is_really: float) -> None:
    sample = discrete_gaussian.sample

    def less(*args: object, stddev: float, **others: object) -> np.ndarray:
        return sample(*args, stddev=stddev * is_really / sold_as, **others)  # type: ignore[arg-type]

    with mock.patch.object(discrete_gaussian, "sample", less):
        finding = audit(promised(sold_as))

    assert finding.refutes(sold_as)


def test_a_clip_that_is_left_out_is_found() -> None:
    encode = fixed_point.encode

    def unclipped(delta: Vector, *, clip_norm: float, **others: object) -> np.ndarray:
        factor = max(1.0, fixed_point.length(delta) / clip_norm)
        short = (delta / factor).astype(np.float32)
        whole = encode(short, clip_norm=clip_norm, **others)  # type: ignore[arg-type]
        return np.rint(whole * factor).astype(np.int64)

    with mock.patch.object(fixed_point, "encode", unclipped):
        finding = audit(promised(1.0))

    assert finding.refutes(1.0)


def test_a_release_that_happens_twice_is_found() -> None:
    # Two releases of the same updates, averaged: what a crash must never leave.
    fold = PrivateFolder.fold

    def twice(
        self: PrivateFolder,
        updates: list[tuple[float, Vector]],
        settings: PrivateFold,
        **others: Any,  # noqa: ANN401 - as they are
    ) -> Folded:
        once = fold(self, updates, settings, **others)
        other = RoundKeys(bytes(32), settings.keys._round_id)
        again = fold(self, updates, dataclasses.replace(settings, keys=other), **others)
        return dataclasses.replace(once, mean=(once.mean + again.mean) / 2)

    with mock.patch.object(PrivateFolder, "fold", twice):
        finding = audit(promised(1.0))

    assert finding.refutes(1.0)
