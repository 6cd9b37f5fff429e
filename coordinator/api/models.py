"""Hand out models: manifests, training graphs, weights, inference files."""

import functools

import fastapi
from fastapi import Request, Response

from coordinator.api import callers, downloads, rendering
from coordinator.api.problems import refusals
from coordinator.api.services import Given
from coordinator.protocol import operations, paths, problems
from coordinator.protocol.manifest import Manifest, Name
from coordinator.usecases import models

router = fastapi.APIRouter(prefix=paths.MODELS, tags=["model"])
_NUMBER = fastapi.Path(ge=0, le=2**31 - 1, description="Version, from 0.")


@router.get(
    "",
    tags=["operator"],
    response_model=operations.ModelList,
    responses=refusals(problems.UNAUTHENTICATED, problems.FORBIDDEN),
    dependencies=[callers.READ],
    summary="List models",
)
async def list_models(given: Given) -> operations.ModelList:
    """List every registered model."""

    def call() -> operations.ModelList:
        return operations.ModelList(
            models=tuple(
                rendering.model_state(view) for view in models.list_models(given.store)
            )
        )

    return await given.call(call)


@router.get(
    "/{model}/manifest",
    response_class=Response,
    responses={
        200: {"model": Manifest, "description": "The manifest, canonical JSON."},
        **downloads.CACHED,
        **downloads.PART,
        **refusals(
            problems.RANGE_NOT_SATISFIABLE, problems.MODEL_UNKNOWN, *problems.FILES
        ),
    },
    summary="Get a model's manifest",
)
async def get_manifest(model: Name, request: Request, given: Given) -> Response:
    """Get tensors in order, signatures and artefacts of a model. Immutable."""
    found = await given.call(functools.partial(models.find, given.store, model))
    return downloads.blob(request, given, found.manifest_sha256, "application/json")


@router.get(
    "/{model}/train.tflite",
    response_class=Response,
    responses={
        **downloads.binary("The training graph, without weights.", downloads.TENSORS),
        **downloads.PART,
        **refusals(
            problems.RANGE_NOT_SATISFIABLE, problems.MODEL_UNKNOWN, *problems.FILES
        ),
    },
    summary="Get a model's training graph",
)
async def get_train_graph(model: Name, request: Request, given: Given) -> Response:
    """Get the artefact that trains and evaluates on the device. Immutable.

    Builtin operators only: stock LiteRT runs it. Weights are an input.
    """
    found = await given.call(functools.partial(models.find, given.store, model))
    return downloads.blob(
        request, given, found.manifest.train.sha256, downloads.TENSORS
    )


@router.get(
    "/{model}/versions/{version}/weights",
    response_class=Response,
    responses={
        **downloads.binary("safetensors in manifest order.", downloads.TENSORS),
        **downloads.PART,
        **refusals(
            problems.RANGE_NOT_SATISFIABLE,
            problems.MODEL_UNKNOWN,
            problems.VERSION_UNKNOWN,
            *problems.FILES,
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
    return downloads.blob(request, given, found.weights_sha256, downloads.TENSORS)


@router.get(
    "/{model}/versions/{version}/model.tflite",
    response_class=Response,
    responses={
        **downloads.binary(
            "The inference graph with this version's weights.", downloads.TENSORS
        ),
        **refusals(problems.MODEL_UNKNOWN, problems.VERSION_UNKNOWN, *problems.FILES),
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
        return downloads.inference_file(request, given, found, number)

    return await given.call(call)
