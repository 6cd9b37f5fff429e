"""A model's files in a folder. Needs no TensorFlow."""

import dataclasses
import hashlib
import pathlib
from typing import Final

from coordinator.protocol.manifest import Artefact, Manifest

FOLDER: Final = pathlib.Path(__file__).parent / "artefacts"
MANIFEST_FILE: Final = "manifest.json"
TRAIN_FILE: Final = "train.tflite"
INFER_FILE: Final = "model.tflite"
WEIGHTS_FILE: Final = "weights.safetensors"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """The files of a model and the manifest that names them."""

    manifest: Manifest
    train: bytes
    infer: bytes
    weights: bytes | None = None  #: first values of some or all tensors

    def write(self, folder: pathlib.Path) -> None:
        """Write the files, the manifest last."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.weights is not None:
            (folder / WEIGHTS_FILE).write_bytes(self.weights)
        (folder / TRAIN_FILE).write_bytes(self.train)
        (folder / INFER_FILE).write_bytes(self.infer)
        (folder / MANIFEST_FILE).write_bytes(self.manifest.to_json())


def locate(name_or_folder: str) -> pathlib.Path:
    """Return the folder of a model: one that exists, or that of a model of Shoal's.

    Raises:
        FileNotFoundError: There is no manifest in either.
    """
    candidates = (pathlib.Path(name_or_folder), FOLDER / name_or_folder)
    for folder in candidates:
        if (folder / MANIFEST_FILE).is_file():
            return folder
    known = ", ".join(
        sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))
    )
    raise FileNotFoundError(
        f"{name_or_folder} is no folder with a {MANIFEST_FILE}, and no model of "
        f"Shoal's: {known}"
    )


def read(folder: pathlib.Path) -> Artefacts:
    """Read a model's files and check them against their manifest.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The manifest is none, or a file has not the digest it states.
    """
    manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    contents = []
    for artefact in manifest.artefacts:
        content = (folder / artefact.file).read_bytes()
        found = describe(artefact.file, content)
        if found != artefact:
            raise ValueError(
                f"{folder / artefact.file} must have SHA-256 {artefact.sha256}, "
                f"got {found.sha256}"
            )
        contents.append(content)
    train, infer, *own = contents
    weights = own[0] if own else None
    return Artefacts(manifest=manifest, train=train, infer=infer, weights=weights)


def describe(file: str, content: bytes) -> Artefact:
    """Return a file's name, size and digest."""
    digest = hashlib.sha256(content).hexdigest()
    return Artefact(file=file, size_bytes=len(content), sha256=digest)
