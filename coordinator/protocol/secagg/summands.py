"""An update as whole numbers modulo 2**32, with weight and metrics beside it.

The vector is the update, clipped to ``clip_norm`` in L2 length and scaled so that this
becomes ``2**bits``, and behind it five figures that so nobody sees of one device. The
sum of a cohort never wraps: each element is at most ``2**bits``, and ``Encoding``
refuses numbers of devices for which that is too much. Read as int32, it is the sum.

With weighting ``examples``, a device's weight is its share of ``max_examples``, at most
1, and scales its update too: the sum over the weights is their weighted mean. With
``uniform``, which differential privacy needs, it is 1 for all.

With ``noise_stddev`` each device adds discrete Gaussian noise to its update, and tells
no metrics: then nobody sees a sum without noise, whoever takes the masks off.

Source: Bonawitz et al. 2019, "Federated Learning with Autotuned Communication-Efficient
    Secure Aggregation", section 3 (unbiased rounding).
"""

import dataclasses
import hashlib
import hmac
import math
import struct
from collections.abc import Callable
from typing import Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import Field

from coordinator.protocol import discrete_gaussian, fixed_point
from coordinator.protocol.encodings import MAX_EXAMPLES, Report
from coordinator.protocol.keystream import Keystream
from coordinator.protocol.manifest import Record, Vector
from coordinator.protocol.secagg.masks import WORD_BYTES, Words
from coordinator.protocol.secagg.refusals import WrongVector

Whole: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]
FIGURES: Final = 5  #: count, weight, loss, accuracy, clipped
MAX_MEAN_LOSS: Final = 64.0  #: a device's mean loss counts as at most this
_MIN_BITS: Final = 16  # rounding then adds 4 % of the clip norm to the error, not 60
_MAX_BITS: Final = 26
_HALF: Final = 1 << 31
_NOISE_STDDEVS: Final = 8
_BLOCK: Final = 1 << 14  # elements; their float64 fit a core's second cache


class Encoding(Record):
    """How the devices of a cohort write their vectors."""

    size: int = Field(ge=1, lt=2**31, description="Elements of an update.")
    clip_norm: float = Field(
        gt=0, allow_inf_nan=False, description="Longest an update may be (L2)."
    )
    bits: int = Field(
        ge=_MIN_BITS, le=_MAX_BITS, description="`clip_norm` becomes 2**bits."
    )
    max_devices: int = Field(
        ge=1, lt=2**31, description="Summands that a sum has at most."
    )
    weighting: Literal["examples", "uniform"] = Field(
        description="By examples, at most `max_examples`, or each device alike."
    )
    max_examples: int = Field(
        ge=1, le=MAX_EXAMPLES, description="From so many on, the weight is 1."
    )
    noise_stddev: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Standard deviation of the noise that each device adds to an "
        "element, in whole numbers; 0: none.",
    )

    @pydantic.model_validator(mode="after")
    def _sum_fits(self) -> Self:
        most = self.max_devices * (1 << self.bits)
        if most + _noise_room(self.max_devices, self.noise_stddev) >= _HALF:
            raise ValueError(
                f"the sum of {self.max_devices} devices with {self.bits} bits and "
                f"noise of {self.noise_stddev:g} may not fit in 32 bits"
            )
        return self

    @property
    def length(self) -> int:
        """Elements of a vector: the update and the figures."""
        return self.size + FIGURES

    @property
    def size_bytes(self) -> int:
        """Bytes of a vector on the wire."""
        return self.length * WORD_BYTES

    def packed(self) -> bytes:
        """Return what is hashed of it: big-endian numbers, floats as IEEE 754."""
        return struct.pack(
            ">IdIIBId",
            self.size,
            self.clip_norm,
            self.bits,
            self.max_devices,
            self.weighting == "uniform",
            self.max_examples,
            self.noise_stddev,
        )


def update_size(trainable_size: int, *, is_training: bool) -> int:
    """Return the elements of an update; an evaluation has one, of 0, and figures."""
    return trainable_size if is_training else 1


def most_bits(
    max_devices: int, *, noise_of: Callable[[int], float] = lambda _: 0.0
) -> int:
    """Return the most bits with which the sum of so many devices fits.

    Args:
        max_devices: Summands.
        noise_of: Standard deviation of each device's noise, by bits.

    Raises:
        ValueError: Fewer than 16, with which rounding would show.
    """
    for bits in range(_MAX_BITS, _MIN_BITS - 1, -1):
        room = _noise_room(max_devices, noise_of(bits))
        if max_devices * (1 << bits) + room < _HALF:
            return bits
    raise ValueError(
        f"the sum of {max_devices} devices and their noise does not fit in 32 bits "
        f"with {_MIN_BITS} for each"
    )


