import copy
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.manifest import Manifest, Vector, patch_weights
from tests.support.models import INFER, tiny_manifest

MANIFEST = tiny_manifest()
DIGEST = "7ffd95eb2673f491b409df3c353ad8ef00c85afa91c047b32bf556733a31bdb8"
Fields = dict[str, Any]
Change = Callable[[Fields], object]


def changed(change: Change) -> Fields:
    fields = copy.deepcopy(MANIFEST.model_dump(mode="json"))
    change(fields)
    return fields


def with_tensor(index: int, **values: object) -> Change:
    return lambda fields: fields["tensors"][index].update(values)


def with_patch(index: int, **values: object) -> Change:
    return lambda fields: fields["patches"][index].update(values)


def freeze_all(fields: Fields) -> None:
    for tensor in fields["tensors"]:
        tensor["trainable"] = False


def rename(name: str) -> Change:
    def change(fields: Fields) -> None:
        fields["tensors"][2]["name"] = fields["patches"][2]["tensor"] = name

    return change


def test_a_manifest_counts_its_parameters() -> None:
    assert (MANIFEST.size, MANIFEST.trainable_size) == (10, 10)
    assert [tensor.size for tensor in MANIFEST.tensors] == [6, 3, 1]


def test_frozen_tensors_are_counted_but_not_trained() -> None:
    manifest = Manifest.model_validate(changed(with_tensor(1, trainable=False)))
    assert (manifest.size, manifest.trainable_size) == (10, 7)
    assert [tensor.name for tensor in manifest.trainable] == ["dense/kernel", "scale"]


def test_a_scalar_has_one_element() -> None:
    def change(fields: Fields) -> None:
        fields["tensors"][2]["shape"] = []
        fields["patches"][2]["axes"] = []

    manifest = Manifest.model_validate(changed(change))
    assert manifest.tensors[2].size == 1
    assert manifest.size == 10


def test_json_holds_everything_and_is_the_same_each_time() -> None:
    text = MANIFEST.to_json()
    again = Manifest.model_validate_json(text)
    assert again == MANIFEST
    assert again.to_json() == text
    assert text.endswith(b"}\n")
    # The digest names the manifest: other bytes would be another model.
    assert hashlib.sha256(text).hexdigest() == DIGEST


def test_the_order_of_fields_does_not_change_the_json() -> None:
    fields = MANIFEST.model_dump(mode="json")
    backwards = dict(reversed(fields.items()))
    assert Manifest.model_validate(backwards).to_json() == MANIFEST.to_json()


