"""Hand out models: manifests, training graphs, weights, inference files."""

import functools
import re
from typing import Any

import fastapi
from fastapi import Request, Response
from fastapi.responses import FileResponse

from coordinator.api import rendering
from coordinator.api.problems import RangeNotSatisfiable, refusals
from coordinator.api.services import Given, OperatorToken
from coordinator.protocol import digests, operations, paths, problems
from coordinator.protocol.manifest import Name
from coordinator.usecases import devices, models

router = fastapi.APIRouter(prefix=paths.MODELS, tags=["model"])
_FOREVER = "public, max-age=31536000, immutable"
_TENSORS = "application/octet-stream"
_NUMBER = fastapi.Path(ge=0, le=2**31 - 1, description="Version, from 0.")
_CACHED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The bytes that If-None-Match names are still these."}
}


def _binary(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": description,
            "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
        },
        **_CACHED,
    }


_PART: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that Range asks for."}
}
_RANGE = re.compile(r"bytes=(\d+-\d*|-\d+)", re.ASCII)


class _Blob(FileResponse):
    """A file in pieces of 1 MiB; its ETag is the digest of its bytes."""

    chunk_size = 1 << 20


def _headers(sha256: str) -> dict[str, str]:
    return {
        "ETag": f'"{sha256}"',
        "Cache-Control": _FOREVER,
        "Repr-Digest": digests.content_digest(sha256),
    }


def _is_cached(request: Request, etag: str) -> bool:
    sent = request.headers.get("If-None-Match", "")
    tags = [tag.strip().removeprefix("W/") for tag in sent.split(",")]
    return etag in tags or "*" in tags


def _blob(request: Request, given: Given, sha256: str, media_type: str) -> Response:
    headers = _headers(sha256)
    if _is_cached(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    path = given.blobs.path(sha256)
    _settle_range(request, path.stat().st_size)
    return _Blob(path, media_type=media_type, headers=headers)


def _settle_range(request: Request, size: int) -> None:
    """Let a Range that is not of its form count as none (RFC 9110, section 14.2).

    Raises:
        RangeNotSatisfiable: It is of its form, and begins behind the end.
    """
    asked = request.headers.get("Range")
    match = None if asked is None else _RANGE.fullmatch(asked)
    if match is not None:
        first, _, last = match[1].partition("-")
        if first and int(first) >= size:
            raise RangeNotSatisfiable(f"{asked} begins behind the end at {size} bytes")
        if not (first and last) or int(first) <= int(last):
            return
    request.scope["headers"] = [
        (name, value) for name, value in request.scope["headers"] if name != b"range"
    ]


@router.get(
    "",
    tags=["operator"],
    response_model=operations.ModelList,
    responses=refusals(problems.UNAUTHENTICATED, problems.FORBIDDEN),
    summary="List models",
)
async def list_models(given: Given, token: OperatorToken) -> operations.ModelList:
    """List every registered model."""

    def call() -> operations.ModelList:
        devices.authenticate_operator(given.store, token)
        return operations.ModelList(
            models=tuple(
                rendering.model_state(*row) for row in models.list_models(given.store)
            )
        )

    return await given.call(call)


@router.get(
    "/{model}/manifest",
    response_class=Response,
    responses={
        **_binary("The manifest, canonical JSON.", "application/json"),
        **_PART,
        **refusals(problems.RANGE_NOT_SATISFIABLE, problems.MODEL_UNKNOWN),
    },
    summary="Get a model's manifest",
)
async def get_manifest(model: Name, request: Request, given: Given) -> Response:
    """Get tensors in order, signatures and artefacts of a model. Immutable."""
    found = await given.call(functools.partial(models.find, given.store, model))
    return _blob(request, given, found.manifest_sha256, "application/json")


@router.get(
    "/{model}/train.tflite",
    response_class=Response,
    responses={
        **_binary("The training graph, without weights.", _TENSORS),
        **_PART,
        **refusals(problems.RANGE_NOT_SATISFIABLE, problems.MODEL_UNKNOWN),
    },
    summary="Get a model's training graph",
)
async def get_train_graph(model: Name, request: Request, given: Given) -> Response:
    """Get the artefact that trains and evaluates on the device. Immutable.

    Builtin operators only: stock LiteRT runs it. Weights are an input.
    """
    found = await given.call(functools.partial(models.find, given.store, model))
    return _blob(request, given, found.manifest.train.sha256, _TENSORS)


@router.get(
    "/{model}/versions/{version}/weights",
    response_class=Response,
    responses={
        **_binary("safetensors in manifest order.", _TENSORS),
        **_PART,
        **refusals(
            problems.RANGE_NOT_SATISFIABLE,
            problems.MODEL_UNKNOWN,
            problems.VERSION_UNKNOWN,
        ),
    },
    summary="Get a version's weights",
)
async def get_weights(
    model: Name,
    request: Request,
    given: Given,
    version: int = _NUMBER,
) -> Response:
    """Get one version's weights. Immutable."""
    _, found = await given.call(
        lambda: models.find_version(given.store, model, version)
    )
    return _blob(request, given, found.weights_sha256, _TENSORS)


@router.get(
    "/{model}/versions/{version}/model.tflite",
    response_class=Response,
    responses={
        **_binary("The inference graph with this version's weights.", _TENSORS),
        **refusals(problems.MODEL_UNKNOWN, problems.VERSION_UNKNOWN),
    },
    summary="Get a version to run",
)
async def get_inference_file(
    model: Name,
    request: Request,
    given: Given,
    version: int = _NUMBER,
) -> Response:
    """Get the artefact that an app runs to make predictions. Immutable."""

    def call() -> Response:
        found, number = models.find_version(given.store, model, version)
        etag = f'"{found.manifest.infer.sha256[:32]}-{number.weights_sha256[:32]}"'
        headers = {"ETag": etag, "Cache-Control": _FOREVER}
        if _is_cached(request, etag):
            return Response(status_code=304, headers=headers)
        content = models.inference_file(given.blobs, found, number)
        headers["Repr-Digest"] = digests.content_digest(digests.sha256_hex(content))
        return Response(content, media_type=_TENSORS, headers=headers)

    return await given.call(call)
