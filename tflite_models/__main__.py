"""Build, check and inspect models: `python -m tflite_models --help`."""

import pathlib
from typing import Annotated

import typer

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
        str, typer.Argument(help="A model of Shoal's (cnn, cnn_deep), or FILE.keras.")
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder to write. Default: the model's own, or beside FILE.keras."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the coordinator calls the model.")
    ] = None,
    classes: Annotated[
        int, typer.Option(min=2, help="Classes of a model of Shoal's.")
    ] = 10,
) -> None:
    """Write train.tflite, model.tflite and manifest.json of a model."""
    with quiet():
        # TensorFlow takes seconds to load; `inspect` and `--help` need none
        from tflite_models import building, keras_models  # noqa: PLC0415  - as above
        from tflite_models.gradients import layer  # noqa: PLC0415  - as above
        from tflite_models.patches import UnpatchableModel  # noqa: PLC0415  - as above

    try:
        with quiet():
            if model in keras_models.BUILDERS:
                builder = keras_models.BUILDERS[model]
                default = files.FOLDER / (name or model)
                definition = builder(classes)
                description = keras_models.describe(builder)
            else:
                path = _existing(model)
                default = path.with_suffix("")
                definition = keras_models.load(path)
                description = f"Built from {path.name}."
            artefacts = building.build(
                definition, name=name or definition.name, description=description
            )
    except (layer.UnsupportedLayer, UnpatchableModel) as error:
        raise typer.BadParameter(str(error)) from error
    folder = out or default
    artefacts.write(folder)
    manifest = artefacts.manifest
    print(f"{folder}: {manifest.size:,} weights")
    for artefact in (manifest.train, manifest.infer):
        print(
            f"  {artefact.file:<14} {artefact.size_bytes:>10,} bytes  {artefact.sha256}"
        )


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help="A model of Shoal's, or a folder that build wrote.")
    ],
    keras_file: Annotated[
        pathlib.Path | None,
        typer.Option("--keras", help="The FILE.keras that the folder was built from."),
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
        from tflite_models import keras_models  # noqa: PLC0415  - loads TensorFlow

        if keras_file is not None:
            definition = keras_models.load(keras_file)
        else:
            definition = proofs.find_model(artefacts.manifest)
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


def _existing(model: str) -> pathlib.Path:
    path = pathlib.Path(model)
    if path.suffix != ".keras" or not path.is_file():
        raise typer.BadParameter(f"{model} is no model of Shoal's and no FILE.keras")
    return path


if __name__ == "__main__":
    app()
