"""The manifest: what a model's tensors, signatures and artefacts are.

All parameters of a model, frozen ones included, lie in one flat float32 vector in
manifest order. That vector is what the device's signatures take as ``weights``, what a
version's weights file holds, and what an update's delta is measured against.
"""

import itertools
import json
import math
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import JsonValue

Vector = npt.NDArray[np.float32]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, pydantic.Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
TensorName = Annotated[str, pydantic.Field(pattern="^[A-Za-z0-9_./-]{1,128}$")]


class Record(pydantic.BaseModel):
    """A frozen wire record that refuses fields it does not know."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Request(Record):
    """A record that comes in: types are what JSON says they are.

    No number is read out of a text or a boolean, and no whole number out of 1.0.
    """

    model_config = pydantic.ConfigDict(strict=True)


def example(**fields: JsonValue) -> pydantic.ConfigDict:
    """Return the configuration of a record that OpenAPI shows with this example."""
    return pydantic.ConfigDict(json_schema_extra={"examples": [fields]})


class Initializer(Record):
    """How a tensor's first values are drawn. Named as Keras names them."""

    kind: Literal[
        "zeros",
        "ones",
        "glorot_uniform",
        "glorot_normal",
        "he_uniform",
        "he_normal",
        "lecun_uniform",
        "lecun_normal",
    ]
    fan_in: int = pydantic.Field(ge=1, description="Inputs that feed one output.")
    fan_out: int = pydantic.Field(ge=1, description="Outputs that one input feeds.")


class TensorSpec(Record):
    """One tensor of the model."""

    name: TensorName
    shape: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = pydantic.Field(
        description="Length of each axis; none: a single number."
    )
    dtype: Literal["float32"] = pydantic.Field(
        "float32", description="Type of its elements, little-endian."
    )
    offset: int = pydantic.Field(
        ge=0, description="Index of its first element in the flat vector."
    )
    trainable: bool = pydantic.Field(
        description="False: frozen, never part of an update."
    )
    initializer: Initializer

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Argument(Record):
    """One input or output of a signature; ``None`` in a shape is any length."""

    name: str
    shape: tuple[int | None, ...] = pydantic.Field(
        description="Length of each axis; null: any."
    )
    dtype: Literal["float32", "int32"] = pydantic.Field(
        description="Type of its elements."
    )
    description: str = pydantic.Field(description="What it is, for people.")


class Signature(Record):
    """One callable of the training artefact."""

    description: str = pydantic.Field(description="What it does, for people.")
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]


class Artefact(Record):
    """A file that belongs to the model, named by the digest of its bytes."""

    file: Name = pydantic.Field(description="Its name in the model's folder.")
    size_bytes: int = pydantic.Field(ge=1)
    sha256: Sha256 = pydantic.Field(description="SHA-256 of its bytes.")


class Patch(Record):
    """Where a tensor's values lie inside the inference artefact.

    The buffer at ``file_offset`` holds ``tensor`` transposed by ``axes`` (as
    ``numpy.transpose``), little-endian float32, C order.
    """

    tensor: TensorName = pydantic.Field(description="Name of the tensor.")
    file_offset: int = pydantic.Field(ge=0, description="Bytes from the file's start.")
    axes: tuple[int, ...] = pydantic.Field(
        description="Order of the tensor's axes in the buffer."
    )


