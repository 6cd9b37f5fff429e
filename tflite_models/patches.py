"""Where a model's weights lie inside its inference file.

The file is converted once with *sentinel* weights, a distinct whole number each. A
constant buffer that holds a tensor's sentinels, in whatever order of axes, is that
tensor's place, and any version's weights are then written there without converting.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.protocol.manifest import Patch, TensorSpec
from tflite_models import flatbuffer

_LARGEST_EXACT = 2**24  # float32 holds every whole number up to here


class UnpatchableModel(ValueError):
    """The conversion changed a tensor, so that its values cannot be written in."""


def sentinels(size: int) -> npt.NDArray[np.float32]:
    """Return distinct weights, shape (size,).

    Raises:
        UnpatchableModel: There are more weights than distinct whole float32 numbers.
    """
    if size > _LARGEST_EXACT:
        raise UnpatchableModel(
            f"a model may have {_LARGEST_EXACT} weights at most, got {size}"
        )
    return np.arange(1, size + 1, dtype=np.float32)


def find(infer: bytes, tensors: Sequence[TensorSpec]) -> tuple[Patch, ...]:
    """Return the places of all tensors in a file converted with `sentinels`.

    Raises:
        UnpatchableModel: A tensor is nowhere as a whole, for instance because the
            conversion folded it into another.
    """
    unplaced = list(tensors)
    places: dict[str, Patch] = {}
    for offset, content in flatbuffer.constants(infer):
        if len(content) % 4:
            continue
        values = np.frombuffer(content, "<f4")
        for tensor in unplaced:
            axes = _axes(values, tensor)
            if axes is not None:
                places[tensor.name] = Patch(
                    tensor=tensor.name, file_offset=offset, axes=axes
                )
                unplaced.remove(tensor)
                break
    if unplaced:
        names = ", ".join(tensor.name for tensor in unplaced)
        raise UnpatchableModel(f"no buffer of the inference file holds {names}")
    return tuple(places[tensor.name] for tensor in tensors)


def _axes(
    values: npt.NDArray[np.float32], tensor: TensorSpec
) -> tuple[int, ...] | None:
    """Return the order of axes in which ``values`` are the tensor's sentinels."""
    if values.size != tensor.size:
        return None
    first = tensor.offset + 1
    if values.min() != first or values.max() != tensor.offset + tensor.size:
        return None
    expected = sentinels(math.prod(tensor.shape)) + np.float32(tensor.offset)
    for axes in itertools.permutations(range(len(tensor.shape))):
        ordered = expected.reshape(tensor.shape).transpose(axes)
        if np.array_equal(ordered.ravel(), values):
            return axes
    return None
