"""Measure a model on labelled images, and draw where it is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, ModelError
from matseg_shared.images.palette import Colour, full_palette
from matseg_shared.images.png import write_label_png
from matseg_shared.images.read import check_dtype, natural_key
from matseg_shared.system.files import atomic_write, write_text
from matseg_trainer.data.examples import Example, Examples
from matseg_trainer.data.folder import Dataset, Sample
from matseg_trainer.evaluate.disagreement import disagreement, ranked
from matseg_trainer.evaluate.document import (
    BOUNDARY_TOLERANCE,
    FOLDS,
    CrossValidation,
    EvaluationDocument,
    ImageResult,
    in_classes,
)
from matseg_trainer.evaluate.figures import Accumulator, accumulate_image, pool, spread_of_images
from matseg_trainer.evaluate.overlay import overlay
from matseg_trainer.evaluate.plots import plot_confusion, plot_reliability
from matseg_trainer.evaluate.table import image_table
from matseg_trainer.predict.predictor import Predictor
from matseg_trainer.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """A model and the split to evaluate it on."""

    name: str
    """The model, `<dataset>_<version>`."""
    split: str
    """`test`, or another folder of the data set; `FOLDS`: images of train/ and validate/."""
    model: Path
    """The checkpoint or ONNX file."""
    dataset: str | None = None
    """The data set, where it is not the model's own; its classes are matched with the model's by their names."""
    tolerance: float = BOUNDARY_TOLERANCE
    """Distance from a boundary that is near, pixels."""
    folds: CrossValidation | None = None
    """The trainings, where the model is those of a cross-validation."""


Part = tuple[Sequence[Sample], Callable[[], Predictor]]
"""Images and the predictor for them, made when their turn comes, so that only the models of one part are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOutputs:
    """Paths of an evaluation's results."""

    predictions: Path
    overlays: Path | None
    metrics: Path
    """The document, `matseg_trainer.evaluate.document.EvaluationDocument`."""
    table: Path
    """One line per image, CSV."""
    confusion: Path
    reliability: Path

    @classmethod
    def of(
        cls,
        place: Workspace,
        dataset: Dataset,
        request: EvaluationRequest,
        network: str,
        *,
        exported: bool,
        overlays: bool,
    ) -> EvaluationOutputs:
        """The usual places: pictures below the split, figures in `log/`, plots in `plots/`.

        Raises:
            DatasetError: the data set has no such split.
        """
        folds = request.folds is not None
        split = dataset.root / FOLDS if folds else dataset.folder(request.split, "predictions").parent
        mark = "_onnx" if exported else ""
        version = request.name
        on = f"_on_{request.dataset}"
        if request.dataset is None:
            version, on = version.removeprefix(f"{dataset.name}_"), ""
        folder = f"{version}_{network}{mark}"
        stem = f"{request.name}.{FOLDS}" if folds else f"{request.name}{on}_{request.split}{mark}"
        return cls(
            predictions=split / "predictions" / folder,
            overlays=split / "overlays" / folder if overlays else None,
            metrics=place.log / f"{stem}.json",
            table=place.log / f"{stem}_images.csv",
            confusion=place.plots / f"{stem}_confusion.png",
            reliability=place.plots / f"{stem}_reliability.png",
        )


def evaluate(
    dataset: Dataset,
    request: EvaluationRequest,
    predictor: Predictor,
    outputs: EvaluationOutputs,
    progress: Callable[[int, int], None],
) -> EvaluationDocument:
    """Score every labelled image of a split; see `evaluate_parts`."""
    parts = [(dataset.samples(request.split), lambda: predictor)]
    return evaluate_parts(dataset, request, parts, outputs, progress)


