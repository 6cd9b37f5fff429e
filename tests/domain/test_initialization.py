import math
from typing import Literal

import numpy as np
import pytest

from coordinator.domain.initialization import draw_weights
from coordinator.protocol.manifest import (
    Artefact,
    Initializer,
    Manifest,
    Patch,
    TensorSpec,
    Vector,
)
from tests.support.models import tiny_manifest

Kind = Literal[
    "zeros",
    "ones",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
]
FAN_IN, FAN_OUT = 30, 20
SIZE = 40_000
GOLDEN = [
    0.2740704417228699,
    0.8702518343925476,
    0.6039971113204956,
    -0.6020408868789673,
    -0.43781372904777527,
    0.818414568901062,
    0.0,
    0.0,
    0.0,
    -0.4864427447319031,
]
#: name -> variance, by its paper
VARIANCES: dict[Kind, float] = {
    "glorot_uniform": 2 / 50,
    "glorot_normal": 2 / 50,
    "he_uniform": 2 / 30,
    "he_normal": 2 / 30,
    "lecun_uniform": 1 / 30,
    "lecun_normal": 1 / 30,
}
UNIFORM = [kind for kind in VARIANCES if kind.endswith("uniform")]
NORMAL = [kind for kind in VARIANCES if kind.endswith("normal")]


def manifest_of(*tensors: tuple[Kind, int]) -> Manifest:
    specs, patches, offset = [], [], 0
    for index, (kind, size) in enumerate(tensors):
        specs.append(
            TensorSpec(
                name=f"t{index}",
                shape=(size,),
                offset=offset,
                trainable=True,
                initializer=Initializer(kind=kind, fan_in=FAN_IN, fan_out=FAN_OUT),
            )
        )
        patches.append(Patch(tensor=f"t{index}", file_offset=4 * offset, axes=(0,)))
        offset += size
    graph = Artefact(file="x", size_bytes=4 * offset, sha256="0" * 64)
    return Manifest(
        model="x",
        description="",
        input_shape=(1,),
        classes=2,
        tensors=tuple(specs),
        signatures={},
        train=graph,
        infer=graph,
        patches=tuple(patches),
    )


def draw(kind: Kind, seed: int = 0) -> Vector:
    return draw_weights(manifest_of((kind, SIZE)), seed)


def test_the_weights_are_one_float32_vector_in_manifest_order() -> None:
    weights = draw_weights(manifest_of(("ones", 2), ("zeros", 3), ("ones", 1)), 5)
    assert weights.dtype == np.float32
    assert weights.tolist() == [1, 1, 0, 0, 0, 1]


def test_the_same_seed_draws_the_same_bits() -> None:
    manifest = tiny_manifest()
    weights = draw_weights(manifest, 7)
    np.testing.assert_array_equal(weights, draw_weights(manifest, 7))
    assert not np.array_equal(weights, draw_weights(manifest, 8))
    # Drawn once and written down: every machine and version draws these.
    assert weights.tolist() == GOLDEN


def test_a_tensor_draws_the_same_whatever_the_others_are() -> None:
    alone = manifest_of(("zeros", 5), ("he_normal", 7))
    crowded = manifest_of(("he_uniform", 90), ("he_normal", 7), ("glorot_normal", 3))
    np.testing.assert_array_equal(
        draw_weights(alone, 3)[5:12], draw_weights(crowded, 3)[90:97]
    )


def test_two_tensors_draw_different_values() -> None:
    weights = draw_weights(manifest_of(("he_normal", 9), ("he_normal", 9)), 3)
    assert not np.isin(weights[:9], weights[9:]).any()


@pytest.mark.parametrize("kind", VARIANCES)
def test_the_moments_are_those_of_the_law(kind: Kind) -> None:
    values = draw(kind).astype(np.float64)
    stddev = math.sqrt(VARIANCES[kind])
    # Five standard errors; the draw is the same each time.
    assert abs(values.mean()) < 5 * stddev / math.sqrt(SIZE)
    assert values.std() == pytest.approx(stddev, rel=5 / math.sqrt(2 * SIZE))


@pytest.mark.parametrize("kind", UNIFORM)
def test_a_uniform_law_fills_its_bounds(kind: Kind) -> None:
    values = np.abs(draw(kind))
    limit = np.float32(math.sqrt(3 * VARIANCES[kind]))  # Glorot: sqrt(6 / (in + out))
    assert values.max() <= limit
    assert values.max() > 0.999 * limit
    # A quarter of the values in each quarter of the range.
    counts, _ = np.histogram(values, bins=4, range=(0.0, float(limit)))
    assert np.abs(counts / SIZE - 0.25).max() < 5 * math.sqrt(0.25 * 0.75 / SIZE)


@pytest.mark.parametrize("kind", NORMAL)
def test_a_normal_law_is_cut_at_two_deviations(kind: Kind) -> None:
    values = np.abs(draw(kind))
    # The variance is that after the cut, which leaves 0.8796 of a deviation.
    cut = 2 * math.sqrt(VARIANCES[kind]) / 0.879625661
    assert values.max() <= np.float32(cut)
    assert values.max() > 0.99 * cut
    within_one = (values < cut / 2).mean()
    expected = math.erf(1 / math.sqrt(2)) / math.erf(2 / math.sqrt(2))
    assert within_one == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(SIZE))


def test_what_is_given_is_kept_and_changes_no_other_draw() -> None:
    bias = np.array([1.5, -2.5, 3.5], np.float32)

    weights = draw_weights(tiny_manifest(), 7, {"dense/bias": bias})

    drawn = draw_weights(tiny_manifest(), 7)
    np.testing.assert_array_equal(weights[6:9], bias)
    np.testing.assert_array_equal(
        np.delete(weights, slice(6, 9)), np.delete(drawn, slice(6, 9))
    )
    np.testing.assert_array_equal(drawn[6:9], np.zeros(3))
