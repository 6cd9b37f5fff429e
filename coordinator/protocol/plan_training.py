"""The tables of a plan that devices are sent: how they train, and how they write."""

from typing import Final, Literal, Self

import pydantic
from pydantic import Field

from coordinator.protocol.deltas import EncodingName
from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.manifest import Request
from coordinator.protocol.plan_checks import refuse_set
from coordinator.protocol.plan_schedule import ScheduledRate

_LEAST_CLIP_NORM: Final = 1e-6  # the graph's float32 would make less of it 0, or off


class TrainingPlan(ScheduledRate):
    """What a device does with its own examples in one round."""

    optimizer: Literal["sgd", "adam"] = Field(
        "sgd",
        description="Local optimizer, inside the training graph; begins anew in every "
        "round.",
    )
    learning_rate: float = Field(
        0.1, gt=0, le=10, allow_inf_nan=False, description="Step size of the optimizer."
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="`sgd`: how much of the last step the next one keeps.",
    )
    nesterov: bool = Field(
        False,  # noqa: FBT003 - the default
        description="`sgd`: take the momentum's look ahead.",
    )
    beta_1: float = Field(
        0.9,
        ge=0,
        le=0.99999,
        allow_inf_nan=False,
        description="`adam`: how much of the mean gradient is kept.",
    )
    beta_2: float = Field(
        0.999,
        ge=0,
        le=0.99999,
        allow_inf_nan=False,
        description="`adam`: how much of the mean squared gradient is kept.",
    )
    epsilon: float = Field(
        1e-7,
        ge=1e-12,
        le=1,
        allow_inf_nan=False,
        description="`adam`: added to the root of the mean squared gradient.",
    )
    proximal: float = Field(
        0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="FedProx's mu: how strongly each step is pulled back to the "
        "weights that the round began with; 0: not at all.",
    )
    clip_norm: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Longest gradient of a step (L2, over all tensors); a longer one "
        "is scaled down to it; 0: any.",
    )
    batch_size: int = Field(20, ge=1, le=1024, description="Examples a step.")
    epochs: int = Field(1, ge=1, le=100, description="Passes over the examples.")
    max_shift: int = Field(
        0,
        ge=0,
        le=8,
        description="Augmentation: in every epoch each image is moved by up to so many "
        "pixels, drawn anew, each way; what comes in is 0.",
    )
    max_rotation: float = Field(
        0.0,
        ge=0,
        le=45,
        allow_inf_nan=False,
        description="Augmentation: each image is turned by up to so many degrees.",
    )
    max_scale: float = Field(
        0.0,
        ge=0,
        le=0.5,
        allow_inf_nan=False,
        description="Augmentation: each image is made larger or smaller by up to this "
        "share.",
    )
    max_brightness: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Augmentation: up to so much is added to all pixels of an image or "
        "taken away, of which 1 is white.",
    )
    max_contrast: float = Field(
        0.0,
        ge=0,
        le=0.9,
        allow_inf_nan=False,
        description="Augmentation: the pixels' distance from their mean is made larger "
        "or smaller by up to this share.",
    )
    flip: bool = Field(
        False,  # noqa: FBT003 - the default
        description="Augmentation: an image is mirrored, left to right, as often as "
        "not. Wrong for handwriting: a mirrored digit or letter is mostly none.",
    )
    max_examples: int = Field(
        10_000,
        ge=1,
        le=MAX_EXAMPLES,
        description="Most examples a device trains on and counts in one round.",
    )

    @pydantic.model_validator(mode="after")
    def _settings_are_the_optimizers_own(self) -> Self:
        if self.optimizer == "adam":
            refuse_set(self, {"momentum", "nesterov"}, "adam")
        else:
            refuse_set(self, {"beta_1", "beta_2", "epsilon"}, "sgd")
        if 0 < self.clip_norm < _LEAST_CLIP_NORM:
            raise ValueError(
                f"clip_norm must be 0 or at least {_LEAST_CLIP_NORM}, "
                f"got {self.clip_norm}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @property
    def signature(self) -> str:
        """Name of the training graph's signature that does this."""
        name = "train_epoch"
        if self.optimizer == "adam":
            name += "_adam"
        elif self.momentum:
            name += "_momentum"
        elif self.clip_norm and not self.proximal:
            return f"{name}_proximal"  # which clips too, with a pull of 0
        return f"{name}_proximal" if self.proximal else name

    def augmentations(self) -> dict[str, float]:
        """Return the augmentations that are asked for, with how much; none: empty."""
        asked = {
            "max_shift": self.max_shift,
            "max_rotation": self.max_rotation,
            "max_scale": self.max_scale,
            "max_brightness": self.max_brightness,
            "max_contrast": self.max_contrast,
            "flip": self.flip,
        }
        return {name: value for name, value in asked.items() if value}


class UpdatePlan(Request):
    """How devices write their deltas. One that cannot, writes ``f32``."""

    encoding: EncodingName = Field(
        "f32",
        description="`f32`; `f16`, half the bytes; `q8`, a quarter: 8 bits an element "
        "and one scale a tensor; `topk`: only the largest elements.",
    )
    topk_share: float = Field(
        0.05,
        gt=0,
        le=0.5,
        allow_inf_nan=False,
        description="Share of the elements that `topk` sends, 8 bytes each.",
    )
    error_feedback: bool = Field(
        True,  # noqa: FBT003 - the default
        description="A device adds to its delta what the encoding left out of its last "
        "accepted one. Makes no difference to `f32`.",
    )
