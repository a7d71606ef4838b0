"""Agreement of labels with themselves: the IoU that is lost when boundaries are drawn a little elsewhere.

Two careful annotators differ by half a pixel to a pixel in where they see a boundary. The IoU between the labels and
the same labels with every boundary of a class moved by so much is the IoU at which they agree, and what a network
scores above it says nothing about the material.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.contract.metadata import ClassInfo
from matseg_trainer.data.folder import Dataset, load_array
from matseg_trainer.evaluate.boundary import BoundaryEdges, distances
from matseg_trainer.evaluate.metrics import Sums

SHIFTS = (0.5, 1.0)
"""Distances by which boundaries are moved, pixels."""
_QUARTERS = np.array([(y, x) for y in (-0.25, 0.25) for x in (-0.25, 0.25)])
"""Centres of a pixel's quarters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedClass(Sums):
    """One class whose boundary is moved."""

    area: float = 0
    """As labelled, pixels."""
    gained: float = 0
    """Pixels that it gains when its boundary moves outwards."""
    lost: float = 0
    """Pixels that it loses when its boundary moves inwards."""

    @property
    def iou(self) -> float | None:
        """IoU with itself, mean of outwards and inwards; None for a class that is nowhere."""
        if not self.area:
            return None
        return (self.area / (self.area + self.gained) + (self.area - self.lost) / self.area) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAgreement:
    """IoU of a split's labels with themselves, boundaries moved; pooled over its images."""

    split: str
    shift: float
    """Pixels."""
    iou: tuple[float | None, ...]
    """Per class; None for a class that is nowhere in the split."""

    @property
    def mean_iou(self) -> float | None:
        """Mean over the classes that occur."""
        known = [value for value in self.iou if value is not None]
        return sum(known) / len(known) if known else None


def label_agreement(
    dataset: Dataset, split: str, classes: tuple[ClassInfo, ...]
) -> tuple[LabelAgreement, ...]:
    """Agreement for each of `SHIFTS`, from the label arrays of a split.

    Raises:
        DatasetError: an image has no array, or one cannot be read.
    """
    totals = [[ShiftedClass()] * len(classes) for _ in SHIFTS]
    for sample in dataset.samples(split):
        labels = load_array(sample.labels, len(classes), unlabelled=sample.unlabelled)
        for index in range(len(classes)):
            for total, part in zip(totals, shift_class(labels, index, SHIFTS), strict=True):
                total[index] += part
    return tuple(
        LabelAgreement(split=split, shift=shift, iou=tuple(total.iou for total in per_class))
        for shift, per_class in zip(SHIFTS, totals, strict=True)
    )


def shift_class(labels: NDArray[np.uint8], index: int, shifts: tuple[float, ...]) -> tuple[ShiftedClass, ...]:
    """Move the boundary of class `index` in (H, W) class indices by each of `shifts`, pixels and multiples of a half.

    What lies within the shift of the boundary changes sides; decided for each quarter of a pixel, which is exact
    for boundaries along rows and columns. On discs the loss of IoU comes out right within a tenth.
    """
    from scipy import ndimage

    edges = BoundaryEdges.of(labels).of_class(index)
    inside = labels == index
    near = {"structure": np.ones((3, 3), dtype=bool), "iterations": int(np.ceil(max(shifts)))}
    outer = ndimage.binary_dilation(inside, **near) & (labels != UNLABELLED)
    pixels = np.argwhere(outer & ~ndimage.binary_erosion(inside, **near, border_value=1))
    own = inside[pixels[:, 0], pixels[:, 1]]
    gained, lost = np.zeros(len(shifts)), np.zeros(len(shifts))
    for quarter in _QUARTERS:
        gaps = distances(pixels + quarter, edges, at_most=max(shifts))
        for number, shift in enumerate(shifts):
            moved = gaps <= shift
            gained[number] += np.count_nonzero(moved & ~own) / len(_QUARTERS)
            lost[number] += np.count_nonzero(moved & own) / len(_QUARTERS)
    return tuple(
        ShiftedClass(area=float(inside.sum()), gained=plus, lost=minus)
        for plus, minus in zip(gained.tolist(), lost.tolist(), strict=True)
    )
