"""The models that come with Shoal, as Keras definitions.

Layer names are set here: the manifest's tensor names are made of them.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Final

import keras


def cnn(classes: int = 10) -> keras.Sequential:
    """Return one convolution and a hidden layer, for 28 x 28 images in grey."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv2d"),
            keras.layers.MaxPooling2D(2, name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(classes, activation="softmax", name="output"),
        ],
        name="cnn",
    )


def cnn_deep(classes: int = 10) -> keras.Sequential:
    """Return two convolutions, a hidden layer and dropout, for 28 x 28 images."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv2d_1"),
            keras.layers.MaxPooling2D(2, name="pool_1"),
            keras.layers.Conv2D(64, 3, activation="relu", name="conv2d_2"),
            keras.layers.MaxPooling2D(2, name="pool_2"),
            keras.layers.Dropout(0.25, name="dropout_1"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(256, activation="relu", name="hidden"),
            keras.layers.Dropout(0.5, name="dropout_2"),
            keras.layers.Dense(classes, activation="softmax", name="output"),
        ],
        name="cnn_deep",
    )


def cnn_small(classes: int = 10) -> keras.Sequential:
    """Return two narrow convolutions of 5,258 weights, for 28 x 28 images and privacy.

    Noise is added to every weight, so fewer of them take less of it.
    """
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv2d_1"),
            keras.layers.MaxPooling2D(2, name="pool_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv2d_2"),
            keras.layers.MaxPooling2D(2, name="pool_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(classes, activation="softmax", name="output"),
        ],
        name="cnn_small",
    )


#: name -> definition; its first docstring line describes it in the manifest
BUILDERS: Final[Mapping[str, Callable[..., keras.Sequential]]] = {
    "cnn": cnn,
    "cnn_deep": cnn_deep,
    "cnn_small": cnn_small,
}


def describe(builder: Callable[..., keras.Sequential]) -> str:
    """Return a definition's description, from the first line of its docstring."""
    line = (builder.__doc__ or "").partition("\n")[0].removeprefix("Return ")
    return line[:1].upper() + line[1:]


def load(path: pathlib.Path) -> keras.Sequential:
    """Return the model in a .keras file.

    Raises:
        ValueError: The file is no Keras model.
    """
    return keras.models.load_model(path, compile=False)
