"""All hyperparameters of a training: the user guide's and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from matseg_shared.contract.metadata import MAX_CHANNELS, OneLine
from matseg_shared.errors import Problem
from matseg_shared.images.channels import GREY, ChannelChoice

Network = Literal["unet", "segnet", "pixelnet", "patchunet", "effunet", "vggunet"]
EFFICIENTNETS = ("lite0", "lite1", "lite2")
"""Encoders of `effunet`."""
_VGG16_NETWORKS = ("segnet", "pixelnet", "vggunet")
"""Networks with the encoder of VGG-16, of its own width unless `width` says another."""
Optimizer = Literal["Adam", "SGD", "AdamW"]
KeptEpoch = Literal["best", "last"]
Loss = Literal["cross_entropy", "dice", "focal", "tversky"]
Pixels = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
RENAMED = {
    "repeat": "crops_per_image",
    "focus": "oversample_classes",
    "samples": "pixels_per_image",
    "keep": "checkpoint",
    "precision": "amp",
}
"""Keys that had another name; config files, checkpoints and logs with it stay readable."""
_WITHOUT_EFFECT = {"workers"}
"""Keys that change how long a training takes and not what it gives."""


class VersionConfig(BaseModel):
    """All hyperparameters of one version; the first block is the user guide's, with its defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    model: Network
    """The network; upper and lower case are the same."""
    n_class: int = Field(ge=2, le=255)
    size: tuple[Pixels, Pixels] | None = None
    """(H, W) in pixels that every image has; None: any size."""
    batch_size: int = Field(default=4, ge=1)
    optimizer: Optimizer = "Adam"
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate at the start."""
    epoch: int = Field(default=40, ge=1)
    aug: bool | Literal["turns"] = False
    """Augment training images: flips, quarter turns, small rotations and scalings; `turns`: only the first two."""
    shuffle: bool = False
    """Visit the training images in a new random order each epoch."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a better validation loss after which the learning rate falls to a tenth; 0: `epoch`."""
    balance: bool = False
    """Weight each class's loss by the reciprocal of its share of the training pixels."""

    channels: int | tuple[int, ...] | None = None
    """Channels of the images that the network takes, from 0, as in [0, 2, 5]; or how many they have. 1: one of grey,
    the mean of coloured ones; None: as they are."""
    context: int | None = Field(default=None, ge=0, le=(MAX_CHANNELS - 1) // 2)
    """Slices of a volume that the network sees on either side of the one that it labels, with which the images were
    imported; None: as many as the images hold."""
    no_data: tuple[float | Literal["circle"], ...] | None = None
    """Pixels that are no sample, besides NaN: those of a value, or of several; "circle": all outside the circle
    inscribed in an image. The training mean is fed there, and their labels do not count."""
    crop_bottom: int | None = Field(default=None, ge=0)
    """Rows at the foot of each image that are no sample, such as a bar of data; None: as its file says."""
    width: int | None = Field(default=None, ge=1, le=1024)
    """Channels of the network's first level; None: the paper's 64, of effunet's decoder 16."""
    encoder: str | None = None
    """effunet: start from the weights of this EfficientNet, trained on ImageNet; None: lite0 with random weights.
    segnet, pixelnet, vggunet: file with weights of VGG-16 to start from, relative to the workspace; None: random."""
    encoder_licence: OneLine | None = None
    """Licence of the file that `encoder` names, as an SPDX identifier; the model carries it; None: unknown."""
    encoder_lr: float = Field(default=1.0, ge=0, le=1)
    """Learning rate of a pretrained encoder, over `lr`; 0: its weights and statistics stay as they are."""
    scale: Literal[1, 2, 4, 8] = 1
    """Work on the means of squares of so many pixels along an edge; labels are at full resolution all the same."""
    crop: int | None = Field(default=None, ge=16)
    """Train on random square crops of this edge in pixels; None: whole images."""
    crops_per_image: int = Field(default=1, ge=1)
    """Crops taken of each training image per epoch."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps per epoch, however many images there are; None: as `crops_per_image` gives."""
    oversample_classes: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that are placed on a random pixel of a random class, instead of anywhere."""
    elastic: float = Field(default=0.0, ge=0, le=32)
    """Largest displacement in pixels of elastic warps, which half of the crops get; 0: none."""
    intensity: float = Field(default=0.0, ge=0, le=1)
    """Largest change of a crop's contrast, as a factor's logarithm, and brightness, in its standard deviations."""
    blur: float = Field(default=0.0, ge=0, le=16)
    """Largest standard deviation in pixels of a Gaussian blur of the crops; 0: none."""
    noise: float = Field(default=0.0, ge=0, le=4)
    """Largest standard deviation of noise that is added to the crops, in theirs; 0: none."""
    loss: Loss = "cross_entropy"
    """`dice` and `tversky` add that term to the cross-entropy; `focal` weights it by how wrong a pixel is."""
    class_weights: tuple[Weight, ...] | None = None
    """Weight of each class's loss; None: all alike, or as `balance` says."""
    pixels_per_image: int = Field(default=2048, ge=1)
    """PixelNet: training pixels sampled per image."""
    schedule: Literal["plateau", "cosine", "polynomial"] = "plateau"
    """`plateau` is the guide's (see `patience`); `cosine` and `polynomial` fall to zero at the last epoch."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty on the weights."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    warmup: int = Field(default=0, ge=0)
    """Batches over which the learning rate rises from zero at the start."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one update of the weights."""
    clip_gradient: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient of all weights together; None: any."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per update of the exponential average of the weights that is validated and kept; 0: the weights are."""
    stop_after: int = Field(default=0, ge=0)
    """Epochs without a better validation mean IoU after which a training ends; 0: none."""
    checkpoint: KeptEpoch = "best"
    """The epoch that is kept: the best on the validation images, or the last, whatever they say."""
    validation_images: tuple[str, ...] | None = None
    """Images of train/, without suffix, that validate instead of training; None: those of validate/; (): none."""
    workers: int = Field(default=0, ge=0, le=64)
    """Processes that load training images ahead; 0: the training loads each batch when it needs it."""
    amp: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Automatic mixed precision; `auto`: bf16 or fp16 where the device is faster with it, else fp32."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _renamed_keys(cls, values: Any) -> Any:
        return current_names(values) if isinstance(values, Mapping) else values

    @field_validator("model", "optimizer", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        names = {name.lower(): name for name in (*get_args(Network), *get_args(Optimizer))}
        return names.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("size", mode="before")
    @classmethod
    def _one_number_is_square(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value, value)
        if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
            raise ValueError("expected [height, width] in pixels, or one number for square images")
        return tuple(value) if isinstance(value, list) else value

    @field_validator("encoder")
    @classmethod
    def _of_a_network_that_has_it(cls, value: str | None, others: ValidationInfo) -> str | None:
        model, width = others.data.get("model"), others.data.get("width")
        if value is None or model is None:
            return value
        if model == "effunet":
            if value not in EFFICIENTNETS:
                raise ValueError('expected "lite0", "lite1" or "lite2", the encoders of effunet')
        elif model not in _VGG16_NETWORKS:
            raise ValueError(
                f"expected one of the models effunet, {', '.join(_VGG16_NETWORKS)}: there are no published encoders of "
                f"{model}"
            )
        elif value in EFFICIENTNETS:
            raise ValueError(
                f"expected the path of a file with weights of VGG-16, as {model} has its encoder"
            )
        elif width not in (None, 64):
            raise ValueError(
                f"expected width = 64, which published weights of VGG-16 have, instead of {width}"
            )
        return value

    @field_validator("encoder_licence")
    @classmethod
    def _of_a_file(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and others.data.get("encoder", "a file") in (None, *EFFICIENTNETS):
            raise ValueError("expected it beside an `encoder` that is a file; of others the licence is known")
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _one_for_each_class(cls, value: object, others: ValidationInfo) -> object:
        weights, classes = tuple(value) if isinstance(value, list | tuple) else (), others.data.get("n_class")
        if value is None:
            return None
        if len(weights) != classes or not any(weights):
            raise ValueError(
                f"expected a weight for each of the {classes} classes, some above 0, as in [1.0, 5.0]"
            )
        if others.data.get("balance"):
            raise ValueError("expected no `balance` beside them; leave out one of the two")
        return weights

    @field_validator("channels", mode="before")
    @classmethod
    def _some_or_how_many(cls, value: object) -> object:
        if value is None or (type(value) is int and 1 <= value <= MAX_CHANNELS):
            return value
        numbers = tuple(value) if isinstance(value, list | tuple) else ()
        if not all(type(number) is int and number >= 0 for number in numbers) or not (
            0 < len(set(numbers)) == len(numbers) <= MAX_CHANNELS
        ):
            raise ValueError(
                f"expected different channels from 0, as in [0, 2, 5], or how many there are, 1 to {MAX_CHANNELS}"
            )
        return numbers

    @field_validator("validation_images", mode="before")
    @classmethod
    def _different_names(cls, value: object) -> object:
        names = tuple(value) if isinstance(value, list | tuple) else ()
        is_list = value is None or isinstance(value, list | tuple)
        if not (is_list and all(isinstance(name, str) for name in names) and len({*names}) == len(names)):
            raise ValueError('expected different names of images without suffix, as in ["a", "b"]')
        return None if value is None else names

    @field_validator("no_data", mode="before")
    @classmethod
    def _one_or_several_values(cls, value: object) -> object:
        kinds: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(kind == "circle" or type(kind) in (int, float) for kind in kinds):
            raise ValueError('expected a value, such as 0, "circle", or a list of these')
        return None if value is None else tuple(float(kind) if kind != "circle" else kind for kind in kinds)

    @field_validator("aug", mode="before")
    @classmethod
    def _all_choices_are_told(cls, value: object) -> object:
        if not (isinstance(value, bool) or value == "turns"):
            raise ValueError('expected true, false or "turns"')
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_endless_numbers(cls, value: object) -> object:
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("expected a number of ordinary size")
        return value

    @property
    def channel_choice(self) -> ChannelChoice:
        """Channels of the images that are taken."""
        if isinstance(self.channels, tuple):
            return self.channels
        return GREY if self.channels == 1 else ()

    @property
    def channel_count(self) -> int | None:
        """Channels of the network's input; None: as many as the images have."""
        return len(self.channels) if isinstance(self.channels, tuple) else self.channels

    def of_fold(self, stems: Sequence[str]) -> VersionConfig:
        """The same, validated by these images, of which the last epoch is kept.

        The best on images that are to tell how good the version is on unseen ones would have been chosen by them.
        """
        return self.model_copy(update={"validation_images": tuple(stems), "checkpoint": "last"})

    @property
    def architecture(self) -> dict[str, Any]:
        """Keys that make another network, besides its name and its numbers of channels and classes."""
        variant = self.encoder if self.model == "effunet" else None
        return {"width": self.width, "encoder": variant, "scale": self.scale}

    @property
    def effective_patience(self) -> int:
        """`patience`, or the number of epochs when it is 0 (the guide's default: never)."""
        return self.patience or self.epoch


def fold_version(version: str, fold: int | str, seed: int | str) -> str:
    """Name of one training of a cross-validation, as of its files."""
    return f"{version}.fold{fold}.seed{seed}"


def base_version(version: str) -> str:
    """The version that a training of a cross-validation is of; another name as it is."""
    return re.sub(r"\.fold\d+\.seed\d+$", "", version)


def takes_encoder(model: str, encoder: object) -> bool:
    """True for a network whose encoder may have these weights, one of `EFFICIENTNETS` or a file of VGG-16."""
    return model == "effunet" if encoder in EFFICIENTNETS else model in _VGG16_NETWORKS


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters under the names they have now; an old name beside the new one stays as it is."""
    return {
        RENAMED[key] if key in RENAMED and RENAMED[key] not in values else key: value
        for key, value in values.items()
    }


def config_differences(trained: Mapping[str, Any], config: VersionConfig) -> list[Problem]:
    """Every hyperparameter that differs between a trained version and the configuration.

    What a version was trained without, because MatSeg did not know it then, had today's default.
    """
    now = config.model_dump(mode="json")
    fields = VersionConfig.model_fields
    defaults = {key: field.default for key, field in fields.items() if not field.is_required()}
    then = defaults | current_names(trained)
    return [
        Problem(
            where=key,
            message=f"trained with {_plain(then.get(key))}, now {_plain(now.get(key))}",
            kind="changed",
        )
        for key in sorted({*then, *now} - _WITHOUT_EFFECT)
        if then.get(key) != now.get(key)
    ]


def _plain(value: object) -> str:
    """A value as Python writes it, whatever a checkpoint holds."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # of more digits, or deeper, than Python prints
        return f"a {type(value).__name__} that cannot be printed"
