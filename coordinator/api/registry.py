"""The registry's routes: a model's versions, and tags that point to some of them."""

from typing import Annotated, Any

import fastapi
from fastapi import Query, Request, Response

from coordinator.api import callers, downloads, rendering
from coordinator.api.problems import refusals
from coordinator.api.services import Given
from coordinator.protocol import digests, operations, paths, problems
from coordinator.protocol.manifest import Name
from coordinator.usecases import models, registry
from coordinator.usecases.registry import Tagged

router = fastapi.APIRouter(prefix=paths.MODELS, tags=["model"])
_OPERATOR = (problems.UNAUTHENTICATED, problems.FORBIDDEN)
_UNKNOWN_TAG = (problems.MODEL_UNKNOWN, problems.TAG_UNKNOWN)
#: A tag may be set anew: caches ask again after a minute, and mostly get a 304.
_FOR_A_MINUTE = {"Cache-Control": "public, max-age=60"}
_CACHED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The tag still points where If-None-Match says."}
}
Tag = Annotated[Name, fastapi.Path(description="Name of a version, as production.")]


@router.get(
    "/{model}/versions",
    tags=["operator"],
    response_model=operations.VersionList,
    responses=refusals(*_OPERATOR, problems.MODEL_UNKNOWN),
    dependencies=[callers.READ],
    summary="List a model's versions",
)
async def list_versions(
    model: Name,
    given: Given,
    before: Annotated[
        int | None,
        Query(ge=0, le=2**31 - 1, description="Only versions with a lower number."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> operations.VersionList:
    """List versions over all tasks with origin, scores and tags, newest first."""

    def call() -> operations.VersionList:
        found = models.find(given.store, model)
        entries = registry.list_versions(
            given.store, model=model, before=before, limit=limit
        )
        return operations.VersionList(
            versions=tuple(rendering.version_state(entry, found) for entry in entries)
        )

    return await given.call(call)


@router.get(
    "/{model}/tags/{tag}",
    response_model=operations.TagState,
    responses={**_CACHED, **refusals(*_UNKNOWN_TAG)},
    summary="Look where a tag points",
)
async def get_tag(model: Name, tag: Tag, request: Request, given: Given) -> Response:
    """See which version a tag names now. It may be set anew: cache it for a minute."""

    def call() -> Response:
        found = registry.find_tag(given.store, model=model, name=tag)
        content = rendering.tag_state(found).model_dump_json().encode()
        etag = f'"{digests.sha256_hex(content)}"'
        headers = {"ETag": etag, **_FOR_A_MINUTE}
        if downloads.is_cached(request, etag):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="application/json", headers=headers)

    return await given.call(call)


@router.put(
    "/{model}/tags/{tag}",
    tags=["operator"],
    response_model=operations.TagState,
    responses=refusals(*_OPERATOR, problems.MODEL_UNKNOWN, problems.VERSION_UNKNOWN),
    dependencies=[callers.RUN],
    summary="Set a tag",
)
async def set_tag(
    model: Name,
    tag: Tag,
    body: operations.TagRequest,
    given: Given,
) -> operations.TagState:
    """Let a tag point to a version; apps are meant to run `production`."""

    def call() -> operations.TagState:
        tagged = registry.set_tag(
            given.store,
            model=model,
            name=tag,
            number=body.version,
            now=given.clock.now(),
        )
        return rendering.tag_state(tagged)

    return await given.call(call)


@router.delete(
    "/{model}/tags/{tag}",
    tags=["operator"],
    status_code=204,
    responses={
        204: {"description": "The tag is gone; its version stays."},
        **refusals(*_OPERATOR, *_UNKNOWN_TAG),
    },
    dependencies=[callers.RUN],
    summary="Remove a tag",
)
async def remove_tag(model: Name, tag: Tag, given: Given) -> None:
    """Take a tag away. The version that it pointed to stays."""

    def call() -> None:
        registry.remove_tag(given.store, model=model, name=tag, now=given.clock.now())

    await given.call(call)


@router.get(
    "/{model}/tags/{tag}/weights",
    response_class=Response,
    responses={
        **downloads.binary("safetensors in manifest order.", downloads.TENSORS),
        **downloads.PART,
        **refusals(problems.RANGE_NOT_SATISFIABLE, *_UNKNOWN_TAG, *problems.FILES),
    },
    summary="Get the weights that a tag points to",
)
async def get_tagged_weights(
    model: Name, tag: Tag, request: Request, given: Given
) -> Response:
    """Get the weights of the version that a tag names now.

    Content-Location names the version's own, immutable address.
    """

    def call() -> Response:
        found = registry.find_tag(given.store, model=model, name=tag)
        return downloads.blob(
            request,
            given,
            found.version.weights_sha256,
            downloads.TENSORS,
            _moving(paths.weights(model, found.version.number)),
        )

    return await given.call(call)


@router.get(
    "/{model}/tags/{tag}/model.tflite",
    response_class=Response,
    responses={
        **downloads.binary(
            "The inference graph with that version's weights.", downloads.TENSORS
        ),
        **refusals(*_UNKNOWN_TAG, *problems.FILES),
    },
    summary="Get what a tag points to, to run it",
)
async def get_tagged_inference_file(
    model: Name, tag: Tag, request: Request, given: Given
) -> Response:
    """Get what an app runs to make predictions, in the version that a tag names now.

    Content-Location names the version's own, immutable address.
    """

    def call() -> Response:
        found = registry.find_tag(given.store, model=model, name=tag)
        return downloads.inference_file(
            request, given, found.model, found.version, _moving_inference(found)
        )

    return await given.call(call)


def _moving_inference(found: Tagged) -> dict[str, str]:
    return _moving(paths.inference_file(found.model.id, found.version.number))


def _moving(address: str) -> dict[str, str]:
    return {**_FOR_A_MINUTE, "Content-Location": address}
