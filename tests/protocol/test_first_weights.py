import numpy as np
import pytest

from coordinator.protocol import first_weights, tensors
from coordinator.protocol.first_weights import InvalidFirstWeights
from coordinator.protocol.manifest import Manifest
from tests.support.models import tiny_manifest

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.full(3, 7, np.float32)


def frozen_manifest() -> Manifest:
    """The tiny model with a kernel that is not trained."""
    manifest = tiny_manifest()
    kernel, *rest = manifest.tensors
    return manifest.model_copy(
        update={"tensors": (kernel.model_copy(update={"trainable": False}), *rest)}
    )


def test_some_tensors_are_enough_and_come_back_in_manifest_order() -> None:
    body = first_weights.write(
        frozen_manifest(), {"scale": BIAS[:1], "dense/kernel": KERNEL}
    )

    values = first_weights.read(frozen_manifest(), body)

    assert list(values) == ["dense/kernel", "scale"]
    np.testing.assert_array_equal(values["dense/kernel"], KERNEL)
    np.testing.assert_array_equal(values["scale"], BIAS[:1])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([("dense/kernel", KERNEL), ("other", BIAS)], "no tensor 'other'"),
        (
            [("dense/kernel", KERNEL.T.copy())],
            r"shape \(2, 3\), got F32 of shape \(3, 2\)",
        ),
        ([("dense/kernel", KERNEL.astype(np.float16))], "must be F32"),
        ([("dense/kernel", KERNEL * np.float32(np.nan))], "NaN or infinity"),
        ([("dense/bias", BIAS)], "frozen tensor dense/kernel is missing"),
    ],
    ids=["unknown", "shape", "dtype", "nan", "missing"],
)
def test_weights_of_another_model_are_refused(
    sent: list[tuple[str, np.ndarray]], said: str
) -> None:
    with pytest.raises(InvalidFirstWeights, match=said):
        first_weights.read(frozen_manifest(), tensors.write(sent, {}))


def test_bytes_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(InvalidFirstWeights, match="at least 8 bytes"):
        first_weights.read(tiny_manifest(), b"short")


def test_a_manifest_that_names_no_weights_is_written_as_before() -> None:
    manifest = tiny_manifest()

    named = manifest.model_copy(update={"weights": manifest.train})

    assert b'"weights"' not in manifest.to_json()
    assert Manifest.model_validate_json(manifest.to_json()) == manifest
    assert Manifest.model_validate_json(named.to_json()) == named
    assert named.artefacts == (manifest.train, manifest.infer, manifest.train)
