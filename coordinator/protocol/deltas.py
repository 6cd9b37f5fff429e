"""How the numbers of a delta are laid out in an update: f32, f16, q8 or topk.

Every layout is a list of tensors. ``f32`` and ``f16`` have the manifest's trainable
tensors. ``q8`` has them as int8, behind one float32 scale a tensor: each value is a
whole multiple of its tensor's scale, rounded to either side at random so that the mean
of the rounded value is the value. ``topk`` has the places and the values of the share
of elements that are largest, out of the whole delta at once; the others are 0.

Names that start with ``@`` belong to a layout: no tensor of a model may have them.

Source: Alistarh et al. 2017, "QSGD: Communication-Efficient SGD via Gradient
Quantization and Encoding" (unbiased rounding); Stich et al. 2018, "Sparsified SGD with
Memory" (largest elements).
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from coordinator.protocol import tensors
from coordinator.protocol.manifest import Manifest, TensorSpec, Vector

EncodingName = Literal["f32", "f16", "q8", "topk"]
Parts = list[tuple[str, npt.NDArray[Any]]]
SCALES: Final = "@scales"
INDICES: Final = "@indices"
VALUES: Final = "@values"
_STEPS: Final = 127  # of an int8 on either side of 0
_FRACTION: Final = 256  # parts of a step that the rounding tells apart
_HALF_RANGE: Final = (-65504.0, 65504.0)
_LEAST_SCALED: Final = 1e-30  # below, a tensor counts as 0: its scale is no float32


class InvalidUpdate(ValueError):
    """The container is well formed, but it is no update of this model."""


class WrongTensorNames(InvalidUpdate):
    """Tensors are missing, unknown or not in the order of the encoding."""


class WrongDtype(InvalidUpdate):
    """A tensor has another dtype than the encoding says."""


class WrongShape(InvalidUpdate):
    """A tensor has another shape than the manifest and the encoding say."""


class NotFinite(InvalidUpdate):
    """A value is NaN or infinite."""


class WrongIndices(InvalidUpdate):
    """The places of a sparse update are out of range or not in rising order."""


class Encoding(Protocol):
    """One layout. Whatever is read was checked before use; nothing is trusted."""

    def write(
        self, manifest: Manifest, delta: Vector, rng: np.random.Generator
    ) -> Parts:
        """Return names and arrays, in their order. Run by the device."""
        ...

    def check(self, manifest: Manifest, container: tensors.Container) -> None:
        """Refuse what is no such layout. Raises InvalidUpdate."""
        ...

    def read(self, manifest: Manifest, container: tensors.Container) -> Vector:
        """Return a checked delta, shape (manifest.trainable_size,), float32."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Float:
    """Every element, as float32 or float16."""

    dtype: Literal["F32", "F16"]

    def write(
        self, manifest: Manifest, delta: Vector, rng: np.random.Generator
    ) -> Parts:
        """Round each element to the dtype; one beyond its range to the last in it."""
        del rng
        if self.dtype == "F32":
            return _split(manifest.trainable, delta)
        return _split(manifest.trainable, np.clip(delta, *_HALF_RANGE).astype("<f2"))

    def check(self, manifest: Manifest, container: tensors.Container) -> None:
        """Insist on the manifest's tensors and on finite values."""
        check_layout(container.entries, _like(manifest.trainable, self.dtype))
        _insist_finite(self._numbers(container), "the delta")

    def read(self, manifest: Manifest, container: tensors.Container) -> Vector:
        """Return the elements; of float32 a view."""
        check_layout(container.entries, _like(manifest.trainable, self.dtype))
        return self._numbers(container).astype(np.float32, copy=False)

    def _numbers(self, container: tensors.Container) -> npt.NDArray[Any]:
        return np.frombuffer(container.data, "<f4" if self.dtype == "F32" else "<f2")


@dataclasses.dataclass(frozen=True, slots=True)
class _Q8:
    """Every element as an int8 multiple of its tensor's scale."""

    def write(
        self, manifest: Manifest, delta: Vector, rng: np.random.Generator
    ) -> Parts:
        """Round each element up or down at random, the nearer the likelier."""
        whole = np.empty(delta.shape, np.int8)
        scales = np.zeros(len(manifest.trainable), "<f4")
        for place, (start, end) in enumerate(_spans(manifest.trainable)):
            scales[place] = _quantize(delta[start:end], whole[start:end], rng)
        return [(SCALES, scales), *_split(manifest.trainable, whole)]

    def check(self, manifest: Manifest, container: tensors.Container) -> None:
        """Insist on the manifest's tensors and on scales that keep values finite."""
        check_layout(container.entries, self._layout(manifest))
        scales = container.array(container.entries[0])
        with np.errstate(over="ignore", invalid="ignore"):
            _insist_finite(scales * np.float32(_STEPS + 1), "a scale times 128")

    def read(self, manifest: Manifest, container: tensors.Container) -> Vector:
        """Return int8 times scale, rounded to float32 once."""
        check_layout(container.entries, self._layout(manifest))
        scales = container.array(container.entries[0])
        delta = np.empty(manifest.trainable_size, np.float32)
        whole = np.frombuffer(container.data, "i1", offset=scales.nbytes)
        for scale, (start, end) in zip(scales, _spans(manifest.trainable), strict=True):
            np.multiply(whole[start:end], scale, out=delta[start:end])
        return delta

    def _layout(self, manifest: Manifest) -> list[tuple[str, str, tuple[int, ...]]]:
        scales = (SCALES, "F32", (len(manifest.trainable),))
        return [scales, *_like(manifest.trainable, "I8")]


