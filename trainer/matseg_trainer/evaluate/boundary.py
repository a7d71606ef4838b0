"""Boundaries between classes, and how far two drawings of them lie apart.

A boundary is the set of edges between 4-neighbours of different classes, each one pixel long and known by its midpoint.
So a boundary lies between pixels, belongs to both classes it parts, and one that moved by a pixel moved by exactly 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_trainer.evaluate.document import BoundaryFigures
from matseg_trainer.evaluate.metrics import Sums

Points = NDArray[np.float64]
"""(N, 2) y, x in pixels; integers are pixel centres."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundaryEdges:
    """All edges between pixels of different classes in one label image."""

    midpoints: Points
    sides: NDArray[np.uint8]
    """(N, 2) the classes on both sides."""

    @classmethod
    def of(cls, labels: NDArray[np.uint8]) -> BoundaryEdges:
        """The edges of (H, W) class indices; neither the image's own border is one, nor that of unlabelled pixels."""
        midpoints, sides = [], []
        for first, second, step in (
            (labels[:-1], labels[1:], (0.5, 0.0)),
            (labels[:, :-1], labels[:, 1:], (0.0, 0.5)),
        ):
            where = np.nonzero((first != second) & (first != UNLABELLED) & (second != UNLABELLED))
            midpoints.append(np.stack(where, axis=1) + np.array(step))
            sides.append(np.stack([first[where], second[where]], axis=1))
        return cls(midpoints=np.concatenate(midpoints), sides=np.concatenate(sides))

    def of_class(self, index: int) -> Points:
        """The midpoints of the edges with this class on one side."""
        chosen: Points = self.midpoints[(self.sides == index).any(axis=1)]
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryAccumulator(Sums):
    """Counts and distances of one image, or of several."""

    labelled: int = 0
    predicted: int = 0
    labelled_near: int = 0
    """Labelled edges within the tolerance of a predicted one."""
    predicted_near: int = 0
    labelled_measured: int = 0
    """Labelled edges of images that have a predicted boundary to measure to."""
    predicted_measured: int = 0
    to_predicted: float = 0.0
    """Sum over measured labelled edges of the distance to the next predicted one, pixels."""
    to_labelled: float = 0.0

    def figures(self) -> BoundaryFigures:
        """Boundary displacement error (Freixenet et al. 2002) and boundary F1 (Csurka et al. 2013).

        The displacement is the mean of both directions' mean distances; precision and recall count edges within the
        tolerance. Csurka et al. take 0.75 % of the image's diagonal as tolerance and average over images; here it is a
        number of pixels, and several images are pooled by their counts.
        """
        displacement = f1 = None
        if self.labelled_measured:  # then there is a predicted edge, too
            forth = self.to_predicted / self.labelled_measured
            back = self.to_labelled / self.predicted_measured
            displacement = (forth + back) / 2
        precision = self.predicted_near / self.predicted if self.predicted else None
        recall = self.labelled_near / self.labelled if self.labelled else None
        if precision and recall:
            f1 = 2 * precision * recall / (precision + recall)
        elif self.labelled or self.predicted:
            f1 = 0.0
        return BoundaryFigures(
            labelled=self.labelled,
            predicted=self.predicted,
            displacement=displacement,
            precision=precision,
            recall=recall,
            f1=f1,
        )


def compare_boundaries(labelled: Points, predicted: Points, tolerance: float) -> BoundaryAccumulator:
    """Measure each edge of two boundaries to the nearest of the other; at exactly `tolerance` pixels it is near."""
    if not len(labelled) or not len(predicted):
        return BoundaryAccumulator(labelled=len(labelled), predicted=len(predicted))
    to_predicted = distances(labelled, predicted)
    to_labelled = distances(predicted, labelled)
    return BoundaryAccumulator(
        labelled=len(labelled),
        predicted=len(predicted),
        labelled_near=int((to_predicted <= tolerance).sum()),
        predicted_near=int((to_labelled <= tolerance).sum()),
        labelled_measured=len(labelled),
        predicted_measured=len(predicted),
        to_predicted=float(to_predicted.sum()),
        to_labelled=float(to_labelled.sum()),
    )


def distances(points: Points, targets: Points, *, at_most: float = np.inf) -> NDArray[np.float64]:
    """(N,) Euclidean distance of each point to the nearest target, pixels; infinite beyond `at_most`."""
    if not len(points) or not len(targets):
        return np.full(len(points), np.inf)
    from scipy.spatial import KDTree

    # the bound of a query is exclusive
    found, _ = KDTree(targets).query(points, distance_upper_bound=np.nextafter(at_most, np.inf))
    return np.asarray(found, dtype=np.float64)
