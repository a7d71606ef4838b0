"""Measure a model on labelled images, and draw where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.segment import segment_image
from matseg_runtime.session import Session
from matseg_shared.errors import DatasetError
from matseg_shared.files import atomic_write, write_text
from matseg_shared.images import PixelArray, check_dtype
from matseg_shared.metadata import ClassInfo, InputInfo
from matseg_shared.metrics import ConfusionMatrix, confusion_matrix, segmentation_metrics
from matseg_shared.palette import overlay, write_label_png
from matseg_trainer.checkpoint import Checkpoint
from matseg_trainer.data import LabelledImage, LabelledImages
from matseg_trainer.dataset import Dataset
from matseg_trainer.inference import TorchPredictor
from matseg_trainer.plots import plot_confusion

_TILE = 1024
"""Edge of the largest tile for an exported model, in pixels; results do not depend on it."""
_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """A model of either kind: a torch network, or an exported file on onnxruntime."""

    classes: tuple[ClassInfo, ...]
    input: InputInfo
    predict: Callable[[PixelArray], tuple[NDArray[np.uint8], NDArray[np.float32]]]
    """(C, H, W) raw pixels to (H, W) labels and (K, H, W) probabilities."""

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, device: torch.device) -> Predictor:
        """The torch network, in fp32."""
        network = checkpoint.network().to(device)
        predictor = TorchPredictor.of(network, checkpoint.input, device)
        return cls(classes=checkpoint.classes, input=checkpoint.input, predict=predictor.predict)

    @classmethod
    def of_session(cls, session: Session) -> Predictor:
        """An exported model, tiled as `matseg-run` does."""
        metadata = session.model.metadata

        def predict(pixels: PixelArray) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            return segment_image(session, pixels, tile=(_TILE, _TILE), probabilities=True)

        return cls(classes=metadata.classes, input=metadata.input, predict=predict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageScore:
    """One image's figures."""

    stem: str
    matrix: ConfusionMatrix
    loss: float
    """Mean cross-entropy over its pixels, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """A model's figures on one folder of labelled images."""

    name: str
    """`<dataset>_<version>`."""
    split: str
    classes: tuple[ClassInfo, ...]
    images: tuple[ImageScore, ...]

    @property
    def matrix(self) -> ConfusionMatrix:
        """Pooled over all images."""
        total: ConfusionMatrix = np.sum([image.matrix for image in self.images], axis=0)
        return total

    @property
    def loss(self) -> float:
        """Mean over all pixels."""
        pixels = [image.matrix.sum() for image in self.images]
        return float(np.average([image.loss for image in self.images], weights=pixels))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "split": self.split,
            "classes": [item.name for item in self.classes],
            "loss": self.loss,
            **segmentation_metrics(self.matrix).as_dict(),
            "confusion_matrix": self.matrix.tolist(),
            "images": [
                {"stem": image.stem, "loss": image.loss, **segmentation_metrics(image.matrix).as_dict()}
                for image in self.images
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOutputs:
    """Where an evaluation leaves its results."""

    predictions: Path
    overlays: Path | None
    metrics: Path
    confusion: Path


def evaluate(
    dataset: Dataset,
    split: str,
    name: str,
    predictor: Predictor,
    outputs: EvaluationOutputs,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Score every labelled image of a split and write predictions, overlays, metrics and the confusion matrix.

    Args:
        dataset: with label arrays for the split.
        split: `test`, or another folder of the data set.
        name: `<dataset>_<version>`.
        predictor: the model.
        outputs: where results go; those of an earlier evaluation are replaced.
        progress: called with (images done, images in all).

    Raises:
        UsageError: the data do not fit the model.
        OutputError: results cannot be written.
    """
    classes = predictor.classes
    if len(dataset.classes) != len(classes):
        raise DatasetError(
            f"{dataset.root}: its label arrays have {len(dataset.classes)} classes, the model has {len(classes)}"
        )
    samples = dataset.samples(split)
    images = LabelledImages(samples, channels=predictor.input.channels, n_class=len(classes))
    scores = []
    for index, sample in enumerate(samples):
        image: LabelledImage = images[index]
        check_dtype(image.pixels, predictor.input.dtype, sample.image)
        labels, probabilities = predictor.predict(image.pixels)
        scores.append(_score(image, labels, probabilities, len(classes)))
        _write_pictures(image, labels, classes, outputs)
        progress(index + 1, len(samples))
    result = Evaluation(name=name, split=split, classes=classes, images=tuple(scores))
    write_text(outputs.metrics, json.dumps(result.as_dict(), indent=2) + "\n")
    plot_confusion(outputs.confusion, f"{name} on {split}", result.matrix, classes)
    return result


def _score(
    image: LabelledImage, labels: NDArray[np.uint8], probabilities: NDArray[np.float32], n_class: int
) -> ImageScore:
    index = image.labels.astype(np.intp)[np.newaxis]
    right = np.take_along_axis(probabilities, index, axis=0)
    loss = -np.log(np.maximum(right, _SMALLEST_PROBABILITY), dtype=np.float64).mean()
    return ImageScore(
        stem=image.stem, matrix=confusion_matrix(image.labels, labels, n_class), loss=float(loss)
    )


def _write_pictures(
    image: LabelledImage, labels: NDArray[np.uint8], classes: Sequence[ClassInfo], outputs: EvaluationOutputs
) -> None:
    colours = [item.colour for item in classes]
    with atomic_write(outputs.predictions / f"{image.stem}.png") as stream:
        write_label_png(stream, labels, colours)
    if outputs.overlays is not None:
        with atomic_write(outputs.overlays / f"{image.stem}.png") as stream:
            Image.fromarray(overlay(image.labels, labels, colours)).save(stream, format="PNG")
