"""What a LiteRT file or a model holds, as text. Needs no TensorFlow."""

import collections
import pathlib
from collections.abc import Iterator

from coordinator.protocol.manifest import Manifest
from tflite_models import files, flatbuffer


def describe(target: str) -> Iterator[str]:
    """Yield lines about a LiteRT file, or about both files of a model.

    Raises:
        FileNotFoundError: ``target`` is no file, no model's folder and no model.
        ValueError: A file is not what it should be.
    """
    path = pathlib.Path(target)
    if path.is_file():
        yield from describe_file(path.name, path.read_bytes())
        return
    artefacts = files.read(files.locate(target))
    yield from describe_manifest(artefacts.manifest)
    for artefact, content in (
        (artefacts.manifest.train, artefacts.train),
        (artefacts.manifest.infer, artefacts.infer),
    ):
        yield ""
        yield from describe_file(artefact.file, content)


def describe_manifest(manifest: Manifest) -> Iterator[str]:
    """Yield lines about a model's tensors."""
    yield f"{manifest.model}: {manifest.description}"
    yield f"  input {_shape(manifest.input_shape)}, {manifest.classes} classes"
    yield (f"  {manifest.size:,} weights, {manifest.trainable_size:,} of them trained")
    for tensor in manifest.tensors:
        frozen = "" if tensor.trainable else ", frozen"
        yield (
            f"    {tensor.name:<24} {_shape(tensor.shape):<18} "
            f"{tensor.initializer.kind}{frozen}"
        )


def describe_file(name: str, content: bytes) -> Iterator[str]:
    """Yield lines about a LiteRT file's signatures and operators.

    Raises:
        ValueError: ``content`` is no LiteRT file.
    """
    subgraphs = flatbuffer.subgraphs(content)
    yield f"{name}: {len(content):,} bytes"
    for signature in flatbuffer.signatures(content):
        yield f"  signature {signature.name}"
        for direction, tensors in (
            ("takes", signature.inputs),
            ("gives", signature.outputs),
        ):
            for tensor in tensors:
                yield (
                    f"    {direction} {tensor.name:<16} {tensor.dtype:<8} "
                    f"{_shape(tensor.shape)}"
                )
    total: collections.Counter[flatbuffer.Operator] = collections.Counter()
    for subgraph in subgraphs:
        total.update(subgraph.operators)
    yield f"  {total.total()} operators in {len(subgraphs)} subgraphs"
    for operator, count in sorted(total.items(), key=lambda item: item[0].name):
        kind = "  custom: stock LiteRT cannot run it" if operator.is_custom else ""
        yield f"    {count:>5} {operator.name}{kind}"


def _shape(shape: tuple[int | None, ...]) -> str:
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    return f"({lengths})"
