"""Crops of training images that stand for all images when ranges are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.tiling import pad_to_stride, padded_length
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import check_dtype
from matseg_trainer.data.examples import Example, Examples
from matseg_trainer.data.folder import Dataset
from matseg_trainer.predict.checkpoint import Checkpoint

CROPS = 32
CROP = 256
"""Edge in pixels, about; a multiple of the stride, and no larger than the image."""
SEED = 0
SPLIT = "train"

Crop = NDArray[Any]
"""(1, C, h, w) raw pixels; h and w are multiples of the stride."""


def require_dataset(checkpoint: Checkpoint, dataset: Dataset | None, precision: str) -> Dataset:
    """The data set a checkpoint was trained on, unchanged, with the images that validated it.

    Raises:
        UsageError: there is none, or no image of it validated.
        DatasetError: it is another one, or has changed since.
    """
    if dataset is None:
        raise UsageError(
            f"--precision {precision} needs the data set {checkpoint.training.dataset!r}: ranges are chosen on its "
            "training images, and the result is measured on its validation images"
        )
    dataset = dataset.as_trained(checkpoint.training)
    if "validate" not in dataset.learned_splits:
        raise UsageError(
            f"--precision {precision} is measured on validation images, and {checkpoint.training.version} was trained "
            "without any; export fp32, or train with some"
        )
    if dataset.fingerprint(dataset.learned_splits) != checkpoint.training.fingerprint:
        raise DatasetError(
            f"{dataset.root}: expected the images and labels that {checkpoint.training.version} was trained on, found "
            "others (their fingerprint differs); restore them, or train this version again"
        )
    return dataset


def split_images(checkpoint: Checkpoint, dataset: Dataset, split: str) -> Examples:
    """The labelled images of a split, as the checkpoint takes them."""
    samples = dataset.samples(split)
    given, n_class = checkpoint.input, len(checkpoint.classes)
    images = Examples(
        samples, channels=given.channels, choice=given.picked, context=given.context, n_class=n_class
    )
    for sample, image in zip(samples, images, strict=True):
        check_dtype(image.pixels, checkpoint.input.dtype, sample.image)
    return images


def calibration_crops(images: Examples, stride: int) -> list[Crop]:
    """Random crops, as many of each image as of any other."""
    rng = np.random.default_rng(SEED)
    crops = []
    for number in range(CROPS):
        image: Example = images[number % len(images)]
        edges = [min(padded_length(CROP, stride), length) for length in image.pixels.shape[1:]]
        y, x = (
            int(rng.integers(length - edge + 1))
            for length, edge in zip(image.pixels.shape[1:], edges, strict=True)
        )
        crop = image.pixels[:, y : y + edges[0], x : x + edges[1]]
        padded = np.moveaxis(pad_to_stride(np.moveaxis(crop, 0, -1), stride), -1, 0)
        crops.append(np.ascontiguousarray(padded[np.newaxis]))
    return crops
