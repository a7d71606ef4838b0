"""The model contract: what an ONNX file says about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from matseg_shared.system.names import portable_name_problem, printable

SCHEMA_VERSION: Literal[2] = 2
"""Written; version 1 is read too: it knows one or three channels, and says nothing of what version 2 added."""
MAX_CHANNELS = 64
INPUT_NAME = "image"
LABELS_NAME = "labels"
PROBABILITIES_NAME = "probabilities"
MAX_VALUES = 100_000
"""Most hyperparameters or metrics, however deep they lie."""

Precision = Literal["fp32", "fp16", "int8"]
PAYS_ON: Mapping[Precision, tuple[str, ...]] = {
    "fp32": ("cpu", "cuda", "tensorrt"),
    "fp16": ("cuda", "tensorrt"),
    "int8": ("cpu",),
}
"""Execution providers on which a precision is worth its while; elsewhere it runs, but no faster than fp32."""
PixelDtype = Literal["uint8", "uint16", "float32"]
Byte = Annotated[int, Field(ge=0, le=255)]


def _file_name(name: str) -> str:
    if (problem := portable_name_problem(name)) is not None:
        raise ValueError(f"expected a name for files and folders, found {name!r}: {problem}")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""Exports, folders, tables and pages are named after it."""


def _one_line(name: str) -> str:
    """It stands on terminals, in tables and in file headers."""
    if printable(name) != name or set(name) & set("\n\t"):
        raise ValueError(f"expected a name on one line without control characters, found {name!r}")
    return name


OneLine = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class ClassInfo(_Document):
    """One class of the segmentation."""

    index: int = Field(ge=0, le=254)
    """The value in label arrays and output images."""
    name: OneLine
    colour: tuple[Byte, Byte, Byte]
    """RGB in palettes and overlays."""
    label_value: int | tuple[Byte, Byte, Byte]
    """Its value in the training label images: a grey value, a palette index or an RGB colour."""