def evaluate_parts(
    dataset: Dataset,
    request: EvaluationRequest,
    parts: Sequence[Part],
    outputs: EvaluationOutputs,
    progress: Callable[[int, int], None],
) -> EvaluationDocument:
    """Score labelled images and write predictions, overlays, figures and plots.

    Results of an earlier evaluation are replaced; `progress` is called with (images done, images in all).

    Raises:
        UsageError: the data do not fit the model.
        ModelError: the model gives probabilities that are no numbers.
        OutputError: results cannot be written.
    """
    label_images: dict[Path, Path] = {}
    with suppress(DatasetError):  # a split may have label arrays only
        split = request.split if request.folds is None else "train"  # which holds all of them
        label_images = {pair.image: pair.labels for pair in dataset.pairing(split).pairs}
    counts: list[Accumulator] = []
    results: list[ImageResult] = []
    classes: Sequence[ClassInfo] = ()
    indices: Sequence[int] = ()
    for samples, open_predictor in parts:
        predictor = open_predictor()
        classes, given = predictor.classes, predictor.input
        indices = _model_indices(dataset, classes, by_name=request.dataset is not None)
        images = Examples(
            samples,
            channels=given.channels,
            choice=given.picked,
            context=given.context,
            n_class=len(indices),
            no_data=predictor.no_data,
            mean=given.mean,
        )
        for sample, image in zip(samples, images, strict=True):
            check_dtype(image.pixels, given.dtype, sample.image)
            known = replace(image, labels=in_classes(indices, image.labels))
            one, result = _evaluate_image(sample, known, predictor, request, outputs, label_images)
            counts.append(one)
            results.append(result)
            progress(len(results), sum(len(part) for part, _ in parts))
    if request.folds is not None:
        results.sort(key=lambda result: natural_key(result.stem))
    total = pool(counts)
    document = EvaluationDocument(
        **dict(total.figures()),
        name=request.name,
        split=request.split,
        dataset=request.dataset,
        label_classes=None if request.dataset is None else tuple(indices),
        model=relative_path(request.model, outputs.metrics.parent),
        classes=tuple(classes),
        boundary_tolerance=request.tolerance,
        confusion_matrix=total.matrix.tolist(),
        spread=spread_of_images(results),
        reliability=total.calibration.bins(),
        images=ranked(results),
        folds=request.folds,
    )
    write_text(outputs.metrics, document.model_dump_json(indent=2) + "\n")
    write_text(outputs.table, image_table(document))
    plot_confusion(outputs.confusion, document.title, total.matrix, classes)
    plot_reliability(outputs.reliability, document.title, document)
    return document


def _evaluate_image(
    sample: Sample,
    image: Example,
    predictor: Predictor,
    request: EvaluationRequest,
    outputs: EvaluationOutputs,
    label_images: Mapping[Path, Path],
) -> tuple[Accumulator, ImageResult]:
    labels = image.labels
    predictions, probabilities = predictor.predict(image.pixels)
    if not np.isfinite(probabilities).all():
        raise ModelError(
            f"{request.model}: gives probabilities that are not finite on {sample.image}; train again with a "
            "lower learning rate"
        )
    counts = accumulate_image(labels, predictions, probabilities, request.tolerance)
    if image.absent is not None:  # what is no sample could not be labelled
        counts = replace(counts, unlabelled=counts.unlabelled - int(np.count_nonzero(image.absent)))
    wrong = disagreement(labels, predictions, probabilities, predictor.classes, request.tolerance)
    colours: Sequence[Colour] = [item.colour for item in predictor.classes]
    palette = colours
    if image.absent is not None:
        predictions = np.where(image.absent, np.uint8(UNLABELLED), predictions)
        palette = full_palette(colours)
    prediction = outputs.predictions / f"{sample.stem}.png"
    with atomic_write(prediction) as stream:
        write_label_png(stream, predictions, palette)
    drawn = None if outputs.overlays is None else outputs.overlays / f"{sample.stem}.png"
    if drawn is not None:
        with atomic_write(drawn) as stream:
            Image.fromarray(overlay(labels, predictions, colours)).save(stream, format="PNG")
    files = {
        "image": sample.image,
        "label": label_images.get(sample.image),
        "array": sample.labels,
        "prediction": prediction,
        "overlay": drawn,
    }
    folder = outputs.metrics.parent
    links: dict[str, Any] = {name: path and relative_path(path, folder) for name, path in files.items()}
    return counts, ImageResult(
        **dict(counts.figures()),
        **links,
        stem=sample.stem,
        confusion_matrix=counts.matrix.tolist(),
        disagreement=wrong,
    )


def _model_indices(dataset: Dataset, classes: Sequence[ClassInfo], *, by_name: bool) -> Sequence[int]:
    """Index in the model of each class of the label arrays.

    In the model's own data set a class may have been renamed since, but one in another place is another class.
    """
    theirs = dataset.classes
    ours = {item.name: item.index for item in classes}
    if by_name:
        unknown = [item.name for item in theirs if item.name not in ours]
        if unknown:
            raise DatasetError(
                f"{dataset.classes_path}: expected classes of the model, {', '.join(ours)}, found "
                f"{', '.join(unknown)}; give the classes there the model's names"
            )
        return [ours[item.name] for item in theirs]
    if len(theirs) != len(classes):
        raise DatasetError(
            f"{dataset.root}: its label arrays have {len(theirs)} classes, the model has {len(classes)}"
        )
    if any(ours.get(item.name, item.index) != item.index for item in theirs):
        raise DatasetError(
            f"{dataset.classes_path}: expected the classes in the model's order, "
            f"{', '.join(item.name for item in classes)}, found {', '.join(item.name for item in theirs)}; make the "
            "label arrays in that order, or name a model that was trained on these"
        )
    return range(len(classes))


def relative_path(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, with forward slashes; absolute on another drive of Windows.

    Links are not followed, so a data set that is linked into a workspace keeps its place in it.
    """
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.absolute().as_posix()