class Manifest(Record):
    """Everything a device or a coordinator must know of a model."""

    format: Literal[1] = pydantic.Field(1, description="Version of this format.")
    model: Name
    description: str = pydantic.Field(description="What the model is, for people.")
    input_shape: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = pydantic.Field(
        description="Shape of one example."
    )
    classes: int = pydantic.Field(ge=2)
    tensors: tuple[TensorSpec, ...] = pydantic.Field(min_length=1)
    signatures: dict[str, Signature] = pydantic.Field(
        description="What the training artefact can be called for, by name."
    )
    train: Artefact = pydantic.Field(
        description="Training graph without weights, builtin operators only."
    )
    infer: Artefact = pydantic.Field(
        description="Inference graph whose weight buffers are patched per version."
    )
    patches: tuple[Patch, ...]
    weights: Artefact | None = pydantic.Field(
        None,
        exclude_if=lambda artefact: artefact is None,  # a manifest without it: as ever
        description="First values of some or all tensors; the others are drawn from "
        "the plan's seed.",
    )

    @pydantic.model_validator(mode="after")
    def _layout_has_no_holes(self) -> Self:
        names = [tensor.name for tensor in self.tensors]
        if "__metadata__" in names:
            raise ValueError("safetensors keeps the name __metadata__ for itself")
        if len(set(names)) != len(names):
            raise ValueError("tensor names must be unique")
        expected = 0
        for tensor in self.tensors:
            if tensor.offset != expected:
                raise ValueError(
                    f"tensor {tensor.name} must start at element {expected}, "
                    f"got {tensor.offset}"
                )
            expected += tensor.size
        if not any(tensor.trainable for tensor in self.tensors):
            raise ValueError("a model needs at least one trainable tensor")
        self._check_patches()
        return self

    def _check_patches(self) -> None:
        by_name = {tensor.name: tensor for tensor in self.tensors}
        if sorted(patch.tensor for patch in self.patches) != sorted(by_name):
            raise ValueError("patches must name every tensor exactly once")
        spans: list[tuple[int, int]] = []
        for patch in self.patches:
            tensor = by_name[patch.tensor]
            if sorted(patch.axes) != list(range(len(tensor.shape))):
                raise ValueError(f"axes {patch.axes} do not permute {tensor.shape}")
            spans.append((patch.file_offset, patch.file_offset + 4 * tensor.size))
        spans.sort()
        if any(first[1] > second[0] for first, second in itertools.pairwise(spans)):
            raise ValueError("patches overlap")
        if spans[-1][1] > self.infer.size_bytes:
            raise ValueError("a patch reaches past the end of the inference artefact")

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """Every file that the model has."""
        own = () if self.weights is None else (self.weights,)
        return (self.train, self.infer, *own)

    @property
    def size(self) -> int:
        """Number of parameters, frozen ones included."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def trainable(self) -> tuple[TensorSpec, ...]:
        """The tensors of an update, in its order."""
        return tuple(tensor for tensor in self.tensors if tensor.trainable)

    @property
    def trainable_size(self) -> int:
        """Number of parameters in an update."""
        return sum(tensor.size for tensor in self.trainable)

    def to_json(self) -> bytes:
        """Return the canonical bytes of this manifest, which name it by digest."""
        content = self.model_dump(mode="json")
        return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def patch_weights(infer: bytes, manifest: Manifest, weights: Vector) -> bytes:
    """Return the inference artefact with ``weights`` inside. Run by the coordinator.

    Args:
        infer: The inference artefact that ``manifest.infer`` names.
        manifest: Its manifest.
        weights: shape (manifest.size,), float32, manifest order.

    Raises:
        ValueError: ``infer`` or ``weights`` has another size than the manifest says.
    """
    if len(infer) != manifest.infer.size_bytes:
        raise ValueError(
            f"inference artefact must have {manifest.infer.size_bytes} bytes, "
            f"got {len(infer)}"
        )
    if weights.shape != (manifest.size,) or weights.dtype != np.float32:
        raise ValueError(
            f"weights must be float32 of shape ({manifest.size},), "
            f"got {weights.dtype} of shape {weights.shape}"
        )
    by_name = {tensor.name: tensor for tensor in manifest.tensors}
    patched = bytearray(infer)
    for patch in manifest.patches:
        tensor = by_name[patch.tensor]
        values = weights[tensor.offset : tensor.offset + tensor.size]
        ordered = np.ascontiguousarray(
            values.reshape(tensor.shape).transpose(patch.axes), dtype="<f4"
        )
        end = patch.file_offset + ordered.nbytes
        patched[patch.file_offset : end] = ordered.tobytes()
    return bytes(patched)