class Histogram(_Document):
    """Intensities of the training images, for drift warnings."""

    low: float
    """Left edge of the first bin, in the data's own units."""
    high: float
    """Right edge of the last bin."""
    counts: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Pixels per bin of equal width."""

    @model_validator(mode="after")
    def _bins_with_a_width(self) -> Histogram:
        if not self.low < self.high:
            raise ValueError(f"its right edge {self.high:g} must lie above its left edge {self.low:g}")
        if not math.isfinite(self.high - self.low):
            raise ValueError(
                f"there is no number for the distance between its edges, {self.low:g} to {self.high:g}"
            )
        return self


class InputInfo(_Document):
    """The input `image` (N, C, H, W)."""

    channels: int = Field(ge=1, le=MAX_CHANNELS)
    channel_names: tuple[OneLine, ...] = ()
    """Name of each channel, in order, as in elements of a map; empty: they have none."""
    picked: tuple[Annotated[int, Field(ge=0)], ...] | Literal["grey"] = ()
    """Channels of the data set's pictures that the model takes, in this order, from 0; empty: all of them; `grey`: the
    mean of all, as one."""
    context: int = Field(default=0, ge=0, le=(MAX_CHANNELS - 1) // 2)
    """Slices of a volume that the model sees on either side of the one that it labels. Their channels are among
    `channels`, slice by slice in the order of the volume, the labelled one in the middle."""
    no_data: Literal["mean"] = "mean"
    """Stands for pixels without data: the mean of their channel."""
    crop_bottom: int = Field(default=0, ge=0)
    """Rows at the lower edge of the data set's pictures that are no part of the sample, as a bar of data; pixels."""
    dtype: PixelDtype
    mean: tuple[float, ...]
    """Per channel over the training set, in the data's own units; subtracted inside the graph."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """Per channel over the training set; divided by inside the graph."""
    histogram: Histogram

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> InputInfo:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        slices = 2 * self.context + 1
        if self.channels % slices:
            raise ValueError(
                f"channels must be a multiple of {slices}, the slices that are seen with context {self.context}"
            )
        picked = ("",) if self.picked == "grey" else self.picked
        each = self.channels // slices
        for key, values, count in (
            ("channel_names", self.channel_names, self.channels),
            ("picked", picked, each),
        ):
            if len(values) not in (0, count) or len(set(values)) != len(values):
                raise ValueError(f"{key} needs {count} different values, one per channel, or none")
        return self

    @property
    def of_slice(self) -> InputInfo:
        """The same input, as far as one slice goes: that which is labelled, without its neighbours."""
        if not self.context:
            return self
        own = own_channels(self.channels, self.context)
        values = {"channels": own.stop - own.start, "mean": self.mean[own], "std": self.std[own]}
        return self.model_copy(update={**values, "channel_names": (), "context": 0})


def own_channels(channels: int, context: int) -> slice:
    """Those of a labelled slice among the channels of itself and `context` neighbours on either side."""
    each = channels // (2 * context + 1)
    return slice(context * each, (context + 1) * each)


class TilingInfo(_Document):
    """Rules by which an image may be cut into tiles."""

    stride: int = Field(ge=1, le=256)
    """H and W must be multiples of it, and tiles start at multiples of it; pixels."""
    halo: int = Field(ge=0, le=4096)
    """Outputs this near a cut edge are dropped; measured at export; a multiple of `stride`; pixels."""

    @model_validator(mode="after")
    def _halo_on_the_grid(self) -> TilingInfo:
        if self.halo % self.stride:
            raise ValueError(f"the halo {self.halo} is not a multiple of the stride {self.stride}")
        return self


class InitInfo(_Document):
    """The checkpoint that a training started from instead of random weights."""

    name: str
    """`<dataset>_<version>` of that checkpoint."""
    sha256: str
    """Over its weights, by name."""


class PretrainedInfo(_Document):
    """Weights that somebody else published, from which an encoder started."""

    origin: OneLine
    """Package with its version, or file with its SHA-256."""
    licence: OneLine
    """SPDX identifier, or what the user says of it; `unknown` where nobody said."""

    def __str__(self) -> str:
        return f"{self.origin}, licence {self.licence}"


class TrainingInfo(_Document):
    """Origin of the weights."""

    dataset: FileName
    version: FileName
    network: FileName
    config: dict[str, Any]
    """The full set of hyperparameters."""
    epoch: int = Field(ge=1)
    """The one that was kept, counted from 1: the best by validation mean IoU, or the last."""
    metrics: dict[str, Any]
    """Validation metrics of that epoch."""
    fingerprint: str
    """SHA-256 over the training and validation images and label arrays."""
    seed: int
    packages: dict[str, str]
    """Versions of matseg, torch, numpy and python."""
    init: InitInfo | None = None
    """The checkpoint that it was fine-tuned from; None: random weights."""
    pretrained: PretrainedInfo | None = None
    """The published weights that its encoder started from, also those of the checkpoint that it was fine-tuned from;
    None: none."""
    teacher: dict[str, Any] | None = None
    """The model that it was distilled from, in files of earlier versions; None: from labels alone."""

    @field_validator("config", "metrics", "teacher")
    @classmethod
    def _of_a_size(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        """Limit the size: a checkpoint with one list many times within another unpacks to more than a disk holds."""
        left: list[Any] = [values]
        count = 0
        while left:
            item = left.pop()
            count += 1
            if count > MAX_VALUES:
                raise ValueError(f"more than {MAX_VALUES} values")
            left += (
                item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
            )
        return values


class MemberInfo(_Document):
    """One network of an ensemble."""

    training: TrainingInfo
    sha256: str
    """Over its weights, by name."""


class ParityInfo(_Document):
    """Comparison of the exported graph with the torch network, on this many inputs of several sizes."""

    cases: int = Field(ge=1)
    pixels: int = Field(ge=1)
    max_probability_difference: float
    label_mismatches: int = Field(ge=0)
    """Pixels whose label differs although their two best classes are not tied within rounding: always 0."""
    label_ties: int = Field(ge=0)
    """Pixels whose label differs because their two best probabilities are equal within rounding."""


class CalibrationInfo(_Document):
    """Calibration of an int8 graph: the way from real numbers to integers."""

    method: str
    """The way in which the range of each activation was chosen."""
    split: str
    """Split of the data set whose fingerprint `training` gives."""
    crops: int = Field(ge=1)
    crop: int = Field(ge=1)
    """Edge of a crop, in pixels."""
    seed: int
    ranges: str
    """SHA-256 (hex) over the name, scale and zero point of every activation that is kept in uint8."""
    weight_levels: int = Field(ge=1, le=127)
    """Weights are integers from minus this to this."""
    fp32_layers: tuple[str, ...] = ()
    """Layers that stay in fp32, because int8 costs too much accuracy there; the costliest first."""


class AccuracyInfo(_Document):
    """Cost of the precision, measured with the runtime on whole images."""

    split: str
    images: int = Field(ge=1)
    mean_iou: float = Field(ge=0, le=1)
    """Mean IoU of this file."""
    mean_iou_fp32: float = Field(ge=0, le=1)
    """Mean IoU of the same checkpoint in fp32."""


Views = Literal[1, 4, 8]
"""Ways to flip, and to flip and turn, an image."""


def graph_kind(precision: Precision, tta: Views) -> str:
    """Precision and views of a graph, in few words for a table."""
    return precision if tta == 1 else f"{precision}, {tta} views"


class ExportInfo(_Document):
    """Settings and checks of the export."""

    precision: Precision
    opset: int
    parity: ParityInfo
    """Parity of the fp32 graph; the graph of a lower precision is made from it and measured by `accuracy`."""
    calibration: CalibrationInfo | None = None
    """For int8; None otherwise."""
    accuracy: AccuracyInfo | None = None
    """For fp16 and int8; None otherwise."""
    pays_on: tuple[str, ...] = ()
    """Execution providers on which this precision is faster than fp32; for fp32 all."""
    tta: Views = 1
    """Test-time augmentation: the graph's answer is the mean of so many flipped (4) and turned (8) views; 1: none."""
    packages: dict[str, str]
    """Versions of matseg, torch, onnx and onnxruntime."""


