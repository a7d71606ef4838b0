"""Measure a model on labelled images, and draw where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, ModelError
from matseg_shared.images.palette import overlay
from matseg_shared.images.png import write_label_png
from matseg_shared.images.read import check_dtype
from matseg_shared.system.files import atomic_write, relative_path, write_text
from matseg_trainer.data.dataset import LabelledImage, LabelledImages
from matseg_trainer.data.folder import Dataset, Sample
from matseg_trainer.evaluate.disagreement import WrongPixels, rank_images, wrong_pixels
from matseg_trainer.evaluate.document import BOUNDARY_TOLERANCE, EvaluationDocument, ImageResult
from matseg_trainer.evaluate.figures import Accumulator, accumulate_image, pool, spread_of_images
from matseg_trainer.evaluate.metrics import ConfusionMatrix
from matseg_trainer.evaluate.plots import plot_confusion, plot_reliability
from matseg_trainer.evaluate.table import image_table
from matseg_trainer.predict.predictor import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOutputs:
    """Where an evaluation leaves its results."""

    predictions: Path
    overlays: Path | None
    metrics: Path
    """The document, `matseg_trainer.evaluate.document.EvaluationDocument`."""
    table: Path
    """One line per image, CSV."""
    confusion: Path
    reliability: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What is evaluated on what."""

    name: str
    """`<dataset>_<version>`."""
    split: str
    """`test`, or another folder of the data set."""
    model: Path
    """The checkpoint or ONNX file."""
    tolerance: float = BOUNDARY_TOLERANCE
    """How far from a boundary is near, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scored:
    sample: Sample
    tally: Accumulator
    wrong: WrongPixels


def evaluate(
    dataset: Dataset,
    request: EvaluationRequest,
    predictor: Predictor,
    outputs: EvaluationOutputs,
    progress: Callable[[int, int], None],
) -> EvaluationDocument:
    """Score every labelled image of a split and write predictions, overlays, figures and plots.

    Args:
        dataset: with label arrays for the split.
        request: what is evaluated.
        predictor: the model.
        outputs: where results go; those of an earlier evaluation are replaced.
        progress: called with (images done, images in all).

    Raises:
        UsageError: the data do not fit the model.
        ModelError: the model gives probabilities that are no numbers.
        OutputError: results cannot be written.
    """
    classes = predictor.classes
    _require_same_classes(dataset, classes)
    samples = dataset.samples(request.split)
    images = LabelledImages(samples, channels=predictor.input.channels, n_class=len(classes))
    scored = []
    for index, sample in enumerate(samples):
        scored.append(_score(images[index], sample, predictor, request, outputs))
        progress(index + 1, len(samples))
    document = _document(dataset, request, classes, scored, outputs)
    write_text(outputs.metrics, document.model_dump_json(indent=2) + "\n")
    write_text(outputs.table, image_table(document))
    title = f"{request.name} on {request.split}"
    plot_confusion(outputs.confusion, title, np.array(document.confusion_matrix), classes)
    plot_reliability(outputs.reliability, title, document)
    return document


def _require_same_classes(dataset: Dataset, classes: Sequence[ClassInfo]) -> None:
    """Figures compare indices. A class may have been renamed since, but one in another place is another class."""
    theirs = dataset.classes
    if len(theirs) != len(classes):
        raise DatasetError(
            f"{dataset.root}: its label arrays have {len(theirs)} classes, the model has {len(classes)}"
        )
    ours = {item.name: item.index for item in classes}
    if any(ours.get(item.name, item.index) != item.index for item in theirs):
        raise DatasetError(
            f"{dataset.classes_path}: expected the classes in the model's order, "
            f"{', '.join(item.name for item in classes)}, found {', '.join(item.name for item in theirs)}; make the "
            "label arrays in that order, or name a model that was trained on these"
        )


def _score(
    image: LabelledImage,
    sample: Sample,
    predictor: Predictor,
    request: EvaluationRequest,
    outputs: EvaluationOutputs,
) -> _Scored:
    check_dtype(image.pixels, predictor.input.dtype, sample.image)
    labels, probabilities = predictor.predict(image.pixels)
    if not np.isfinite(probabilities).all():
        raise ModelError(
            f"{request.model}: gives probabilities that are not finite on {sample.image}; train again with a "
            "lower learning rate"
        )
    tally = accumulate_image(image.labels, labels, probabilities, request.tolerance)
    wrong = wrong_pixels(image.labels, labels, probabilities, tally.matrix, request.tolerance)
    _write_pictures(image, labels, predictor.classes, outputs)
    return _Scored(sample=sample, tally=tally, wrong=wrong)


def _write_pictures(
    image: LabelledImage, labels: NDArray[np.uint8], classes: Sequence[ClassInfo], outputs: EvaluationOutputs
) -> None:
    colours = [item.colour for item in classes]
    with atomic_write(outputs.predictions / f"{image.stem}.png") as stream:
        write_label_png(stream, labels, colours)
    if outputs.overlays is not None:
        with atomic_write(outputs.overlays / f"{image.stem}.png") as stream:
            Image.fromarray(overlay(image.labels, labels, colours)).save(stream, format="PNG")


def _document(
    dataset: Dataset,
    request: EvaluationRequest,
    classes: tuple[ClassInfo, ...],
    scored: Sequence[_Scored],
    outputs: EvaluationOutputs,
) -> EvaluationDocument:
    figures = [item.tally.figures() for item in scored]
    ranking = rank_images(figures, [item.wrong for item in scored], classes, request.tolerance)
    label_images = _label_images(dataset, request.split)

    def link(path: Path) -> str:
        return relative_path(path, outputs.metrics.parent)

    images = []
    for item, own, disagreement in zip(scored, figures, ranking, strict=True):
        label = label_images.get(item.sample.image)
        picture = f"{item.sample.stem}.png"
        images.append(
            ImageResult(
                **dict(own),
                stem=item.sample.stem,
                image=link(item.sample.image),
                label=None if label is None else link(label),
                array=link(item.sample.array),
                prediction=link(outputs.predictions / picture),
                overlay=None if outputs.overlays is None else link(outputs.overlays / picture),
                confusion_matrix=_rows(item.tally.matrix),
                disagreement=disagreement,
            )
        )
    total = pool([item.tally for item in scored])
    return EvaluationDocument(
        **dict(total.figures()),
        name=request.name,
        split=request.split,
        model=link(request.model),
        classes=classes,
        boundary_tolerance=request.tolerance,
        confusion_matrix=_rows(total.matrix),
        spread=spread_of_images(images),
        reliability=total.calibration.bins(),
        images=tuple(images),
    )


def _label_images(dataset: Dataset, split: str) -> dict[Path, Path]:
    try:
        return {pair.image: pair.label for pair in dataset.pairing(split).pairs}
    except DatasetError:
        return {}  # a split may have label arrays only


def _rows(matrix: ConfusionMatrix) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
