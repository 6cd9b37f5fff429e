"""Reading a training image out of an update of ``cnn``.

The gradient of a dense layer's weights is its input times that of its biases, so their
quotient is what went into the layer: of one image exactly, of several a mixture. What
went in is then matched by gradient descent on an image, through the convolution.

Source: Phong et al. 2018, "Privacy-Preserving Deep Learning via Additively Homomorphic
Encryption" (the quotient); Geiping et al. 2020, "Inverting Gradients - How easy is it
to break privacy in federated learning?" (matching features by descent on the image).
"""

import dataclasses
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.protocol.manifest import Manifest, Vector

Image = npt.NDArray[np.float64]  #: shape (28, 28), in [0, 1]
_STEPS: Final = 600
_RATE: Final = 0.05
_SMOOTH: Final = 1e-4  # weight of the neighbours' differences: strokes are smooth
_NEURONS: Final = 3  # tried, those with the largest gradients first


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """The first layers of ``cnn``: convolution, rectifier, maximum of 2 x 2."""

    kernel: npt.NDArray[np.float64]  #: shape (9, 32)
    bias: npt.NDArray[np.float64]  #: shape (32,)

    def mismatch(self, image: Image, wanted: Image) -> tuple[float, Image]:
        """Return the mean square between features and ``wanted``, and its gradient.

        Args:
            image: What the features are of.
            wanted: shape (13 * 13 * 32,).
        """
        windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3))
        before = windows.reshape(26, 26, 9) @ self.kernel + self.bias
        blocks = before.reshape(13, 2, 13, 2, 32).transpose(0, 2, 4, 1, 3)
        blocks = blocks.reshape(13, 13, 32, 4)
        which = blocks.argmax(axis=-1)[..., None]
        largest = np.take_along_axis(blocks, which, axis=-1)[..., 0]
        error = np.maximum(largest, 0) - wanted.reshape(13, 13, 32)
        back = np.zeros_like(blocks)
        slope = 2 / error.size * error * (largest > 0)
        np.put_along_axis(back, which, slope[..., None], axis=-1)
        back = back.reshape(13, 13, 32, 2, 2).transpose(0, 3, 1, 4, 2)
        on_windows = back.reshape(26, 26, 32) @ self.kernel.T
        gradient = np.zeros_like(image)
        for row in range(3):
            for column in range(3):
                gradient[row : row + 26, column : column + 26] += on_windows[
                    ..., 3 * row + column
                ]
        return float(np.square(error).mean()), gradient


def reconstruct(manifest: Manifest, weights: Vector, delta: Vector) -> Image:
    """Return the image that an update gives away, as well as it does.

    Args:
        manifest: Of ``cnn``, or of a model with the same first layers.
        weights: shape (manifest.size,): what the device started from.
        delta: shape (manifest.size,): what was seen of its update.
    """
    parts = {tensor.name: tensor for tensor in manifest.tensors}

    def part(vector: Vector, name: str) -> npt.NDArray[np.float64]:
        tensor = parts[name]
        values = vector[tensor.offset : tensor.offset + tensor.size]
        return values.reshape(tensor.shape).astype(np.float64)

    layers = Convolution(
        kernel=part(weights, "conv2d/kernel").reshape(9, 32),
        bias=part(weights, "conv2d/bias"),
    )
    on_weights, on_biases = part(delta, "hidden/kernel"), part(delta, "hidden/bias")
    loudest = np.argsort(-np.abs(on_biases))[:_NEURONS]
    candidates = [
        _match(layers, np.maximum(on_weights[:, neuron] / on_biases[neuron], 0))
        for neuron in loudest
        if on_biases[neuron]
    ]
    if not candidates:
        return np.zeros((28, 28))
    return min(candidates, key=lambda found: found[0])[1]


def psnr(image: Image, truth: Image) -> float:
    """Return the peak signal-to-noise ratio of an image in [0, 1], in dB."""
    error = float(np.square(image - truth).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def _match(layers: Convolution, wanted: npt.NDArray[np.float64]) -> tuple[float, Image]:
    """Search for the image with these features by Adam. Returns how far off, and it."""
    image = np.full((28, 28), 0.3)
    mean, square = np.zeros_like(image), np.zeros_like(image)
    mismatch = math.inf
    for step in range(1, _STEPS + 1):
        mismatch, gradient = layers.mismatch(image, wanted)
        gradient = gradient + _SMOOTH / image.size * _roughness(image)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * np.square(gradient)
        corrected = mean / (1 - 0.9**step)
        scale = np.sqrt(square / (1 - 0.999**step)) + 1e-12
        rate = _RATE * 0.5 * (1 + math.cos(math.pi * step / _STEPS))
        image = np.clip(image - rate * corrected / scale, 0, 1)
    return mismatch, image


def _roughness(image: Image) -> Image:
    """Return the gradient of the sum of absolute differences of neighbours."""
    gradient = np.zeros_like(image)
    for axis in (0, 1):
        signs = np.sign(np.diff(image, axis=axis))
        ahead, behind = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        ahead[axis], behind[axis] = (1, 0), (0, 1)
        gradient += np.pad(signs, ahead) - np.pad(signs, behind)
    return gradient