def _noise_room(devices: int, stddev: float) -> float:
    """Return what so many devices' noise in an element stays below."""
    return _NOISE_STDDEVS * math.sqrt(devices) * stddev


def encode(delta: Vector, report: Report, encoding: Encoding, *, key: bytes) -> Words:
    """Clip, weigh, scale and round an update. Run by the device.

    Args:
        delta: shape (encoding.size,), float32.
        report: Its weight and metrics.
        encoding: The cohort's.
        key: 32 secret bytes for this vector alone, from the system; they decide how
            values between two whole numbers are rounded, so that the mean is right,
            and the noise.

    Returns:
        shape (encoding.length,), uint32: negative numbers as their residue.

    Raises:
        WrongVector: The update has another size or is not finite.
    """
    if delta.shape != (encoding.size,) or delta.dtype != np.float32:
        raise WrongVector(
            f"an update must be float32 of shape ({encoding.size},), got "
            f"{delta.dtype} of {delta.shape}"
        )
    norm = fixed_point.length(delta)
    figures = (norm, report.train_loss, report.train_accuracy)
    if not all(map(math.isfinite, figures)):
        raise WrongVector("an update with NaN or infinity is not sent")
    one = 1 << encoding.bits
    weight = one
    if encoding.weighting == "examples":
        share = min(report.examples / encoding.max_examples, 1.0)
        weight = max(1, round(share * one))
    scale = weight / max(norm, encoding.clip_norm)
    chance = Keystream(key)
    vector = np.empty(encoding.length, np.uint32)
    whole = vector.view(np.int32)
    for start in range(0, encoding.size, _BLOCK):
        part = delta[start : start + _BLOCK].astype(np.float64)
        part *= scale
        # Rounding in float32 and float64 may pass the bound by a last bit; it counts.
        np.clip(part, -weight, weight, out=part)
        part += chance.uniforms(part.size)
        np.floor(part, out=part)
        whole[start : start + part.size] = part
    if encoding.noise_stddev:
        noise = Keystream(hmac.digest(key, b"noise", hashlib.sha256))
        whole[: encoding.size] += discrete_gaussian.sample(
            noise, stddev=encoding.noise_stddev, size=encoding.size
        ).astype(np.int32)
        whole[encoding.size :] = (1, weight, 0, 0, 0)
        return vector
    loss = min(max(report.train_loss, 0.0), MAX_MEAN_LOSS) / MAX_MEAN_LOSS
    accuracy = min(max(report.train_accuracy, 0.0), 1.0)
    luck = chance.uniforms(2)
    whole[encoding.size :] = (
        1,
        weight,
        math.floor(loss * weight + luck[0]),
        math.floor(accuracy * weight + luck[1]),
        norm > encoding.clip_norm,
    )
    return vector


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CohortSum:
    """What a cohort's vectors add up to."""

    update: Whole  #: shape (size,), sum of weight times update, whole
    unit: float  #: what 1 in ``update`` is: ``clip_norm`` over 2**bits
    devices: int
    weight: float  #: sum of the weights, each at most 1
    train_loss: float  #: weighted mean
    train_accuracy: float  #: weighted mean
    clipped: int  #: devices whose update was longer than ``clip_norm``

    def mean(self) -> npt.NDArray[np.float64]:
        """Return the weighted mean of the updates, shape (size,)."""
        return self.update * np.float64(self.unit / self.weight)


def decode(total: Words, encoding: Encoding, *, devices: int) -> CohortSum | None:
    """Read the sum of so many devices' vectors. Run by the coordinator.

    Returns:
        ``None`` where it is none: a mask is left in it, or a device lied.
    """
    return decode_whole(total.view(np.int32), encoding, devices=devices)


def decode_whole(whole: Whole, encoding: Encoding, *, devices: int) -> CohortSum | None:
    """Read the sum of so many devices' vectors, as whole numbers; see ``decode``."""
    count, weight, loss, accuracy, clipped = map(int, whole[encoding.size :])
    one = 1 << encoding.bits
    is_sum = (
        count == devices
        and devices <= weight <= devices * one
        and 0 <= loss <= weight + devices
        and 0 <= accuracy <= weight + devices
        and 0 <= clipped <= devices
    )
    if not is_sum:
        return None
    return CohortSum(
        update=whole[: encoding.size],
        unit=encoding.clip_norm / one,
        devices=count,
        weight=weight / one,
        train_loss=loss / weight * MAX_MEAN_LOSS,
        train_accuracy=accuracy / weight,
        clipped=clipped,
    )
