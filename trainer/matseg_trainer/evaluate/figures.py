"""Counts on one image or on all, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add, attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_trainer.evaluate.boundary import BoundaryAccumulator, BoundaryEdges, compare_boundaries
from matseg_trainer.evaluate.calibration import CalibrationAccumulator, calibration
from matseg_trainer.evaluate.document import Figures, ImageResult, Spread, SpreadOfImages
from matseg_trainer.evaluate.metrics import ConfusionMatrix, Sums, confusion_matrix, segmentation_metrics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accumulator(Sums):
    """Counts that add up over images."""

    matrix: ConfusionMatrix
    calibration: CalibrationAccumulator
    boundary: BoundaryAccumulator
    class_boundaries: NDArray[np.object_]
    """(K,) `BoundaryAccumulator`."""
    unlabelled: int
    """Pixels that are in none of the others."""

    def figures(self) -> Figures:
        """Undefined ones are None."""
        pixels = int(self.matrix.sum())
        labelled, predicted = (self.matrix.sum(axis=axis) / pixels for axis in (1, 0))
        return Figures(
            pixels=pixels,
            unlabelled=self.unlabelled,
            **asdict(segmentation_metrics(self.matrix)),
            loss=self.calibration.mean_loss,
            brier=self.calibration.mean_brier,
            calibration_error=self.calibration.expected_error,
            labelled_fraction=tuple(labelled.tolist()),
            predicted_fraction=tuple(predicted.tolist()),
            fraction_error=tuple((predicted - labelled).tolist()),
            boundary=self.boundary.figures(),
            class_boundaries=tuple(counts.figures() for counts in self.class_boundaries),
        )


def accumulate_image(
    labels: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    tolerance: float,
) -> Accumulator:
    """Count everything on the labelled pixels of one image, one of them at least.

    Args:
        labels, predictions: (H, W) class indices; labels may be `UNLABELLED`.
        probabilities: (K, H, W).
        tolerance: for boundary precision and recall, pixels.
    """
    n_class = len(probabilities)
    unlabelled = labels == UNLABELLED
    labelled = BoundaryEdges.of(labels)
    predicted = BoundaryEdges.of(np.where(unlabelled, np.uint8(UNLABELLED), predictions))
    whole = compare_boundaries(labelled.midpoints, predicted.midpoints, tolerance)
    by_class = [whole, whole]  # both classes have the one boundary between them
    if n_class != 2:
        pairs = [(labelled.of_class(index), predicted.of_class(index)) for index in range(n_class)]
        by_class = [compare_boundaries(*pair, tolerance) for pair in pairs]
    return Accumulator(
        matrix=confusion_matrix(labels, predictions, n_class),
        calibration=calibration(labels, predictions, probabilities),
        boundary=whole,
        class_boundaries=np.array(by_class, dtype=object),
        unlabelled=int(unlabelled.sum()),
    )


def pool(images: Sequence[Accumulator]) -> Accumulator:
    """The counts of all images together."""
    return reduce(add, images)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Mean, quartiles (by linear interpolation) and extremes of the values that are defined."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not known.size:
        return None
    names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
    quantiles = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return Spread(images=known.size, mean=float(known.mean()), **dict(zip(names, quantiles, strict=True)))


def spread_of_images(images: Sequence[ImageResult]) -> SpreadOfImages:
    """The spread of every figure over the images."""

    def one(name: str) -> Spread | None:
        return spread_of([attrgetter(name)(image) for image in images])

    def per_class(values: Callable[[ImageResult], Sequence[float | None]]) -> tuple[Spread | None, ...]:
        return tuple(spread_of(column) for column in zip(*map(values, images), strict=True))

    of_all = ("accuracy", "mean_iou", "loss", "brier", "calibration_error")
    figures: dict[str, Any] = {name: one(name) for name in of_all}
    figures |= {name: per_class(attrgetter(name)) for name in ("iou", "f1", "fraction_error")}
    return SpreadOfImages(
        **figures,
        absolute_fraction_error=per_class(lambda image: [abs(value) for value in image.fraction_error]),
        boundary_displacement=one("boundary.displacement"),
        boundary_f1=one("boundary.f1"),
        class_boundary_displacement=per_class(lambda image: [b.displacement for b in image.class_boundaries]),
        class_boundary_f1=per_class(lambda image: [b.f1 for b in image.class_boundaries]),
    )
