"""Wrong pixels of an image in words, and the ranking of images from the worst on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.evaluate.boundary import BoundaryEdges, distances
from matseg_trainer.evaluate.document import Confusion, Disagreement, ImageResult, WrongRegion
from matseg_trainer.evaluate.metrics import confusion_matrix


def disagreement(
    labels: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    classes: Sequence[ClassInfo],
    tolerance: float,
) -> Disagreement:
    """Describe the wrong pixels of one image; its rank is given by `ranked`.

    Args:
        labels, predictions: (H, W) class indices; labels may be `UNLABELLED`, where nothing is wrong.
        probabilities: (K, H, W).
        classes: their names.
        tolerance: how far from a labelled boundary a pixel counts as near, pixels.
    """
    wrong = (labels != predictions) & (labels != UNLABELLED)
    count = int(wrong.sum())
    if not count:
        return Disagreement(
            rank=1,
            wrong_pixels=0,
            near_boundary=None,
            confusions=(),
            largest_region=None,
            reason="no wrong pixel",
        )
    centres = np.argwhere(wrong).astype(np.float64)
    gaps = distances(centres, BoundaryEdges.of(labels).midpoints, at_most=tolerance)
    near = float(np.isfinite(gaps).mean())
    errors = confusion_matrix(labels[wrong], predictions[wrong], len(classes))
    found = [(*pair, int(errors[*pair])) for pair in np.argwhere(errors).tolist()]
    confusions = tuple(
        Confusion(labelled=labelled, predicted=predicted, pixels=pixels, share=pixels / count)
        for labelled, predicted, pixels in sorted(found, key=lambda item: -item[2])
    )
    region = _largest_region(labels, predictions, probabilities, confusions)
    words = [
        f"{classes[i.labelled].name} taken for {classes[i.predicted].name}" for i in (confusions[0], region)
    ]
    kind = "" if words[0] == words[1] else f", {words[1]}"
    reason = (
        f"{words[0]} in {confusions[0].share:.0%} of {count:,} wrong pixels, {near:.0%} of them within "
        f"{tolerance:g} px of a boundary; largest region {region.pixels:,} px at x {region.x}, y {region.y}{kind} "
        f"(confidence {region.confidence:.2f})"
    )
    return Disagreement(
        rank=1,
        wrong_pixels=count,
        near_boundary=near,
        confusions=confusions,
        largest_region=region,
        reason=reason,
    )


def _largest_region(
    labels: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    confusions: Sequence[Confusion],
) -> WrongRegion:
    from scipy import ndimage

    largest, pixels = confusions[0], np.empty((0, 2), np.intp)
    for item in confusions:
        if item.pixels <= len(pixels):
            break  # no later confusion has that many pixels at all
        regions, _ = ndimage.label((labels == item.labelled) & (predictions == item.predicted))
        sizes = np.bincount(regions.ravel())
        sizes[0] = 0
        if sizes.max() > len(pixels):
            largest, pixels = item, np.argwhere(regions == sizes.argmax())
    y, x = pixels[np.square(pixels - pixels.mean(axis=0)).sum(axis=1).argmin()].tolist()
    confidence = float(probabilities[largest.predicted, pixels[:, 0], pixels[:, 1]].mean(dtype=np.float64))
    return WrongRegion(
        labelled=largest.labelled,
        predicted=largest.predicted,
        pixels=len(pixels),
        x=x,
        y=y,
        confidence=min(1.0, confidence),
    )


def ranked(images: Sequence[ImageResult]) -> tuple[ImageResult, ...]:
    """Rank the images from the lowest mean IoU on, ties by the share of wrong pixels; in their own order."""

    def badness(image: ImageResult) -> tuple[float, float]:
        mean_iou = 1.0 if image.mean_iou is None else image.mean_iou
        return mean_iou, -image.disagreement.wrong_pixels / image.pixels

    ranks = {image.stem: rank for rank, image in enumerate(sorted(images, key=badness), start=1)}
    return tuple(
        image.model_copy(
            update={"disagreement": image.disagreement.model_copy(update={"rank": ranks[image.stem]})}
        )
        for image in images
    )
