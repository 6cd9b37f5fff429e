"""Uniform numbers as a function of a seed, in builtin operators.

LiteRT's own random operators cannot be seeded per call. A number here is a hash of
(seed, step, stream, row, column), so that any device draws the same.

Source: the mixing steps are those of Chris Wellons's ``lowbias32`` (public domain);
the increments are Weyl sequences.
"""

import dataclasses
from typing import Final, Self

import numpy as np
import tensorflow as tf

_WORD: Final = 2**32
_GOLDEN: Final = 0x9E3779B9
_STEP: Final = 0x85EBCA6B
_STREAM: Final = 0xC2B2AE35


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The numbers of one step.

    ``rows`` has shape (batch, 1), uint32: a hash of (seed, step, row).
    """

    rows: tf.Tensor

    @classmethod
    def of(cls, *, seed: tf.Tensor, step: tf.Tensor, mask: tf.Tensor) -> Self:
        """Return the noise of a step.

        Args:
            seed: shape (), int32.
            step: shape (), int32.
            mask: shape (batch,), float32, not negative; only its shape matters.
        """
        # counting ones keeps the shape static where a RANGE would not
        ones = tf.cast(tf.greater_equal(mask, 0.0), tf.int32)
        rows = tf.cast(tf.cumsum(ones), tf.uint32) * tf.constant(_GOLDEN, tf.uint32)
        key = _mix(tf.cast(seed, tf.uint32))
        key = _mix(
            tf.bitwise.bitwise_xor(
                key, tf.cast(step + 1, tf.uint32) * tf.constant(_STEP, tf.uint32)
            )
        )
        return cls(rows=tf.reshape(_mix(tf.bitwise.bitwise_xor(rows, key)), (-1, 1)))

    def uniform(self, stream: int, columns: int) -> tf.Tensor:
        """Return numbers in [0, 1), shape (batch, columns), multiples of 2^-24."""
        places = (np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN) % _WORD
        salt = ((stream + 1) * _STREAM) % _WORD
        words = (places ^ salt).astype(np.uint32)[np.newaxis, :]
        hashed = _mix(tf.bitwise.bitwise_xor(self.rows, tf.constant(words)))
        high = tf.bitwise.right_shift(hashed, tf.constant(8, tf.uint32))
        return tf.cast(high, tf.float32) * 2.0**-24


def _mix(word: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        shifted = tf.bitwise.right_shift(word, tf.constant(shift, tf.uint32))
        word = tf.bitwise.bitwise_xor(word, shifted) * tf.constant(factor, tf.uint32)
    shifted = tf.bitwise.right_shift(word, tf.constant(16, tf.uint32))
    return tf.bitwise.bitwise_xor(word, shifted)
