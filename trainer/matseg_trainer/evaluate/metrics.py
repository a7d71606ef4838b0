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
    """Figures between 0 and 1; None where a class is in neither labels nor predictions."""

    iou: tuple[float | None, ...]
    """Intersection over union (Jaccard index) per class."""
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    """Per class; the Dice coefficient."""
    accuracy: float | None
    """Share of pixels with the right class (global accuracy)."""
    mean_iou: float | None
    """Mean over the classes that occur."""


def segmentation_metrics(matrix: ConfusionMatrix) -> SegmentationMetrics:
    """All figures of a (K, K) confusion matrix."""
    hit = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(axis=1)
    predicted = matrix.sum(axis=0)
    iou = _ratios(hit, labelled + predicted - hit)
    return SegmentationMetrics(
        iou=iou,
        precision=_ratios(hit, predicted),
        recall=_ratios(hit, labelled),
        f1=_ratios(2 * hit, labelled + predicted),
        accuracy=float(hit.sum() / matrix.sum()) if matrix.sum() else None,
        mean_iou=float(np.nanmean(np.array(iou, np.float64))) if matrix.sum() else None,
    )


def _ratios(parts: NDArray[np.float64], wholes: NDArray[np.number]) -> tuple[float | None, ...]:
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return tuple(part / whole if whole else None for part, whole in pairs)
