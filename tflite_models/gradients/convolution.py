"""Two-dimensional convolution, alone or fused with a max-pool, as matrix products.

A convolution is a product of *patches*, the pixels under the kernel at every position,
with the kernel as a matrix. Patches are put together from shifted views of the image:
with one channel stacked before the positions, so that each view stays a contiguous
block, with several channels joined after them.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import tensorflow as tf

from tflite_models.gradients.activations import RELU
from tflite_models.gradients.layer import Pass, Shape, Tensors
from tflite_models.gradients.products import multiply


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A kernel's way over an image; stride 1.

    ``image`` is (height, width, channels) without padding, ``pads`` the zeros above,
    below, left and right of it.
    """

    image: tuple[int, int, int]
    kernel: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def height(self) -> int:
        """Of the output."""
        return self.image[0] + self.pads[0] + self.pads[1] - self.kernel[0] + 1

    @property
    def width(self) -> int:
        """Of the output."""
        return self.image[1] + self.pads[2] + self.pads[3] - self.kernel[1] + 1

    @property
    def taps(self) -> int:
        """Values under the kernel."""
        return self.kernel[0] * self.kernel[1] * self.image[2]

    @property
    def stacked(self) -> bool:
        """Whether patches are (taps, positions) instead of (positions, taps)."""
        return self.image[2] == 1

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of the kernel in the order of its weights."""
        return itertools.product(range(self.kernel[0]), range(self.kernel[1]))

    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """Return the image with its zeros around it."""
        above, below, left, right = self.pads
        if not any(self.pads):
            return x
        return tf.pad(x, ((0, 0), (above, below), (left, right), (0, 0)))

    def crop(self, x: tf.Tensor) -> tf.Tensor:
        """Take the padding off again."""
        above, _, left, _ = self.pads
        if not any(self.pads):
            return x
        height, width, _ = self.image
        return x[:, above : above + height, left : left + width, :]

    def join(self, views: list[tf.Tensor]) -> tf.Tensor:
        """Return patches as a matrix; one view (batch, h, w, channels) a tap."""
        if self.stacked:
            rows = [tf.reshape(view, (1, 1, -1)) for view in views]
            return tf.concat(rows, 1)  # (1, taps, positions)
        return tf.reshape(tf.concat(views, -1), (1, -1, self.taps))

    def apply(self, patches: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return the convolution at every position, (1, positions, filters)."""
        return multiply(patches, kernel, transpose_a=self.stacked)

    def kernel_gradient(self, patches: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        """Return the kernel's gradient, (1, taps, filters)."""
        return multiply(patches, dy, transpose_a=not self.stacked)

    def view_gradients(
        self, dy: tf.Tensor, kernel: tf.Tensor, shape: tuple[int, int]
    ) -> list[tf.Tensor]:
        """Return what each tap's view gets back, each (batch, *shape, channels)."""
        patches = multiply(dy, kernel, transpose_b=True)  # (1, positions, taps)
        patches = tf.reshape(patches, (-1, *shape, self.taps))
        return list(tf.split(patches, self.kernel[0] * self.kernel[1], -1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A convolution of stride 1 without an activation."""

    window: Window
    filters: int
    use_bias: bool

    @property
    def weights(self) -> tuple[Shape, ...]:
        """Kernel (1, taps, filters) and bias (filters,)."""
        kernel = (1, self.window.taps, self.filters)
        return (kernel, (self.filters,)) if self.use_bias else (kernel,)

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep the patches."""
        del pass_
        window = self.window
        padded = window.pad(x)
        height, width = window.height, window.width
        views = [
            padded[:, row : row + height, column : column + width, :]
            for row, column in window.places()
        ]
        patches = window.join(views)
        y = window.apply(patches, weights[0])
        if self.use_bias:
            y = y + weights[1]
        return tf.reshape(y, (-1, height, width, self.filters)), (patches,)

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Two products; the input's gradient is laid back view by view."""
        dy = tf.reshape(dy, (1, -1, self.filters))  # (1, positions, filters)
        dx = self._input_gradient(dy, weights[0]) if wants_input else None
        if not wants_weights:
            return dx, ()
        kernel = self.window.kernel_gradient(kept[0], dy)
        if not self.use_bias:
            return dx, (kernel,)
        return dx, (kernel, tf.reduce_sum(dy, (0, 1)))

    def _input_gradient(self, dy: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        window = self.window
        views = window.view_gradients(dy, kernel, (window.height, window.width))
        rows, columns = window.kernel
        laid = [
            tf.pad(
                view,
                (
                    (0, 0),
                    (row, rows - 1 - row),
                    (column, columns - 1 - column),
                    (0, 0),
                ),
            )
            for (row, column), view in zip(window.places(), views, strict=True)
        ]
        return window.crop(tf.add_n(laid))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PooledConvolution:
    """A convolution, a max-pool and perhaps a ReLU, as one layer.

    The image is cut into its ``pool`` x ``pool`` *phases* (pixels whose coordinates
    agree modulo the pool size), so that the values which one pool compares are separate
    products over contiguous data, and nothing is computed that pooling would drop. Bias
    and ReLU come after the maximum, which they commute with: the winner is the first
    of the largest, as in TensorFlow, and the work on them is a quarter.
    """

    window: Window
    filters: int
    use_bias: bool
    pool: int
    relu: bool

    @property
    def weights(self) -> tuple[Shape, ...]:
        """Kernel (1, taps, filters) and bias (filters,)."""
        kernel = (1, self.window.taps, self.filters)
        return (kernel, (self.filters,)) if self.use_bias else (kernel,)

    @property
    def _pooled(self) -> tuple[int, int]:
        return self.window.height // self.pool, self.window.width // self.pool

    @property
    def _phase(self) -> tuple[int, int]:
        """Height and width of a phase: what the pooled windows reach."""
        rows, columns = self.window.kernel
        height, width = self._pooled
        return (
            height + -(-(rows - 1) // self.pool),
            width + -(-(columns - 1) // self.pool),
        )

    def forward(
        self, x: tf.Tensor, weights: Tensors, pass_: Pass
    ) -> tuple[tf.Tensor, Tensors]:
        """Keep the output, the maximum and each phase's patches and values."""
        window = self.window
        views = self._views(x)
        patches = [
            window.join(
                [views[down + row, right + column] for row, column in window.places()]
            )
            for down, right in self._offsets()
        ]
        values = [window.apply(each, weights[0]) for each in patches]
        largest = values[0]
        for value in values[1:]:
            largest = tf.maximum(largest, value)  # (1, positions, filters)
        y = largest + weights[1] if self.use_bias else largest
        if self.relu:
            y = RELU.forward(y, (), pass_)[0]
        shaped = tf.reshape(y, (-1, *self._pooled, self.filters))
        return shaped, (y, largest, *patches, *values)

    def backward(
        self,
        dy: tf.Tensor,
        kept: Tensors,
        weights: Tensors,
        *,
        wants_input: bool,
        wants_weights: bool,
    ) -> tuple[tf.Tensor | None, Tensors]:
        """Each phase gets the gradient where it won."""
        y, largest, *rest = kept
        phases = self.pool**2
        patches, values = rest[:phases], rest[phases:]
        left = tf.reshape(dy, (1, -1, self.filters))  # (1, positions, filters)
        if self.relu:
            left = left * RELU.derivative(y)
        bias = (tf.reduce_sum(left, (0, 1)),) if self.use_bias and wants_weights else ()
        won = []
        for value in values[:-1]:
            won.append(left * tf.cast(tf.equal(value, largest), tf.float32))
            left = left - won[-1]
        won.append(left)
        dx = self._input_gradient(won, weights[0]) if wants_input else None
        if not wants_weights:
            return dx, ()
        gradients = [
            self.window.kernel_gradient(each, gradient)
            for each, gradient in zip(patches, won, strict=True)
        ]
        return dx, (tf.add_n(gradients), *bias)

    def _offsets(self) -> Iterator[tuple[int, int]]:
        return itertools.product(range(self.pool), range(self.pool))

    def _views(self, x: tf.Tensor) -> dict[tuple[int, int], tf.Tensor]:
        """Return for each shift every pool-th pixel, (batch, *pooled, channels)."""
        height, width = self._pooled
        phases = self._split(self.window.pad(x))
        rows, columns = self.window.kernel
        views = {}
        for down, right in itertools.product(
            range(rows + self.pool - 1), range(columns + self.pool - 1)
        ):
            top, left = down // self.pool, right // self.pool
            phase = phases[(down % self.pool) * self.pool + right % self.pool]
            views[down, right] = phase[:, top : top + height, left : left + width, :]
        return views

    def _split(self, padded: tf.Tensor) -> list[tf.Tensor]:
        """Return the phases of the padded image, each (batch, *phase, channels)."""
        channels = self.window.image[2]
        reach = tuple(side * self.pool for side in self._phase)
        sides = (padded.shape[1], padded.shape[2])
        x = padded[:, : reach[0], : reach[1], :]
        missing = tuple(
            max(0, far - side) for far, side in zip(reach, sides, strict=True)
        )
        if any(missing):
            x = tf.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        x = tf.nn.space_to_depth(x, self.pool)  # (batch, *phase, pool^2 * channels)
        if channels == 1:
            x = tf.reshape(tf.transpose(x, (3, 0, 1, 2)), (self.pool**2, -1))
            return [
                tf.reshape(phase, (-1, *self._phase, 1))
                for phase in tf.split(x, self.pool**2, 0)
            ]
        return list(tf.split(x, self.pool**2, -1))

    def _input_gradient(self, won: list[tf.Tensor], kernel: tf.Tensor) -> tf.Tensor:
        height, width = self._pooled
        tall, wide = self._phase
        phases: dict[int, list[tf.Tensor]] = {}
        laid: dict[tuple[int, int], list[tf.Tensor]] = {}
        for (down, right), gradient in zip(self._offsets(), won, strict=True):
            views = self.window.view_gradients(gradient, kernel, self._pooled)
            for (row, column), view in zip(self.window.places(), views, strict=True):
                laid.setdefault((down + row, right + column), []).append(view)
        for (down, right), views in laid.items():
            top, left = down // self.pool, right // self.pool
            pads = (
                (0, 0),
                (top, tall - height - top),
                (left, wide - width - left),
                (0, 0),
            )
            phase = (down % self.pool) * self.pool + right % self.pool
            phases.setdefault(phase, []).append(tf.pad(tf.add_n(views), pads))
        joined = tf.concat(
            [tf.add_n(phases[phase]) for phase in range(self.pool**2)], -1
        )
        return self._uncut(tf.nn.depth_to_space(joined, self.pool))

    def _uncut(self, dx: tf.Tensor) -> tf.Tensor:
        """Bring the phases' image to the size of the input."""
        above, below, left, right = self.window.pads
        rows = self.window.image[0] + above + below
        columns = self.window.image[1] + left + right
        dx = dx[:, :rows, :columns, :]
        missing = (rows - dx.shape[1], columns - dx.shape[2])
        if any(missing):
            dx = tf.pad(dx, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        return self.window.crop(dx)
