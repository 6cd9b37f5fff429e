"""A tiny model whose artefacts are stand-ins, and updates for it.

Nothing here runs a graph: these tests are about what happens to bytes and numbers.
"""

import pathlib

import numpy as np

from coordinator.protocol import digests, encodings
from coordinator.protocol.manifest import (
    Artefact,
    Initializer,
    Manifest,
    Patch,
    TensorSpec,
    Vector,
)
from coordinator.protocol.plan_training import UpdatePlan

TRAIN = b"a training graph"
INFER = bytes(range(64)) + bytes(4 * 10) + b"the end"


def tiny_manifest(name: str = "tiny") -> Manifest:
    """A dense layer of two inputs and three outputs, and a bias; ten parameters."""
    dense = Initializer(kind="glorot_uniform", fan_in=2, fan_out=3)
    zeros = Initializer(kind="zeros", fan_in=3, fan_out=3)
    return Manifest(
        model=name,
        description="ten parameters",
        input_shape=(2,),
        classes=3,
        tensors=(
            TensorSpec(
                name="dense/kernel",
                shape=(2, 3),
                offset=0,
                trainable=True,
                initializer=dense,
            ),
            TensorSpec(
                name="dense/bias",
                shape=(3,),
                offset=6,
                trainable=True,
                initializer=zeros,
            ),
            TensorSpec(
                name="scale", shape=(1,), offset=9, trainable=True, initializer=dense
            ),
        ),
        signatures={},
        train=Artefact(
            file="train.tflite",
            size_bytes=len(TRAIN),
            sha256=digests.sha256_hex(TRAIN),
        ),
        infer=Artefact(
            file="model.tflite",
            size_bytes=len(INFER),
            sha256=digests.sha256_hex(INFER),
        ),
        patches=(
            Patch(tensor="dense/kernel", file_offset=64, axes=(1, 0)),
            Patch(tensor="dense/bias", file_offset=88, axes=(0,)),
            Patch(tensor="scale", file_offset=100, axes=(0,)),
        ),
    )


def write_tiny_model(
    root: pathlib.Path, name: str = "tiny", *, weights: bytes | None = None
) -> pathlib.Path:
    """Write the model's folder as `tflite_models build` would."""
    folder = root / name
    folder.mkdir(parents=True)
    manifest = tiny_manifest(name)
    if weights is not None:
        (folder / "weights.safetensors").write_bytes(weights)
        artefact = Artefact(
            file="weights.safetensors",
            size_bytes=len(weights),
            sha256=digests.sha256_hex(weights),
        )
        manifest = manifest.model_copy(update={"weights": artefact})
    (folder / "train.tflite").write_bytes(TRAIN)
    (folder / "model.tflite").write_bytes(INFER)
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return folder


def update_body(
    delta: Vector | list[float],
    *,
    examples: int = 1,
    manifest: Manifest | None = None,
    train_loss: float = 1.0,
    train_accuracy: float = 0.5,
    update: UpdatePlan | None = None,
) -> bytes:
    """An update's body, as a plan wants it written."""
    update = update or UpdatePlan()
    return encodings.encode_update(
        manifest or tiny_manifest(),
        encodings.Update(
            delta=np.asarray(delta, np.float32),
            examples=examples,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
        ),
        encoding=update.encoding,
        topk_share=update.topk_share,
        rng=np.random.default_rng(0),
    )
