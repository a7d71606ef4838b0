"""Where labels and predictions of an image part, and which images to look at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.evaluate.boundary import BoundaryEdges, distances
from matseg_trainer.evaluate.document import Confusion, Disagreement, Figures, WrongRegion
from matseg_trainer.evaluate.metrics import ConfusionMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongPixels:
    """What is wrong with one image."""

    pixels: int
    near_boundary: float | None
    """Share within the tolerance of a labelled boundary."""
    confusions: tuple[Confusion, ...]
    """Most pixels first."""
    largest: WrongRegion | None


def wrong_pixels(
    labels: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    matrix: ConfusionMatrix,
    tolerance: float,
) -> WrongPixels:
    """Describe the wrong pixels of one image.

    Args:
        labels: (H, W) class indices.
        predictions: (H, W) class indices.
        probabilities: (K, H, W).
        matrix: their confusion matrix.
        tolerance: how far from a labelled boundary a pixel counts as near, pixels.
    """
    wrong = labels != predictions
    count = int(wrong.sum())
    if not count:
        return WrongPixels(pixels=0, near_boundary=None, confusions=(), largest=None)
    centres = np.argwhere(wrong).astype(np.float64)
    gaps = distances(centres, BoundaryEdges.of(labels).midpoints, at_most=tolerance)
    errors = matrix - np.diag(np.diag(matrix))
    pairs = sorted(np.argwhere(errors).tolist(), key=lambda pair: -int(errors[pair[0], pair[1]]))
    confusions = tuple(
        Confusion(
            labelled=labelled,
            predicted=predicted,
            pixels=int(errors[labelled, predicted]),
            share=int(errors[labelled, predicted]) / count,
        )
        for labelled, predicted in pairs
    )
    return WrongPixels(
        pixels=count,
        near_boundary=float(np.isfinite(gaps).mean()),
        confusions=confusions,
        largest=_largest_region(labels, predictions, probabilities, confusions),
    )


def _largest_region(
    labels: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    confusions: Sequence[Confusion],
) -> WrongRegion:
    from scipy import ndimage

    best: WrongRegion | None = None
    for item in confusions:
        if best is not None and item.pixels <= best.pixels:
            break  # no later confusion has that many pixels at all
        regions, _ = ndimage.label((labels == item.labelled) & (predictions == item.predicted))
        sizes = np.bincount(regions.ravel())
        sizes[0] = 0
        largest = int(sizes.argmax())
        if best is None or sizes[largest] > best.pixels:
            pixels = np.argwhere(regions == largest)
            y, x = pixels[np.square(pixels - pixels.mean(axis=0)).sum(axis=1).argmin()].tolist()
            confidence = probabilities[item.predicted, pixels[:, 0], pixels[:, 1]].mean(dtype=np.float64)
            best = WrongRegion(
                labelled=item.labelled,
                predicted=item.predicted,
                pixels=int(sizes[largest]),
                x=x,
                y=y,
                confidence=min(1.0, float(confidence)),
            )
    assert best is not None  # there is a wrong pixel
    return best


def rank_images(
    figures: Sequence[Figures], wrong: Sequence[WrongPixels], classes: Sequence[ClassInfo], tolerance: float
) -> tuple[Disagreement, ...]:
    """Rank the images from the lowest mean IoU on, ties by the share of wrong pixels; in the images' own order."""

    def badness(index: int) -> tuple[float, float]:
        mean_iou = figures[index].mean_iou
        return (1.0 if mean_iou is None else mean_iou, -wrong[index].pixels / figures[index].pixels)

    ranks = {index: rank for rank, index in enumerate(sorted(range(len(figures)), key=badness), start=1)}
    return tuple(
        Disagreement(
            rank=ranks[index],
            wrong_pixels=item.pixels,
            near_boundary=item.near_boundary,
            confusions=item.confusions,
            largest_region=item.largest,
            reason=_reason(item, classes, tolerance),
        )
        for index, item in enumerate(wrong)
    )


def _reason(wrong: WrongPixels, classes: Sequence[ClassInfo], tolerance: float) -> str:
    if wrong.near_boundary is None or wrong.largest is None:
        return "no wrong pixel"
    main, region = wrong.confusions[0], wrong.largest
    words = f"{_words(main, classes)} in {main.share:.0%} of {wrong.pixels:,} wrong pixels"
    where = f"{wrong.near_boundary:.0%} of them within {tolerance:g} px of a boundary"
    kind = "" if _pair(region) == _pair(main) else f", {_words(region, classes)}"
    largest = (
        f"largest region {region.pixels:,} px at x {region.x}, y {region.y}{kind} "
        f"(confidence {region.confidence:.2f})"
    )
    return f"{words}, {where}; {largest}"


def _words(item: Confusion | WrongRegion, classes: Sequence[ClassInfo]) -> str:
    return f"{classes[item.labelled].name} taken for {classes[item.predicted].name}"


def _pair(item: Confusion | WrongRegion) -> tuple[int, int]:
    return item.labelled, item.predicted
