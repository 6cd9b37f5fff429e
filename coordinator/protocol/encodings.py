"""How a delta is written into an update's body.

A body is a safetensors container whose tensors are the manifest's trainable ones, in
its order, and whose metadata names the encoding and says what the device did. Weight
and metrics travel inside the body, so that its digest covers them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from coordinator.protocol import tensors
from coordinator.protocol.digests import Bytes
from coordinator.protocol.manifest import Manifest, TensorSpec, Vector

MAX_EXAMPLES: Final = 1 << 28  # so that example count times float32 is exact in float64
MAX_LOSS: Final = 1e9  # keeps sums over any number of devices finite
_METADATA_BYTES: Final = 2048
_ENTRY_BYTES: Final = 512
F32: Final = "f32"
ENCODINGS: Final = (F32,)


class InvalidUpdate(ValueError):
    """The container is well formed, but it is no update of this model."""


class WrongMetadata(InvalidUpdate):
    """A metadata field is missing, malformed or out of range."""


class UnknownEncoding(InvalidUpdate):
    """The metadata names an encoding that the coordinator does not take."""


class WrongTensorNames(InvalidUpdate):
    """Tensors are missing, unknown or not in manifest order."""


class WrongDtype(InvalidUpdate):
    """A tensor has another dtype than the encoding says."""


class WrongShape(InvalidUpdate):
    """A tensor has another shape than the manifest says."""


class NotFinite(InvalidUpdate):
    """A value is NaN or infinite."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a device sends: a delta, its weight, its metrics."""

    delta: Vector  #: shape (manifest.trainable_size,), new minus old weights
    examples: int  #: distinct training examples used: the weight in the mean
    train_loss: float  #: mean over the examples seen, before each step
    train_accuracy: float  #: share of the examples seen that were right, in [0, 1]


def encode_update(manifest: Manifest, update: Update) -> bytes:
    """Write an update's body. Run by the device.

    Raises:
        ValueError: The delta has the wrong shape or dtype.
    """
    if update.delta.shape != (manifest.trainable_size,):
        raise ValueError(
            f"delta must have shape ({manifest.trainable_size},), "
            f"got {update.delta.shape}"
        )
    if update.delta.dtype != np.float32:
        raise ValueError(f"delta must be float32, got {update.delta.dtype}")
    metadata = {
        "encoding": F32,
        "examples": str(update.examples),
        "train_accuracy": repr(float(update.train_accuracy)),
        "train_loss": repr(float(update.train_loss)),
    }
    return b"".join(
        (_header(manifest.trainable, metadata), _little_endian(update.delta))
    )


def decode_update(manifest: Manifest, body: Bytes, *, max_examples: int) -> Update:
    """Read and check an update's body. Run by the coordinator.

    Args:
        manifest: The model that the assignment names.
        body: The bytes after any content coding was undone.
        max_examples: The most examples the plan lets a device count.

    Raises:
        tensors.MalformedTensors: The bytes are no safetensors body.
        InvalidUpdate: They are one, but no update of this model.
    """
    container = tensors.read(body)
    delta = _delta(manifest, container)
    if not np.isfinite(delta).all():
        raise NotFinite("the delta holds NaN or infinity")
    return Update(
        delta=delta,
        examples=_examples(container.metadata, max_examples),
        train_loss=_number(container.metadata, "train_loss", MAX_LOSS),
        train_accuracy=_number(container.metadata, "train_accuracy", 1.0),
    )


def read_delta(manifest: Manifest, body: Bytes) -> Vector:
    """Read the delta of an update that was checked when it came in.

    Returns:
        shape (manifest.trainable_size,), a view of ``body``.

    Raises:
        tensors.MalformedTensors, InvalidUpdate: The bytes have changed since.
    """
    return _delta(manifest, tensors.read(body))


def encode_weights(manifest: Manifest, weights: Vector) -> bytes:
    """Write a version's weights: every tensor, frozen ones too, in manifest order."""
    return b"".join(
        (
            _header(manifest.tensors, {"model": manifest.model}),
            _little_endian(weights),
        )
    )


def decode_weights(manifest: Manifest, body: Bytes) -> Vector:
    """Read a version's weights. Returns shape (manifest.size,), a view of ``body``.

    Raises:
        tensors.MalformedTensors: The bytes are no safetensors body.
        InvalidUpdate: Names, shapes or dtypes are not the manifest's.
    """
    container = tensors.read(body)
    _check_layout(container.entries, manifest.tensors)
    return np.frombuffer(container.data, "<f4")


def max_update_bytes(manifest: Manifest) -> int:
    """Return the size in bytes that no well-formed update of this model exceeds."""
    # A tensor's entry is its name and under 200 bytes of shape and offsets.
    entries = sum(_ENTRY_BYTES + len(spec.name) for spec in manifest.trainable)
    return _METADATA_BYTES + entries + 4 * manifest.trainable_size


def _delta(manifest: Manifest, container: tensors.Container) -> Vector:
    encoding = container.metadata.get("encoding")
    if encoding not in ENCODINGS:
        raise UnknownEncoding(
            f"encoding must be one of {ENCODINGS}, got {encoding!a:.40}"
        )
    _check_layout(container.entries, manifest.trainable)
    return np.frombuffer(container.data, "<f4")


def _header(specs: tuple[TensorSpec, ...], metadata: Mapping[str, str]) -> bytes:
    entries = [(spec.name, "F32", spec.shape) for spec in specs]
    return tensors.header_for(entries, metadata)


def _little_endian(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, "<f4").data.cast("B")


def _check_layout(
    entries: tuple[tensors.Entry, ...], specs: tuple[TensorSpec, ...]
) -> None:
    names = [entry.name for entry in entries]
    expected = [spec.name for spec in specs]
    if names != expected:
        raise WrongTensorNames(
            f"tensors must be {', '.join(expected)} in this order, got {names!a:.200}"
        )
    for entry, spec in zip(entries, specs, strict=True):
        if entry.dtype != "F32":
            raise WrongDtype(f"tensor {spec.name} must be F32, got {entry.dtype}")
        if entry.shape != spec.shape:
            raise WrongShape(
                f"tensor {spec.name} must have shape {spec.shape}, got {entry.shape}"
            )


def _examples(metadata: Mapping[str, str], most: int) -> int:
    text = metadata.get("examples", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10):  # noqa: PLR2004 - digits of 2**32
        raise WrongMetadata(f"examples must be a whole number, got {text!a:.40}")
    examples = int(text)
    if not 1 <= examples <= min(most, MAX_EXAMPLES):
        raise WrongMetadata(f"examples must lie in [1, {most}], got {examples}")
    return examples


def _number(metadata: Mapping[str, str], key: str, most: float) -> float:
    text = metadata.get(key, "")
    try:
        number = float(text)
    except ValueError:
        raise WrongMetadata(f"{key} must be a number, got {text!a:.40}") from None
    if not (math.isfinite(number) and 0 <= number <= most):
        raise WrongMetadata(f"{key} must be finite and in [0, {most}], got {number}")
    return number
