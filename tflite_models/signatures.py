"""The signatures of the training file: their inputs, outputs and meaning."""

from collections.abc import Mapping
from typing import Final

from coordinator.protocol.manifest import Argument, Signature
from tflite_models.network import Network
from tflite_models.optimizers import RULES

_SUMS: Final = (
    Argument(
        name="loss_sum",
        shape=(),
        dtype="float32",
        description="Sum over the examples of the cross-entropy before each step.",
    ),
    Argument(
        name="correct",
        shape=(),
        dtype="float32",
        description="Examples whose most likely class was their label.",
    ),
    Argument(
        name="count", shape=(), dtype="float32", description="Examples, by the mask."
    ),
)
_SETTINGS: Final = {
    name: Argument(name=name, shape=(), dtype="float32", description=description)
    for name, description in {
        "learning_rate": "Step size.",
        "momentum": "How much of the last step the next one keeps.",
        "nesterov": "1: take the momentum's look ahead; 0: do not.",
        "beta_1": "How much of the mean gradient the next step keeps.",
        "beta_2": "How much of the mean squared gradient the next step keeps.",
        "epsilon": "Added to the root of the mean squared gradient.",
        "clip_norm": "Longest gradient of a step, by its global norm; 0: any.",
        "proximal": "FedProx's mu: pull to the weights at the start; 0: none.",
    }.items()
}
_SEED: Final = Argument(
    name="seed",
    shape=(),
    dtype="int32",
    description="Draws the dropout masks; the same seed, the same masks.",
)


def describe(network: Network) -> Mapping[str, Signature]:
    """Return the signatures by name, inputs in the order of the functions."""
    examples = Argument(
        name="x",
        shape=(None, *network.input_shape),
        dtype="float32",
        description="Examples.",
    )
    labels = Argument(
        name="y",
        shape=(None,),
        dtype="int32",
        description=f"Labels, 0 to {network.classes - 1}.",
    )
    present = Argument(
        name="mask",
        shape=(None,),
        dtype="float32",
        description="1 for an example, 0 for padding.",
    )
    weights = Argument(
        name="weights",
        shape=(network.size,),
        dtype="float32",
        description="All weights in manifest order.",
    )
    delta = Argument(
        name="delta",
        shape=(network.trained_size,),
        dtype="float32",
        description="New minus old weights, trainable tensors in manifest order.",
    )
    index = Argument(
        name="index",
        shape=(None, None),
        dtype="int32",
        description="Rows of x that each step takes, shape (steps, batch).",
    )
    steps_present = Argument(
        name="mask",
        shape=(None, None),
        dtype="float32",
        description="1 for an example, 0 for padding, shape (steps, batch).",
    )
    probabilities = Argument(
        name="probabilities",
        shape=(None, network.classes),
        dtype="float32",
        description="Probability of each class.",
    )
    rate = _SETTINGS["learning_rate"]
    epochs = {
        name: Signature(
            description=rule.description,
            inputs=(
                examples,
                labels,
                index,
                steps_present,
                *(_SETTINGS[setting] for setting in rule.settings),
                _SEED,
                weights,
            ),
            outputs=(delta, *_SUMS),
        )
        for name, rule in RULES.items()
    }
    return {
        "train": Signature(
            description="One step of SGD on the mean loss of a batch.",
            inputs=(examples, labels, present, rate, _SEED, weights),
            outputs=(delta, *_SUMS),
        ),
        **epochs,
        "infer": Signature(
            description="Predictions.",
            inputs=(examples, weights),
            outputs=(probabilities,),
        ),
        "evaluate": Signature(
            description="Loss and hits of the predictions, summed.",
            inputs=(examples, labels, present, weights),
            outputs=_SUMS,
        ),
    }
