"""Data augmentation on the device: more examples than it has, from those it has.

Moves only. A mirror image of most digits is no digit, and a phone's own handwriting is
upright already.

Source: Simard et al. 2003, "Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis", section 2.
"""

import numpy as np
import numpy.typing as npt

from coordinator.protocol.plans import TrainingPlan

_Images = npt.NDArray[np.float32]
_Labels = npt.NDArray[np.int32]


def shifted_epochs(
    x: _Images, y: _Labels, plan: TrainingPlan, rng: np.random.Generator
) -> tuple[_Images, _Labels]:
    """Return the examples once an epoch, moved anew each time.

    Args:
        x: shape (examples, height, width, channels).
        y: shape (examples,).
        plan: Epochs, and the most pixels to move by.
        rng: Draws the moves.

    Returns:
        Shape (epochs * examples, height, width, channels), and (epochs * examples,).
    """
    epochs = [shifted(x, plan.max_shift, rng) for _ in range(plan.epochs)]
    return np.concatenate(epochs), np.tile(y, plan.epochs)


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
