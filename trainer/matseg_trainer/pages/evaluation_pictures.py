"""The images of an evaluation that a page shows, each in four layers that a reader wipes between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, ImageError
from matseg_shared.images.channels import to_shown
from matseg_shared.images.context import of_slice
from matseg_shared.images.palette import full_palette
from matseg_shared.images.read import PixelArray, read_image, read_stored
from matseg_shared.images.tiff import stored_context
from matseg_shared.pages.pictures import (
    GreyWindow,
    hatch,
    jpeg_uri,
    label_uri,
    png_uri,
    shrink,
    shrink_labels,
)
from matseg_trainer.evaluate.document import EvaluationDocument, ImageResult
from matseg_trainer.evaluate.metrics import confusion_matrix
from matseg_trainer.evaluate.overlay import overlay

WORST, BEST = 6, 3
"""Images to show from either end of the ranking; up to `ALL` images all are shown."""
ALL = 12
EDGES = (1024, 720, 480, 320)
"""Longer edge of a picture in pixels; the first at which all pictures fit the budget."""
BUDGET = 10_000_000
"""Characters of all pictures together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Place of the largest wrong region, in per cent of width and height."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """One image; each layer is a data URI, or "" when it cannot be shown."""

    stem: str
    rank: int
    mean_iou: float | None
    shape: tuple[int, int]
    """(H, W) in pixels."""
    image: str
    label: str
    prediction: str
    wrong: str
    reason: str
    ring: Ring | None
    problems: tuple[str, ...]
    """Files that are missing or have changed."""


class _Loaded(NamedTuple):
    result: ImageResult
    image: PixelArray | None
    labels: NDArray[np.uint8] | None
    prediction: NDArray[np.uint8] | None
    problems: tuple[str, ...]


def take_pictures(
    document: EvaluationDocument, folder: Path, show: Sequence[int] = ()
) -> tuple[ShownImage, ...]:
    """Read images, labels and predictions of the worst and the best, the worst first; `folder` is the document's."""
    ranked = document.worst_first
    chosen = ranked if len(ranked) <= ALL else (*ranked[:WORST], *ranked[-BEST:])
    loaded = [_load(document, result, folder, show) for result in chosen]
    shown: tuple[ShownImage, ...] = ()
    for edge in EDGES:
        shown = tuple(_shown(item, edge, document.classes, show) for item in loaded)
        if sum(len(i.image) + len(i.label) + len(i.prediction) + len(i.wrong) for i in shown) <= BUDGET:
            break
    return shown


def _load(document: EvaluationDocument, result: ImageResult, folder: Path, show: Sequence[int]) -> _Loaded:
    problems: list[str] = []

    def attempt(what: str, read: Callable[[], PixelArray]) -> PixelArray | None:
        try:
            return read()
        except (DatasetError, ImageError) as error:
            problems.append(f"its {what}: {error}")
            return None

    n_class = len(document.classes)
    image = attempt("image", lambda: read_image(folder / result.image))
    if image is not None and not show:
        image = of_slice(image, stored_context(folder / result.image))
    labels = attempt("labels", lambda: document.load_labels(result, folder))
    prediction = attempt("prediction", lambda: _read_prediction(folder / result.prediction, n_class))
    if labels is not None and prediction is not None:
        same_shape = labels.shape == prediction.shape
        if same_shape:  # of no data there is no prediction, whatever was drawn
            labels = np.where(prediction == UNLABELLED, prediction, labels)
        then = np.array(result.confusion_matrix)
        if not (same_shape and np.array_equal(confusion_matrix(labels, prediction, n_class), then)):
            changed = "its labels or its prediction have changed since the evaluation"
            problems.append(f"{changed}; run matseg-evaluate again")
        prediction = prediction if same_shape else None
    return _Loaded(result, image, labels, prediction, tuple(problems))


def _read_prediction(path: Path, n_class: int) -> NDArray[np.uint8]:
    pixels = read_stored(path).pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or not (pixels[pixels != UNLABELLED] < n_class).all():
        raise ImageError(path, "expected class indices, found others")
    return pixels


def _shown(item: _Loaded, edge: int, classes: Sequence[ClassInfo], show: Sequence[int]) -> ShownImage:
    known = [array for array in (item.image, item.labels, item.prediction) if array is not None]
    shape = (known[0].shape[0], known[0].shape[1]) if known else (3, 4)
    colours = [one.colour for one in classes]
    image = wrong = ""
    if item.image is not None:
        small = shrink(to_shown(item.image, show), edge)
        image = jpeg_uri(small if small.dtype == np.uint8 else GreyWindow.of([small]).apply(small))
    if item.labels is not None and item.prediction is not None:
        small = shrink(overlay(item.labels, item.prediction, colours), edge)
        wrong = png_uri(hatch(small, shrink_labels(item.labels, edge) == UNLABELLED))
    label = prediction = ""
    if item.labels is not None:
        small = shrink_labels(item.labels, edge)
        label = png_uri(overlay(small, small, colours))
    if item.prediction is not None:
        prediction = label_uri(shrink_labels(item.prediction, edge), full_palette(colours))
    disagreement = item.result.disagreement
    region, ring = disagreement.largest_region, None
    if region is not None:
        ring = Ring(
            x=round(100 * (region.x + 0.5) / shape[1], 2),
            y=round(100 * (region.y + 0.5) / shape[0], 2),
            text=f"largest wrong region: {region.pixels} pixels at x {region.x}, y {region.y}, labelled "
            f"{classes[region.labelled].name}, predicted {classes[region.predicted].name} with probability "
            f"{region.confidence:.2f}",
        )
    return ShownImage(
        stem=item.result.stem,
        rank=disagreement.rank,
        mean_iou=item.result.mean_iou,
        shape=shape,
        image=image,
        label=label,
        prediction=prediction,
        wrong=wrong,
        reason=disagreement.reason,
        ring=ring,
        problems=item.problems,
    )
