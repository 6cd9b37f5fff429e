"""Verified downloads, kept by their address, and the models read from them.

Every address of a manifest, a training graph or weights names immutable bytes, so one
copy serves every device of a swarm, as a site's HTTP cache would. Devices that should
download for themselves get a cache each.
"""

import asyncio
import collections
from typing import Final

import pydantic

from coordinator.protocol import deltas, digests, encodings, paths, tensors
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.protocol.messages import Assignment, Download
from device_sim.client import Client
from device_sim.trainer import Model

_KEPT: Final = 8  # manifest, graph and the newest versions: 3 MB each for `cnn`


class UnreadableDownload(Exception):
    """The bytes have the right digest, but are not what they should be."""


class DownloadCache:
    """Fetches each address once, also when many devices ask at the same time."""

    def __init__(self, client: Client, *, kept: int = _KEPT) -> None:
        self._client = client
        self._kept = kept
        self._fetches: collections.OrderedDict[str, asyncio.Task[bytes]] = (
            collections.OrderedDict()
        )

    async def get(self, download: Download) -> bytes:
        """Return the bytes of ``download``.

        Raises:
            CorruptDownload: They never had the digest they should have.
            Refused: There are no such bytes.
            Unreachable: The coordinator did not answer in time.
        """
        return await self.get_url(
            download.url, sha256=download.sha256, size_bytes=download.size_bytes
        )

    async def get_url(
        self, url: str, *, sha256: str | None = None, size_bytes: int | None = None
    ) -> bytes:
        """Return the bytes at ``url``; see ``Client.fetch``."""
        fetch = self._fetches.get(url)
        if fetch is None or _has_failed(fetch):
            fetch = asyncio.create_task(
                self._client.fetch(url, sha256=sha256, size_bytes=size_bytes)
            )
            self._fetches[url] = fetch
        self._fetches.move_to_end(url)
        while len(self._fetches) > self._kept:
            self._fetches.popitem(last=False)
        # shield: a device that stops waiting must not end the fetch of the others.
        return await asyncio.shield(fetch)


class Library:
    """Models and weights, read from verified downloads.

    Every method raises UnreadableDownload where the bytes are not what they should be,
    and what ``DownloadCache.get`` raises.
    """

    def __init__(self, downloads: DownloadCache) -> None:
        self._downloads = downloads
        self._models: dict[str, Model] = {}

    async def materials(self, assignment: Assignment) -> tuple[Model, Vector]:
        """Return the model of ``assignment`` and the weights to start from."""
        manifest = assignment.manifest
        if manifest.sha256 not in self._models:
            text = await self._downloads.get(manifest)
            graph = await self._downloads.get(assignment.train_graph)
            self._models[manifest.sha256] = _read_model(text, graph, manifest.url)
        model = self._models[manifest.sha256]
        body = await self._downloads.get(assignment.weights)
        return model, _read_weights(model, body, assignment.weights.url)

    async def download(self, wanted: Download) -> bytes:
        """Return the bytes of a download."""
        return await self._downloads.get(wanted)

    async def version(self, name: str, number: int) -> tuple[Model, Vector]:
        """Return a model and one of its versions, by name."""
        text = await self._downloads.get_url(paths.manifest(name))
        sha256 = digests.sha256_hex(text)
        if sha256 not in self._models:
            graph = await self._downloads.get_url(paths.train_graph(name))
            self._models[sha256] = _read_model(text, graph, paths.manifest(name))
        model = self._models[sha256]
        return model, _read_weights(
            model, await self.weights(name, number), paths.weights(name, number)
        )

    async def weights(self, name: str, number: int) -> bytes:
        """Return the weights of a version as published."""
        return await self._downloads.get_url(paths.weights(name, number))


def _read_model(text: bytes, graph: bytes, url: str) -> Model:
    try:
        manifest = Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise UnreadableDownload(f"{url} is no manifest: {error}") from error
    found = digests.sha256_hex(graph)
    if found != manifest.train.sha256:
        raise UnreadableDownload(
            f"{url} names a training graph with SHA-256 {manifest.train.sha256}, "
            f"got {found}"
        )
    return Model(manifest=manifest, graph=graph, sha256=found)


def _read_weights(model: Model, body: bytes, url: str) -> Vector:
    try:
        return encodings.decode_weights(model.manifest, body)
    except (tensors.MalformedTensors, deltas.InvalidUpdate) as error:
        raise UnreadableDownload(f"{url}: {error}") from error


def _has_failed(fetch: asyncio.Task[bytes]) -> bool:
    return fetch.done() and (fetch.cancelled() or fetch.exception() is not None)