@dataclasses.dataclass(frozen=True, slots=True)
class _TopK:
    """The elements that are largest, with their places in the delta."""

    share: float  #: of the elements that is written; readers take any

    def write(
        self, manifest: Manifest, delta: Vector, rng: np.random.Generator
    ) -> Parts:
        """Keep the largest; of equal ones those that numpy's partition keeps."""
        del manifest, rng
        kept = max(1, math.floor(self.share * delta.size))
        places = np.argpartition(np.abs(delta), delta.size - kept)[delta.size - kept :]
        places.sort()
        return [(INDICES, places.astype("<i4")), (VALUES, delta[places])]

    def check(self, manifest: Manifest, container: tensors.Container) -> None:
        """Insist on rising places inside the delta and on finite values."""
        places, values = self._arrays(manifest, container)
        rising = bool((places[1:] > places[:-1]).all())
        if not rising or places[0] < 0 or places[-1] >= manifest.trainable_size:
            raise WrongIndices(
                f"{INDICES} must rise from 0 or more to below "
                f"{manifest.trainable_size}, got {places[0]} to {places[-1]}"
            )
        _insist_finite(values, VALUES)

    def read(self, manifest: Manifest, container: tensors.Container) -> Vector:
        """Return the values in their places, 0 elsewhere."""
        self.check(manifest, container)  # a wrong place would write elsewhere
        places, values = self._arrays(manifest, container)
        delta = np.zeros(manifest.trainable_size, np.float32)
        delta[places] = values
        return delta

    def _arrays(
        self, manifest: Manifest, container: tensors.Container
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        first = container.entries[0].shape if container.entries else ()
        if len(first) != 1 or not 1 <= first[0] <= manifest.trainable_size:
            first = (1,)  # whatever else is there is refused below, by its fault
        check_layout(
            container.entries, [(INDICES, "I32", first), (VALUES, "F32", first)]
        )
        places, values = container.entries
        return container.array(places), container.array(values)


_READERS: Final[Mapping[str, Encoding]] = {
    "f32": _Float("F32"),
    "f16": _Float("F16"),
    "q8": _Q8(),
    "topk": _TopK(share=1.0),
}
NAMES: Final[tuple[EncodingName, ...]] = typing.get_args(EncodingName)


def reader(name: str) -> Encoding | None:
    """Return what reads an encoding; none of an unknown name."""
    return _READERS.get(name)


def writer(name: EncodingName, *, topk_share: float) -> Encoding:
    """Return what writes an encoding.

    Args:
        name: The encoding.
        topk_share: Of the elements that ``topk`` keeps, in (0, 1]; at least one is.
    """
    return _TopK(share=topk_share) if name == "topk" else _READERS[name]


def check_layout(
    entries: tuple[tensors.Entry, ...],
    layout: Sequence[tuple[str, str, tuple[int, ...]]],
) -> None:
    """Insist on names, dtypes and shapes, in this order.

    Raises:
        WrongTensorNames, WrongDtype, WrongShape: As their names say.
    """
    names = [entry.name for entry in entries]
    expected = [name for name, _, _ in layout]
    if names != expected:
        raise WrongTensorNames(
            f"tensors must be {', '.join(expected)} in this order, got {names!a:.200}"
        )
    for entry, (name, dtype, shape) in zip(entries, layout, strict=True):
        if entry.dtype != dtype:
            raise WrongDtype(f"tensor {name} must be {dtype}, got {entry.dtype}")
        if entry.shape != shape:
            raise WrongShape(
                f"tensor {name} must have shape {shape}, got {entry.shape}"
            )


def _quantize(
    values: Vector, whole: npt.NDArray[np.int8], rng: np.random.Generator
) -> np.float32:
    """Fill ``whole`` and return the scale: the mean of whole * scale is ``values``."""
    largest = max(values.max(), -values.min())
    if largest < _LEAST_SCALED:
        whole[:] = 0
        return np.float32(0)
    # In 256ths of a step; the dice then add up to 255 of them before cutting them off.
    # No overflow: 127 * 256 + 255 = 2**15 - 1.
    parts = np.multiply(values, np.float32(_STEPS * _FRACTION / float(largest)))
    np.rint(parts, out=parts)
    fixed = parts.astype(np.int16)
    fixed += np.frombuffer(rng.bytes(values.size), np.uint8)
    np.right_shift(fixed, 8, out=whole, casting="unsafe")
    return np.float32(largest / _STEPS)


def _split(specs: Sequence[TensorSpec], vector: npt.NDArray[Any]) -> Parts:
    return [
        (spec.name, vector[start:end].reshape(spec.shape))
        for spec, (start, end) in zip(specs, _spans(specs), strict=True)
    ]


def _spans(specs: Sequence[TensorSpec]) -> Iterator[tuple[int, int]]:
    """Yield where each tensor starts and ends in the delta."""
    start = 0
    for spec in specs:
        yield start, start + spec.size
        start += spec.size


def _like(
    specs: Sequence[TensorSpec], dtype: str
) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(spec.name, dtype, spec.shape) for spec in specs]


def _insist_finite(numbers: npt.NDArray[Any], what: str) -> None:
    # A sum is finite only if all of its terms are, and is the cheaper to work out; a
    # sum that overflows says nothing.
    with np.errstate(over="ignore", invalid="ignore"):
        total = numbers.sum(dtype=np.float32)
    if not np.isfinite(total) and not np.isfinite(numbers).all():
        raise NotFinite(f"{what} holds NaN or infinity")
