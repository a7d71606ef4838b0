"""Texts and cover of a bioimage.io package: its documentation, its picture, its citations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.images.channels import GREY, described, shown_choice

_COVER_EDGE = 256
"""Edge of each half in pixels: even noise stays below the 500 kB that a cover may have."""
_NETWORKS = {
    "unet": (
        "Ronneberger, Fischer, Brox 2015: U-Net: Convolutional Networks for Biomedical Image Segmentation",
        "10.48550/arXiv.1505.04597",
    ),
    "segnet": (
        "Badrinarayanan, Kendall, Cipolla 2017: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image "
        "Segmentation",
        "10.48550/arXiv.1511.00561",
    ),
    "effunet": (
        "Tan and Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
        "10.48550/arXiv.1905.11946",
    ),
    "vggunet": (
        "Simonyan and Zisserman 2015: Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "10.48550/arXiv.1409.1556",
    ),
    "pixelnet": (
        "Bansal, Chen, Russell, Gupta, Ramanan 2017: PixelNet: Representation of the pixels, by the pixels, and for "
        "the pixels",
        "10.48550/arXiv.1702.06506",
    ),
}


def network_citation(network: str) -> tuple[str, str]:
    """Title and DOI of the paper that a network comes from; patchunet is a U-Net on patches of pixels."""
    return _NETWORKS["unet" if network == "patchunet" else network]


def cover(path: Path, image: NDArray[Any], labels: NDArray[np.uint8], metadata: ModelMetadata) -> None:
    """Write a PNG, twice as wide as high: the image (C, H, W) and its labels (H, W) in the classes' colours."""
    histogram = metadata.input.histogram
    grey = (image.astype(np.float64) - histogram.low) / (histogram.high - histogram.low)
    shown = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    if len(shown) != 3:
        shown = shown[:1]
    left = np.moveaxis(np.broadcast_to(shown, (3, *shown.shape[1:])), 0, -1)
    edge = min(labels.shape)
    picture = Image.new("RGB", (2 * _COVER_EDGE, _COVER_EDGE))
    for place, pixels in enumerate((left, np.asarray(metadata.colours, np.uint8)[labels])):
        half = Image.fromarray(np.ascontiguousarray(pixels[:edge, :edge]))
        picture.paste(
            half.resize((_COVER_EDGE, _COVER_EDGE), Image.Resampling.NEAREST), (place * _COVER_EDGE, 0)
        )
    picture.save(path, format="PNG")


def documentation(metadata: ModelMetadata, sha256: str) -> str:
    """The package's README in Markdown, from what the model says about itself; `sha256` is the ONNX file's."""
    given, tiling = metadata.input, metadata.tiling
    subject = f"An ensemble ({metadata.network})" if metadata.ensemble else f"The network {metadata.network}"
    colour = {1: "one grey channel", 3: "red, green and blue"}.get(given.channels)
    if colour is None or given.channel_names:
        colour = described(given)
    if given.context:
        colour += f", of a slice of a volume in the middle of {given.context} neighbours on either side,"
    if given.picked:
        of_them = (
            "the mean of the channels" if given.picked == GREY else f"channels {shown_choice(given.picked)}"
        )
        colour += f", {of_them} of the training pictures,"
    rows = [f"| {item.index} | {item.name} | {item.colour} |" for item in metadata.classes]
    return "\n".join(
        [
            f"# {metadata.name}",
            "",
            f"{subject}, which labels every pixel of an image as one of {len(metadata.classes)} classes, trained and "
            "exported with MatSeg.",
            "",
            "| label | class | colour (red, green, blue) |",
            "|---|---|---|",
            *rows,
            "",
            "## Input and output",
            "",
            f"The input is {colour} of {given.dtype} as stored; do not normalise: the model subtracts the mean "
            f"{_numbers(given.mean)} and divides by the deviation {_numbers(given.std)} of its training images itself. "
            f"These had intensities from {given.histogram.low:g} to {given.histogram.high:g}; other exposures need "
            "mapping to that range.",
            "",
            f"`labels` holds the most probable class of each pixel, `probabilities` all of them. Height and width are "
            f"multiples of {tiling.stride}; in blocks, outputs within {tiling.halo} pixels of a cut depend on what is "
            "beyond it and are cropped. Programs that pad the image's own border, too, may label pixels that near to "
            "it otherwise than matseg-run, which does not.",
            "",
            "## Training",
            "",
            *_trainings(metadata),
            "",
            "## Validation",
            "",
            "Label some images of your own by hand, run the model on them, and compare by class: intersection over "
            "union says how well regions agree, the phase fractions say what error a measurement would have. Expect "
            "less than the figures above where the material, the instrument or the pixel size differ from the training "
            "images.",
            "",
            f"SHA-256 of the ONNX file: `{sha256}`; `matseg-inspect` prints all it says about itself.",
            "",
        ]
    )


def _trainings(metadata: ModelMetadata) -> Iterator[str]:
    for number, training in enumerate(metadata.trainings):
        if number:
            yield ""
        yield (
            f"Data set `{training.dataset}`, version `{training.version}`, epoch {training.epoch}, seed "
            f"{training.seed}; SHA-256 of the images and labels: `{training.fingerprint}`. Validation metrics of that "
            f"epoch: {_metrics(training.metrics)}."
        )
        if training.pretrained:
            yield ""
            yield f"Its encoder started from {training.pretrained}."


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _metrics(metrics: dict[str, Any]) -> str:
    shown = [
        f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items() if isinstance(value, float)
    ]
    return ", ".join(shown) or "not recorded"
