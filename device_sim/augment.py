"""Data augmentation on the device: more examples than it has, from those it has.

Every change is drawn anew for each image and epoch, and made for all images at once.

Sources: Simard et al. 2003, "Best Practices for Convolutional Neural Networks Applied
to Visual Document Analysis", section 2 (moves, affine maps); Cubuk et al. 2020,
"RandAugment" (arXiv:1909.13719), section 3.1 (brightness, contrast).
"""

import numpy as np
import numpy.typing as npt

from coordinator.protocol.plan_training import TrainingPlan

_Images = npt.NDArray[np.float32]
_Labels = npt.NDArray[np.int32]
_Numbers = npt.NDArray[np.float32]


def augmented_epochs(
    x: _Images, y: _Labels, plan: TrainingPlan, rng: np.random.Generator
) -> tuple[_Images, _Labels]:
    """Return the examples once an epoch, changed anew each time.

    Args:
        x: shape (examples, height, width, channels), in [0, 1].
        y: shape (examples,).
        plan: Epochs, and what is changed by how much at most.
        rng: Draws the changes.

    Returns:
        Shape (epochs * examples, height, width, channels), and (epochs * examples,).
    """
    epochs = [augmented(x, plan, rng) for _ in range(plan.epochs)]
    return np.concatenate(epochs), np.tile(y, plan.epochs)


def augmented(x: _Images, plan: TrainingPlan, rng: np.random.Generator) -> _Images:
    """Return the examples, each changed by what the plan asks for and nothing else."""
    count = len(x)
    if plan.max_shift:
        x = shifted(x, plan.max_shift, rng)
    if plan.max_rotation or plan.max_scale:
        turns = rng.uniform(-plan.max_rotation, plan.max_rotation, count)
        sizes = 1 + rng.uniform(-plan.max_scale, plan.max_scale, count)
        x = warped(x, np.deg2rad(turns), sizes)
    if plan.max_brightness or plan.max_contrast:
        added = rng.uniform(-plan.max_brightness, plan.max_brightness, count)
        factors = 1 + rng.uniform(-plan.max_contrast, plan.max_contrast, count)
        x = relit(x, _column(added), _column(factors))
    if plan.flip:
        mirrored = rng.integers(0, 2, count).astype(bool)
        x = np.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    return x


def shifted(x: _Images, most: int, rng: np.random.Generator) -> _Images:
    """Return each image moved by up to ``most`` pixels each way; what comes in is 0."""
    examples, height, width, _ = x.shape
    margin = ((0, 0), (most, most), (most, most), (0, 0))
    padded = np.pad(x, margin)  # (examples, height + 2 most, width + 2 most, channels)
    down, right = rng.integers(0, 2 * most + 1, (2, examples))  # (examples,) each
    rows = down[:, None] + np.arange(height)  # (examples, height)
    columns = right[:, None] + np.arange(width)  # (examples, width)
    which = np.arange(examples)[:, None, None]
    moved: _Images = padded[which, rows[:, :, None], columns[:, None, :]]
    return moved


def warped(
    x: _Images, angles: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]
) -> _Images:
    """Return each image turned and resized about its centre; what comes in is 0.

    Args:
        x: shape (examples, height, width, channels).
        angles: Radians, counter-clockwise, shape (examples,).
        sizes: Factors over 0, shape (examples,).
    """
    examples, height, width, channels = x.shape
    # Where each pixel of the result comes from, relative to the centre.
    grid = np.indices((height, width), np.float32).reshape(2, -1)
    middle = np.array([[(height - 1) / 2], [(width - 1) / 2]], np.float32)
    rows, columns = grid - middle  # (pixels,) each
    cosines = (np.cos(angles) / sizes).astype(np.float32)[:, None]
    sines = (np.sin(angles) / sizes).astype(np.float32)[:, None]
    # One pixel of margin is 0, and stands for all that lies outside.
    row, down = _split(cosines * rows + sines * columns + middle[0] + 1, height)
    column, right = _split(cosines * columns - sines * rows + middle[1] + 1, width)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    stride = width + 2
    start = row * stride + column  # (examples, pixels)
    start += np.arange(examples, dtype=np.int32)[:, None] * (height + 2) * stride
    upper = _mixed(padded[start], padded[start + 1], right)
    start += stride
    lower = _mixed(padded[start], padded[start + 1], right)
    return _mixed(upper, lower, down).reshape(x.shape)


def relit(x: _Images, added: _Numbers, factors: _Numbers) -> _Images:
    """Return each image with more or less contrast, then brightness, within [0, 1].

    Contrast spreads the pixels about their mean.

    Args:
        x: shape (examples, height, width, channels).
        added: What every pixel gains, shape (examples, 1, 1, 1).
        factors: Of the pixels' distance from their mean, shape (examples, 1, 1, 1).
    """
    means = x.mean(axis=(1, 2, 3), keepdims=True)
    changed: _Images = np.clip((x - means) * factors + (means + added), 0, 1)
    return changed


def _split(at: _Numbers, size: int) -> tuple[npt.NDArray[np.int32], _Numbers]:
    """Return the pixel before each position in a margin of 1, and how far it is."""
    at = np.clip(at, 0, size + 1)
    # The last pixel has none after it: there the distance is 1 instead.
    before = np.minimum(at.astype(np.int32), size)
    return before, at - before.astype(np.float32)


def _mixed(one: _Images, other: _Images, share: _Numbers) -> _Images:
    mixed: _Images = one + (other - one) * share[..., None]
    return mixed


def _column(numbers: npt.NDArray[np.float64]) -> _Numbers:
    return numbers.astype(np.float32)[:, None, None, None]
