"""Matrix products that LiteRT runs fast when both sides come in at run time."""

import tensorflow as tf


def multiply(
    a: tf.Tensor,
    b: tf.Tensor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> tf.Tensor:
    """Return the product of two matrices, each of shape (1, rows, columns).

    The leading axis makes it a BATCH_MATMUL. A product of rank 2 with ``transpose_b``
    would convert to FULLY_CONNECTED, which is twice as slow when its weights are no
    constants. Large operands should have the axis from the start: adding it copies.
    """
    return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
