"""Pooling over square windows that do not overlap, and over the whole image."""

import dataclasses

import tensorflow as tf

from tflite_models.gradients.layer import Pass, Shape, Tensors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """An image (height, width, channels) cut into tiles of ``side`` x ``side``.

    Rows and columns that fill no tile are dropped.
    """

    image: tuple[int, int, int]
    side: int

    def cut(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Return the pixels at each place of a tile, row by row."""
        height, width, _ = self.image
        rest = (height % self.side, width % self.side)
        if any(rest):
            x = x[:, : height - rest[0], : width - rest[1], :]
        return list(tf.split(tf.nn.space_to_depth(x, self.side), self.side**2, -1))

    def lay(self, pixels: list[tf.Tensor]) -> tf.Tensor:
        """Return the image of which `cut` gives ``pixels``, zero where it drops."""
        height, width, _ = self.image
        x = tf.nn.depth_to_space(tf.concat(pixels, -1), self.side)
        rest = (height % self.side, width % self.side)
        if any(rest):
            x = tf.pad(x, ((0, 0), (0, rest[0]), (0, rest[1]), (0, 0)))
        return x


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool:
    """The largest of each tile; of equal ones the first, as in TensorFlow."""

    tiles: Tiles

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep the output and the pixels."""
        del weights, pass_
        pixels = self.tiles.cut(x)
        y = pixels[0]
        for pixel in pixels[1:]:
            y = tf.maximum(y, pixel)
        return y, (y, *pixels)

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Hand the gradient to the first that equals the output."""
        del weights, wants_weights
        if not wants_input:
            return None, ()
        y, *pixels = kept
        won, left = [], dy
        for pixel in pixels[:-1]:
            won.append(left * tf.cast(tf.equal(pixel, y), tf.float32))
            left = left - won[-1]
        return self.tiles.lay([*won, left]), ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool:
    """The mean of each tile."""

    tiles: Tiles

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep nothing."""
        del weights, pass_
        return tf.add_n(self.tiles.cut(x)) * (1.0 / self.tiles.side**2), ()

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Share the gradient evenly."""
        del kept, weights, wants_weights
        if not wants_input:
            return None, ()
        share = dy * (1.0 / self.tiles.side**2)
        return self.tiles.lay([share] * self.tiles.side**2), ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GlobalAverage:
    """The mean over an image of (height, width, channels), a channel each."""

    image: tuple[int, int, int]

    @property
    def weights(self) -> tuple[Shape, ...]:
        """None."""
        return ()

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep nothing."""
        del weights, pass_
        return tf.reduce_mean(x, (1, 2)), ()

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Share the gradient evenly."""
        del kept, weights, wants_weights
        if not wants_input:
            return None, ()
        height, width, channels = self.image
        shares = tf.constant(1.0 / (height * width), shape=(1, height, width, 1))
        return tf.reshape(dy, (-1, 1, 1, channels)) * shares, ()
