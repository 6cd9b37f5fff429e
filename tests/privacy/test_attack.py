"""An update in the clear gives its image away: why there are other modes."""

import numpy as np
import pytest

from benchmarks import inversion
from benchmarks.attack import Victims
from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.manifest import Vector


@pytest.fixture(scope="module")
def victims() -> Victims:
    return Victims(seed=0)


def attacked(victims: Victims, delta: Vector, device: int) -> float:
    found = inversion.reconstruct(victims.manifest, victims.weights, delta)
    return inversion.psnr(found, victims.image(device))


@pytest.mark.parametrize("encoding", ["f32", "q8"])
def test_one_clear_update_gives_its_image_away(
    victims: Victims, encoding: EncodingName
) -> None:
    assert attacked(victims, victims.seen_as(0, encoding), 0) >= 40


def test_a_noisy_sum_gives_less_away_than_anybody_could_guess(
    victims: Victims,
) -> None:
    guess = inversion.psnr(victims.mean_image(), victims.image(0))
    assert attacked(victims, victims.noisy_sum_of(range(50)), 0) < guess


def test_a_masked_update_gives_less_away_than_anybody_could_guess(
    victims: Victims,
) -> None:
    guess = inversion.psnr(victims.mean_image(), victims.image(0))
    assert attacked(victims, victims.seen_masked(0), 0) < guess


def test_an_encrypted_update_gives_less_away_than_anybody_could_guess(
    victims: Victims,
) -> None:
    guess = inversion.psnr(victims.mean_image(), victims.image(0))
    assert attacked(victims, victims.seen_encrypted(0), 0) < guess


def test_another_devices_update_gives_nothing_of_it_away(victims: Victims) -> None:
    guess = inversion.psnr(victims.mean_image(), victims.image(0))
    assert attacked(victims, victims.update(1).delta, 0) < guess


def test_the_gradient_of_the_mismatch_is_its_slope() -> None:
    rng = np.random.default_rng(0)
    layers = inversion.Convolution(
        kernel=rng.normal(size=(9, 32)), bias=rng.normal(size=32)
    )
    image, direction = rng.random((28, 28)), rng.normal(size=(28, 28))
    wanted = rng.random(13 * 13 * 32)
    _, gradient = layers.mismatch(image, wanted)

    step = 1e-7
    ahead, _ = layers.mismatch(image + step * direction, wanted)
    behind, _ = layers.mismatch(image - step * direction, wanted)

    slope = (ahead - behind) / (2 * step)
    assert np.vdot(gradient, direction) == pytest.approx(slope, rel=1e-4)
