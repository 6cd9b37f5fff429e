"""Who holds what, for people: a table and a picture of devices and labels."""

import io
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sim.data.federation import Federation

FILE: Final = "partition.png"
_ROWS: Final = 20  # devices in the table; the picture has all


def count(federation: Federation) -> npt.NDArray[np.int64]:
    """Return how many examples of each label a device trains on.

    Returns:
        Shape (devices, classes).
    """
    return np.stack(
        [
            np.bincount(shard.train_labels, minlength=federation.classes)
            for shard in federation.shards
        ]
    )


def table(federation: Federation) -> str:
    """Return a compact table: the first devices, and a summary of all."""
    counts = count(federation)
    used = np.flatnonzero(counts.any(axis=0))
    names = [shard.name for shard in federation.shards[:_ROWS]]
    width = max(len("device"), *map(len, names))
    cell = max(4, len(str(counts.max())) + 1)
    head = "".join(f"{label:>{cell}}" for label in used)
    lines = [f"{'device':<{width}}  train  test  {head}"]
    for name, shard, row in zip(names, federation.shards, counts, strict=False):
        cells = "".join(f"{number or '.':>{cell}}" for number in row[used].tolist())
        lines.append(
            f"{name:<{width}} {len(shard.train_labels):>6} {len(shard.test_labels):>5}"
            f"  {cells}"
        )
    if len(federation.shards) > _ROWS:
        lines.append(f"... and {len(federation.shards) - _ROWS} more")
    sizes = counts.sum(axis=1)
    labels = (counts > 0).sum(axis=1)
    lines.append(
        f"{len(sizes)} devices train on {sizes.sum()} examples: {sizes.min()} to "
        f"{sizes.max()} each, median {np.median(sizes):g}; {labels.min()} to "
        f"{labels.max()} labels each, mean {labels.mean():.1f}; "
        f"{len(federation.held_out_labels)} examples are held out"
    )
    return "\n".join(lines)


def draw(federation: Federation) -> bytes:
    """Return a PNG: a row a device, a column a label, darker for more examples.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    # Here, not above: 0.3 s that only this function needs.
    import matplotlib.figure  # noqa: PLC0415
    import matplotlib.ticker  # noqa: PLC0415

    counts = count(federation)
    figure = matplotlib.figure.Figure(figsize=(8, 9), dpi=130, layout="constrained")
    grid, sizes = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": [4, 1]}
    )
    shown = grid.imshow(counts, aspect="auto", cmap="Blues", interpolation="nearest")
    figure.colorbar(shown, ax=sizes, label="training examples")
    grid.set_title(f"{len(counts)} devices on {federation.name.rpartition('/')[2]}")
    grid.set_xlabel("label")
    grid.set_ylabel("device")
    for axis in (grid.xaxis, grid.yaxis):
        axis.set_major_locator(
            matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1)
        )
    sizes.barh(np.arange(len(counts)), counts.sum(axis=1), height=1.0, color="#0072B2")
    sizes.set_xlabel("examples")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