class PixelSize(_Document):
    """Edge length of a pixel, if known."""

    value: float = Field(gt=0)
    unit: str = Field(min_length=1)


class ModelMetadata(_Document):
    """The whole document of one model file."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    name: FileName = Field(min_length=1)
    """`<dataset>_<version>`, as in `saved/`; labels go into a folder of that name unless the user names one."""
    classes: tuple[ClassInfo, ...] = Field(min_length=2, max_length=255)
    input: InputInfo
    tiling: TilingInfo
    training: TrainingInfo
    """That of an ensemble's first member, which also gave `input` and the self-test's image."""
    ensemble: tuple[MemberInfo, ...] = ()
    """All networks of which the file gives the mean probabilities, the first included; empty: it holds one network."""
    export: ExportInfo
    pixel_size: PixelSize | None = None

    @model_validator(mode="after")
    def _classes_in_order(self) -> ModelMetadata:
        found = [item.index for item in self.classes]
        if found != list(range(len(found))):
            raise ValueError(f"class indices must be 0 to {len(found) - 1} in order, found {found}")
        return self

    @property
    def trainings(self) -> tuple[TrainingInfo, ...]:
        """Origin of the weights, network by network."""
        return tuple(member.training for member in self.ensemble) or (self.training,)

    @property
    def network(self) -> str:
        """Name of the network; of an ensemble, of how many of which the mean is."""
        names = ", ".join(dict.fromkeys(training.network for training in self.trainings))
        return f"mean of {len(self.ensemble)}: {names}" if self.ensemble else names

    def pays_on(self, provider: str) -> bool:
        """True when the model's precision is worth its while on an execution provider."""
        return provider in (self.export.pays_on or PAYS_ON[self.export.precision])

    def precision_warning(self, provider: str) -> str | None:
        """A warning for a user whose provider gains nothing from the model's precision; None where it gains."""
        if self.pays_on(provider):
            return None
        better = ", ".join(filter(self.pays_on, PAYS_ON["fp32"]))  # older files name providers that are gone
        lowest = next((name for name in ("int8", "fp16") if provider in PAYS_ON[name]), "fp32")
        return (
            f"{self.export.precision} does not pay on the provider {provider}: it runs there, but no faster than fp32 "
            f"(it pays on {better}); export the checkpoint with --precision {lowest} for {provider}"
        )

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """RGB per class, by index."""
        return tuple(item.colour for item in self.classes)