MISFITS: dict[str, tuple[Change, str]] = {
    "a hole": (with_tensor(1, offset=7), "bias must start at element 6, got 7"),
    "an overlap": (with_tensor(1, offset=5), "bias must start at element 6, got 5"),
    "a late start": (with_tensor(0, offset=1), "must start at element 0, got 1"),
    "a larger shape": (with_tensor(0, shape=[3, 3]), "at element 9, got 6"),
    "another order": (lambda fields: fields["tensors"].reverse(), "at element 0"),
    "a name twice": (with_tensor(1, name="scale"), "tensor names must be unique"),
    "nothing to train": (freeze_all, "at least one trainable tensor"),
    "no tensors": (lambda fields: fields.update(tensors=[]), "at least 1 item"),
    "a patch too few": (lambda fields: fields["patches"].pop(), "exactly once"),
    "a patch twice": (
        lambda fields: fields["patches"].append(fields["patches"][0]),
        "exactly once",
    ),
    "a patch of no tensor": (with_patch(0, tensor="kernel"), "exactly once"),
    "an axis too few": (with_patch(0, axes=[0]), r"axes \(0,\) do not permute"),
    "an axis twice": (with_patch(0, axes=[0, 0]), r"axes \(0, 0\) do not permute"),
    "no such axis": (with_patch(0, axes=[1, 2]), r"axes \(1, 2\) do not permute"),
    "a patch into the next": (with_patch(0, file_offset=65), "patches overlap"),
    "a patch into the one before": (with_patch(2, file_offset=99), "patches overlap"),
    "patches in one place": (with_patch(2, file_offset=64), "patches overlap"),
    "a patch past the end": (with_patch(2, file_offset=108), "reaches past the end"),
    "a patch before the start": (with_patch(0, file_offset=-1), "equal to 0"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_a_layout_that_does_not_fit_is_refused(change: Change, message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Manifest.model_validate(changed(change))


def test_patches_may_touch_and_reach_the_last_byte() -> None:
    size = len(INFER)
    at_the_end = Manifest.model_validate(changed(with_patch(2, file_offset=size - 4)))
    assert at_the_end.patches[2].file_offset == 107
    touching = Manifest.model_validate(changed(with_patch(2, file_offset=60)))
    assert touching.patches[2].file_offset == 60


OUT_OF_RANGE: dict[str, Change] = {
    "another format": lambda fields: fields.update(format=2),
    "one class": lambda fields: fields.update(classes=1),
    "an empty example": lambda fields: fields.update(input_shape=[0]),
    "a field nobody knows": lambda fields: fields.update(surprise=1),
    "an empty tensor": with_tensor(0, shape=[0, 3]),
    "negative sizes": with_tensor(0, shape=[-2, -3]),
    "another dtype": with_tensor(0, dtype="float16"),
    "no fan": with_tensor(0, initializer={"kind": "ones", "fan_in": 0, "fan_out": 1}),
    "no such law": with_tensor(0, initializer={"kind": "x", "fan_in": 1, "fan_out": 1}),
    "a file elsewhere": lambda fields: fields["train"].update(file="../train.tflite"),
    "an empty file": lambda fields: fields["train"].update(size_bytes=0),
    "a digest in capitals": lambda fields: fields["infer"].update(sha256="A" * 64),
    "a short digest": lambda fields: fields["infer"].update(sha256="a" * 63),
}


@pytest.mark.parametrize("change", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_a_field_out_of_its_range_is_refused(change: Change) -> None:
    with pytest.raises(pydantic.ValidationError):
        Manifest.model_validate(changed(change))


@pytest.mark.parametrize(
    "name", ["", "..", "-a", "a/b", "a b", "a\n", "\u00e9", "a" * 65]
)
def test_a_model_that_fits_no_url_is_refused(name: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        Manifest.model_validate(changed(lambda fields: fields.update(model=name)))


# The last is safetensors' own key: no tensor of a body can have it as its name.
@pytest.mark.parametrize(
    "name", ["", "a b", "a\n", "\u00e9", "a" * 129, "__metadata__"]
)
def test_a_tensor_that_no_body_can_name_is_refused(name: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        Manifest.model_validate(changed(rename(name)))


def test_every_tensor_lies_where_its_patch_says() -> None:
    weights = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], np.float32)
    patched = patch_weights(INFER, MANIFEST, weights)
    # The kernel (2, 3) is stored as (3, 2), row by row: 1 4, 2 5, 3 6.
    values = struct.pack("<10f", 1, 4, 2, 5, 3, 6, 7, 8, 9, 10)
    assert patched == INFER[:64] + values + INFER[104:]
    assert INFER[64:104] == bytes(40)  # the artefact itself is untouched


@given(st.permutations(range(3)), st.integers(0, 2**32 - 1))
def test_a_patch_transposes_as_numpy_does(axes: list[int], seed: int) -> None:
    shape = (2, 3, 4)

    def change(fields: Fields) -> None:
        fields["tensors"] = fields["tensors"][:1]
        fields["tensors"][0]["shape"] = shape
        fields["patches"] = [{"tensor": "dense/kernel", "file_offset": 4, "axes": axes}]

    manifest = Manifest.model_validate(changed(change))
    weights = np.random.default_rng(seed).random(24, np.float32)
    patched = patch_weights(INFER, manifest, weights)
    stored = np.frombuffer(patched[4:100], "<f4")
    stored = stored.reshape([shape[axis] for axis in axes])
    for at in np.ndindex(shape):
        moved = tuple(at[axis] for axis in axes)
        assert stored[moved] == weights.reshape(shape)[at]
    assert (patched[:4], patched[100:]) == (INFER[:4], INFER[100:])


@pytest.mark.parametrize(
    ("infer", "weights", "message"),
    [
        (INFER[:-1], np.zeros(10, np.float32), "must have 111 bytes, got 110"),
        (INFER + b"\0", np.zeros(10, np.float32), "must have 111 bytes, got 112"),
        (INFER, np.zeros(9, np.float32), r"shape \(10,\), got float32 of shape \(9,\)"),
        (INFER, np.zeros((2, 5), np.float32), r"got float32 of shape \(2, 5\)"),
        (INFER, np.zeros(10), "got float64"),
    ],
)
def test_bytes_of_another_size_are_not_patched(
    infer: bytes, weights: Vector, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        patch_weights(infer, MANIFEST, weights)
