"""Build, check and inspect models: `python -m tflite_models --help`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy.typing as npt
import typer

from coordinator.protocol import tensors
from coordinator.protocol.manifest import Manifest
from tflite_models import files, inspection
from tflite_models.quiet import quiet

app = typer.Typer(
    help="Build, check and inspect the models that phones train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def build(
    model: Annotated[
        str,
        typer.Argument(
            help="A model of Shoal's (cnn, cnn_deep, cnn_small), or FILE.keras."
        ),
    ],
    *,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder to write. Default: that of the model of Shoal's; for a model "
            "of your own its name, here or beside FILE.keras."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the coordinator calls the model.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=2, help="Classes of the last layer. Default: 10, or as in FILE.keras."
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER[,LAYER...]",
            help="Layers that stay as they are: devices neither train nor send them.",
        ),
    ] = None,
    weights: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="FILE.safetensors with the first weights, such as a version of "
            "another task. Default: those in FILE.keras; for a model of Shoal's each "
            "task draws its own from its plan's seed."
        ),
    ] = None,
    drawn: Annotated[
        bool,
        typer.Option("--drawn", help="Leave out the weights that FILE.keras holds."),
    ] = False,
) -> None:
    """Write train.tflite, model.tflite and manifest.json of a model.

    First weights that the model comes with go into weights.safetensors: they are taken
    by name and shape. Only those of the last layer may be missing or have another
    shape; each task then draws that layer anew.
    """
    with quiet():
        # TensorFlow takes seconds to load; `inspect` and `--help` need none
        from tflite_models import building, keras_models, transfer  # noqa: PLC0415  - as above
        from tflite_models.gradients import layer  # noqa: PLC0415  - as above
        from tflite_models.patches import UnpatchableModel  # noqa: PLC0415  - as above

    given = None if weights is None else _read_weights(weights)
    inherited = None
    try:
        with quiet():
            if model in keras_models.BUILDERS:
                builder = keras_models.BUILDERS[model]
                definition = builder(classes or 10)
                description = keras_models.describe(builder)
                default = files.FOLDER / model
                if any((name, classes, freeze, weights)):
                    default = _own_name(name, model)
            else:
                path = _existing(model)
                default = path.with_suffix("")
                definition = keras_models.load(path)
                description = f"Built from {path.name}."
                given = given or (None if drawn else transfer.values(definition))
                definition = transfer.with_classes(definition, classes)
            if freeze:
                transfer.freeze(definition, freeze)
            if given is not None:
                inherited = transfer.inherit(definition, given)
            if frozen := transfer.frozen(definition):
                if given is None:
                    raise _frozen_as_drawn(frozen)
                description += f" Frozen: {', '.join(frozen)}."
            artefacts = building.build(
                definition,
                name=name or definition.name,
                description=description,
                values=None if inherited is None else inherited.values,
            )
    except (layer.UnsupportedLayer, UnpatchableModel, transfer.Unfit) as error:
        raise typer.BadParameter(str(error)) from error
    folder = out or default
    artefacts.write(folder)
    _describe(folder, artefacts.manifest)
    if inherited is not None and inherited.drawn:
        print(f"  drawn anew by each task: {', '.join(inherited.drawn)}")
    if inherited is not None and inherited.left:
        print(f"  not of this model, left out: {', '.join(inherited.left)}")


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help="A model of Shoal's, or a folder that build wrote.")
    ],
    keras_file: Annotated[
        str | None,
        typer.Option(
            "--keras",
            help="The FILE.keras, or model of Shoal's, that the folder was built from.",
        ),
    ] = None,
) -> None:
    """Prove a model's files: no Flex, gradients as Keras's, exact weights.

    Exits with 1 if anything does not hold. What needs the Keras definition is left out
    for a folder that is no model of Shoal's, unless --keras names it.
    """
    try:
        artefacts = files.read(files.locate(model))
    except (FileNotFoundError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    with quiet():
        from tflite_models import check as proofs  # noqa: PLC0415  - loads TensorFlow
        from tflite_models import keras_models, transfer  # noqa: PLC0415  - loads TensorFlow

        if keras_file is None:
            definition = proofs.find_model(artefacts.manifest)
        else:
            if keras_file in keras_models.BUILDERS:
                definition = keras_models.BUILDERS[keras_file]()
            else:
                definition = keras_models.load(_existing(keras_file))
            try:
                definition = transfer.as_built(definition, artefacts.manifest)
            except transfer.Unfit as error:
                raise typer.BadParameter(str(error)) from error
        findings = list(proofs.check(artefacts, definition))
    for finding in findings:
        mark = "ok    " if finding.passed else "FAILED"
        print(f"{mark}  {finding.subject:<48}  {finding.detail}")
    if definition is None:
        print("not compared with Keras: give the definition with --keras")
    failed = sum(not finding.passed for finding in findings)
    print(f"{len(findings) - failed} of {len(findings)} hold")
    if failed:
        raise typer.Exit(1)


@app.command()
def inspect(
    target: Annotated[
        str, typer.Argument(help="A model of Shoal's, a folder, or FILE.tflite.")
    ],
) -> None:
    """Print signatures, tensors and operators, without loading TensorFlow."""
    try:
        for line in inspection.describe(target):
            print(line)
    except (FileNotFoundError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _own_name(name: str | None, model: str) -> pathlib.Path:
    if name is None or name == model:
        raise typer.BadParameter(
            f"what differs from {model} as it ships needs a --name of its own"
        )
    return pathlib.Path(name)


def _read_weights(path: pathlib.Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        container = tensors.read(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    except tensors.MalformedTensors as error:
        raise typer.BadParameter(f"{path} is no safetensors file: {error}") from error
    return {entry.name: container.array(entry) for entry in container.entries}


def _frozen_as_drawn(frozen: Sequence[str]) -> typer.BadParameter:
    return typer.BadParameter(
        f"{', '.join(frozen)} would stay frozen as drawn, which teaches nothing: "
        "name their --weights, or build from a FILE.keras that holds them"
    )


def _describe(folder: pathlib.Path, manifest: Manifest) -> None:
    trained = manifest.trainable_size
    part = "" if trained == manifest.size else f", {trained:,} of them trained"
    print(f"{folder}: {manifest.size:,} weights{part}")
    for artefact in manifest.artefacts:
        print(
            f"  {artefact.file:<19} {artefact.size_bytes:>10,} bytes  {artefact.sha256}"
        )


def _existing(model: str) -> pathlib.Path:
    path = pathlib.Path(model)
    if path.suffix != ".keras" or not path.is_file():
        raise typer.BadParameter(f"{model} is no model of Shoal's and no FILE.keras")
    return path


if __name__ == "__main__":
    app()
