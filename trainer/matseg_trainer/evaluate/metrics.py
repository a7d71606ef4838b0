"""The user guide's figures, all from one confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED

ConfusionMatrix = NDArray[np.int64]
"""(K, K) pixel counts: row = labelled class, column = predicted class."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """Numbers that add up over images, field by field."""

    def __add__(self, other: Self) -> Self:
        added = {item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        return replace(self, **added)


def confusion_matrix(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], n_class: int
) -> ConfusionMatrix:
    """Count each (labelled, predicted) pair of class indices, of any shape; pixels without a label are left out.

    Raises:
        ValueError: the shapes differ, or an index is `n_class` or more (it would be counted as another pair).
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
    known = labels != UNLABELLED
    labels, predictions = labels[known], predictions[known]
    for what, indices in (("labels", labels), ("predictions", predictions)):
        if indices.size and not 0 <= indices.min() <= indices.max() < n_class:
            raise ValueError(
                f"{what} hold class indices {indices.min()} to {indices.max()}, expected 0 to {n_class - 1}"
            )
    pairs = labels.astype(np.int64).ravel() * n_class + predictions.ravel()
    return np.bincount(pairs, minlength=n_class * n_class).reshape(n_class, n_class).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationMetrics:
    """Figures between 0 and 1; NaN where a class is in neither labels nor predictions."""

    iou: tuple[float, ...]
    """Intersection over union (Jaccard index) per class."""
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    """Per class; the Dice coefficient."""
    accuracy: float
    """Share of pixels with the right class (global accuracy)."""
    mean_iou: float
    """Mean over the classes that occur."""


def segmentation_metrics(matrix: ConfusionMatrix) -> SegmentationMetrics:
    """All figures of a (K, K) confusion matrix."""
    hit = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(axis=1)
    predicted = matrix.sum(axis=0)
    iou = _ratio(hit, labelled + predicted - hit)
    return SegmentationMetrics(
        iou=tuple(iou.tolist()),
        precision=tuple(_ratio(hit, predicted).tolist()),
        recall=tuple(_ratio(hit, labelled).tolist()),
        f1=tuple(_ratio(2 * hit, labelled + predicted).tolist()),
        accuracy=float(hit.sum() / matrix.sum()) if matrix.sum() else float("nan"),
        mean_iou=float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan"),
    )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.number]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def or_none(value: float) -> float | None:
    """A figure for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)
