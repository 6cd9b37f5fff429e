"""How an update is written into a body, and weights into theirs.

A body is a safetensors container whose tensors hold the delta as ``deltas`` lays it
out, and whose metadata names the encoding and says what the device did. Weight and
metrics travel inside the body, so that its digest covers them.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np

from coordinator.protocol import deltas, tensors
from coordinator.protocol.deltas import Encoding, InvalidUpdate
from coordinator.protocol.digests import Bytes
from coordinator.protocol.manifest import Manifest, Vector

MAX_EXAMPLES: Final = 1 << 28  # so that example count times float32 is exact in float64
MAX_LOSS: Final = 1e9  # keeps sums over any number of devices finite
_METADATA_BYTES: Final = 2048
_ENTRY_BYTES: Final = 512


class WrongMetadata(InvalidUpdate):
    """A metadata field is missing, malformed or out of range."""


class UnknownEncoding(InvalidUpdate):
    """The metadata names an encoding that the coordinator does not take."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a device says of its delta: the weight and the metrics."""

    examples: int  #: distinct training examples used: the weight in the mean
    train_loss: float  #: mean over the examples seen, before each step
    train_accuracy: float  #: share of the examples seen that were right, in [0, 1]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update(Report):
    """What a device sends: a delta, its weight, its metrics."""

    delta: Vector  #: shape (manifest.trainable_size,), new minus old weights


def encode_update(
    manifest: Manifest,
    update: Update,
    *,
    encoding: deltas.EncodingName = "f32",
    topk_share: float = 1.0,
    rng: np.random.Generator | None = None,
) -> bytes:
    """Write an update's body. Run by the device.

    Args:
        manifest: The model.
        update: What to write.
        encoding: How the delta is laid out.
        topk_share: Share of the elements that ``topk`` keeps.
        rng: Rounds for ``q8``, which needs it.

    Raises:
        ValueError: The delta has the wrong shape or dtype, or ``rng`` is missing.
    """
    if update.delta.shape != (manifest.trainable_size,):
        raise ValueError(
            f"delta must have shape ({manifest.trainable_size},), "
            f"got {update.delta.shape}"
        )
    if update.delta.dtype != np.float32:
        raise ValueError(f"delta must be float32, got {update.delta.dtype}")
    if rng is None:
        if encoding == "q8":
            raise ValueError("q8 rounds at random and needs a generator")
        rng = np.random.default_rng(0)  # never drawn from
    metadata = {
        "encoding": encoding,
        "examples": str(update.examples),
        "train_accuracy": repr(float(update.train_accuracy)),
        "train_loss": repr(float(update.train_loss)),
    }
    chosen = deltas.writer(encoding, topk_share=topk_share)
    return tensors.write(chosen.write(manifest, update.delta, rng), metadata)


def check_update(
    manifest: Manifest,
    body: Bytes,
    *,
    max_examples: int,
    encodings: Collection[str] = deltas.NAMES,
) -> Report:
    """Check an update's body as it comes in. Run by the coordinator.

    Args:
        manifest: The model that the assignment names.
        body: The bytes after any content coding was undone.
        max_examples: The most examples the plan lets a device count.
        encodings: Those that the task takes.

    Raises:
        tensors.MalformedTensors: The bytes are no safetensors body.
        InvalidUpdate: They are one, but no update of this model.
    """
    container = tensors.read(body)
    _reader(container, encodings).check(manifest, container)
    return Report(
        examples=_examples(container.metadata, max_examples),
        train_loss=_number(container.metadata, "train_loss", MAX_LOSS),
        train_accuracy=_number(container.metadata, "train_accuracy", 1.0),
    )


def read_delta(manifest: Manifest, body: Bytes) -> Vector:
    """Read the delta of an update that was checked when it came in.

    Returns:
        shape (manifest.trainable_size,), float32; a view of ``body`` if it holds f32.

    Raises:
        tensors.MalformedTensors, InvalidUpdate: The bytes have changed since.
    """
    container = tensors.read(body)
    return _reader(container, deltas.NAMES).read(manifest, container)


def decode_update(manifest: Manifest, body: Bytes, *, max_examples: int) -> Update:
    """Check and read an update's body: ``check_update`` and ``read_delta`` in one."""
    report = check_update(manifest, body, max_examples=max_examples)
    return Update(
        delta=read_delta(manifest, body),
        examples=report.examples,
        train_loss=report.train_loss,
        train_accuracy=report.train_accuracy,
    )


def encode_weights(manifest: Manifest, weights: Vector) -> bytes:
    """Write a version's weights: every tensor, frozen ones too, in manifest order."""
    parts = [
        (spec.name, weights[spec.offset : spec.offset + spec.size].reshape(spec.shape))
        for spec in manifest.tensors
    ]
    return tensors.write(parts, {"model": manifest.model})


def decode_weights(manifest: Manifest, body: Bytes) -> Vector:
    """Read a version's weights. Returns shape (manifest.size,), a view of ``body``.

    Raises:
        tensors.MalformedTensors: The bytes are no safetensors body.
        InvalidUpdate: Names, shapes or dtypes are not the manifest's.
    """
    container = tensors.read(body)
    layout = [(spec.name, "F32", spec.shape) for spec in manifest.tensors]
    deltas.check_layout(container.entries, layout)
    return np.frombuffer(container.data, "<f4")


def max_update_bytes(manifest: Manifest) -> int:
    """Return the size in bytes that no well-formed update of this model exceeds."""
    # A tensor's entry is its name and under 200 bytes of shape and offsets.
    entries = sum(_ENTRY_BYTES + len(spec.name) for spec in manifest.trainable)
    return _METADATA_BYTES + entries + 4 * manifest.trainable_size


def _reader(container: tensors.Container, taken: Collection[str]) -> Encoding:
    name = container.metadata.get("encoding", "")
    chosen = deltas.reader(name) if name in taken else None
    if chosen is None:
        raise UnknownEncoding(
            f"encoding must be one of {', '.join(taken)}, got {name!a:.40}"
        )
    return chosen


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
