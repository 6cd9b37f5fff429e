"""Models: register an architecture, hand out its files and versions."""

import dataclasses
import datetime as dt
import pathlib
from collections.abc import Mapping

import pydantic

from coordinator.domain.errors import ModelExists
from coordinator.domain.events import Happening
from coordinator.domain.models import Model, Version
from coordinator.protocol import digests, encodings, first_weights
from coordinator.protocol.manifest import Artefact, Manifest, patch_weights
from coordinator.store import events, models, registry
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction

MANIFEST_FILE = "manifest.json"


class InvalidModel(ValueError):
    """The folder holds no usable model; the message says what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model and its versions."""

    model: Model
    versions: int
    newest_version: int | None
    tags: Mapping[str, int]  #: version by name


def register(
    store: Store, blobs: BlobStore, folder: pathlib.Path, *, now: dt.datetime
) -> Model:
    """Register the model that a folder holds; the same one again is no change.

    Raises:
        InvalidModel: A file is missing or not what the manifest says.
        ModelExists: Another manifest has the name.
    """
    manifest = _read_manifest(folder / MANIFEST_FILE)
    contents = [_read_artefact(folder, artefact) for artefact in manifest.artefacts]
    if manifest.weights is not None:
        _insist_first_weights(manifest, folder, contents[-1])
    for content in contents:
        blobs.put(content)
    canonical = manifest.to_json()
    model = Model(
        manifest=manifest,
        manifest_sha256=blobs.put(canonical),
        manifest_size_bytes=len(canonical),
    )

    def body(tx: Transaction) -> None:
        known = models.find(tx, model.id)
        if known is None:
            models.insert(tx, model, now=now)
            events.append(tx, Happening.MODEL_REGISTERED, now=now, model=model.id)
        elif known.manifest_sha256 != model.manifest_sha256:
            raise ModelExists(model.id)

    store.run("register_model", body)
    return model


def first_values(blobs: BlobStore, model: Model) -> first_weights.Values | None:
    """Return the first weights that a model came with, or none."""
    artefact = model.manifest.weights
    if artefact is None:
        return None
    return first_weights.read(model.manifest, blobs.get(artefact.sha256))


def list_models(store: Store) -> list[ModelView]:
    """Return every model by name."""

    def body(tx: Transaction) -> list[ModelView]:
        return [
            ModelView(
                model=model,
                versions=models.count_versions(tx, model.id),
                newest_version=models.newest_version(tx, model.id),
                tags={tag.name: tag.version for tag in registry.tags_of(tx, model.id)},
            )
            for model in models.every(tx)
        ]

    return store.read(body)


def find(store: Store, model: str) -> Model:
    """Return a model.

    Raises:
        ModelUnknown: There is none.
    """
    return store.read(lambda tx: models.get(tx, model))


def find_version(store: Store, model: str, number: int) -> tuple[Model, Version]:
    """Return a version and its model.

    Raises:
        ModelUnknown, VersionUnknown: As their names say.
    """
    return store.read(
        lambda tx: (models.get(tx, model), models.get_version(tx, model, number))
    )


def inference_file(blobs: BlobStore, model: Model, version: Version) -> bytes:
    """Return the inference artefact with the version's weights inside."""
    weights = encodings.decode_weights(
        model.manifest, blobs.get(version.weights_sha256)
    )
    template = blobs.get(model.manifest.infer.sha256)
    return patch_weights(template, model.manifest, weights)


def _read_manifest(path: pathlib.Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InvalidModel(f"{path} is missing") from None
    except pydantic.ValidationError as error:
        raise InvalidModel(f"{path} is no manifest: {error}") from error


def _read_artefact(folder: pathlib.Path, artefact: Artefact) -> bytes:
    path = folder / artefact.file
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InvalidModel(f"{path} is missing") from None
    if digests.sha256_hex(content) != artefact.sha256:
        raise InvalidModel(f"{path} is not the file that the manifest names")
    return content


def _insist_first_weights(
    manifest: Manifest, folder: pathlib.Path, content: bytes
) -> None:
    try:
        first_weights.read(manifest, content)
    except first_weights.InvalidFirstWeights as error:
        raise InvalidModel(f"first weights in {folder}: {error}") from error
