"""Alignment of a label image with its image: shifted, turned or mirrored labels.

Two things are tried over all small shifts of the labels: how strong the image's edges are under the label boundaries,
and how much of the grey values' variance near the boundaries the classes explain. Only where both fit best at the same
place, and that place is some pixels away, are the labels taken for misaligned. In the same two ways the labels are
tried turned and mirrored, which a label image of the right size may well be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from matseg_shared.contract.classes import UNLABELLED
from matseg_trainer.evaluate.boundary import BoundaryEdges

_Points = TypeVar("_Points", NDArray[np.float64], NDArray[np.intp])
REACH = 16
"""Shifts up to this many pixels along each axis are tried."""
SMALLEST = 2
"""A shift of one pixel is within what annotators differ by, and is not reported."""
_SMOOTHING = 1.5
"""Standard deviation of the Gaussian under the gradient, pixels."""
_BAND = 6
"""Grey values up to this far from a boundary are looked at, pixels."""
_FEWEST = 100
_MOST_EDGES = 4000
_MOST_PIXELS = 8000
_GAIN = 1.05
"""Least gain in strength of the edges under the moved boundaries. Three real sets of 69 pairs: moved by 2 pixels,
most of their labels gain 1.05 to 1.36; where they are, none of them passes all criteria."""
_TURN_GAIN = 2.0
_TURN_EXPLAINS = 0.1
"""Least share of the grey values' variance that turned labels explain, and least multiple of what unturned ones do."""
_AS_IT_IS = "as they are"
_TURNS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    _AS_IT_IS: lambda labels: labels,
    "turned by 90 degrees to the left": lambda labels: np.rot90(labels, 1),
    "turned by 180 degrees": lambda labels: np.rot90(labels, 2),
    "turned by 90 degrees to the right": lambda labels: np.rot90(labels, 3),
    "mirrored left to right": lambda labels: labels[:, ::-1],
    "mirrored top to bottom": lambda labels: labels[::-1],
    "mirrored along the falling diagonal": lambda labels: labels.T,
    "mirrored along the rising diagonal": lambda labels: labels[::-1, ::-1].T,
}
_PEAK = 4.5
"""Least height of the best shift above the median over all shifts, in standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misalignment:
    """Labels that would fit their image better elsewhere."""

    dy: int
    """Pixels down that the labels should move."""
    dx: int
    """Pixels to the right that the labels should move."""
    gain: float
    """Mean gradient under the moved boundaries over that under them as they are."""


def find_turn(pixels: NDArray[np.float32], labels: NDArray[np.uint8]) -> str | None:
    """Find the turn with which (H, W) class indices would fit (H, W) grey pixels.

    None where they fit best as they are, or too little can be seen.
    """
    if min(labels.shape) < 2 * REACH:
        return None
    gradient, flat = _gradient(pixels), pixels.ravel().astype(np.float64)
    scores = {}
    for name, turn in _TURNS.items():
        turned = turn(labels)
        if turned.shape == labels.shape:
            edges = BoundaryEdges.of(turned).midpoints.astype(np.intp)
            strength = float(gradient[edges[:, 0], edges[:, 1]].mean()) if len(edges) else 0.0
            known = turned.ravel() != UNLABELLED
            scores[name] = (_explained(flat[known], turned.ravel()[known]), strength)
    here = scores.pop(_AS_IT_IS)
    best = max(scores, key=lambda name: scores[name])
    explained, strength = scores[best]
    fits = explained > _TURN_EXPLAINS and explained > _TURN_GAIN * here[0] and strength > _GAIN * here[1]
    return best if fits else None


def find_misalignment(pixels: NDArray[np.float32], labels: NDArray[np.uint8]) -> Misalignment | None:
    """Try all small shifts of (H, W) class indices over (H, W) grey pixels.

    None where they fit best as they are, or too little can be seen.
    """
    midpoints = BoundaryEdges.of(labels).midpoints
    scores = _edge_scores(pixels, midpoints)
    if scores is None or not scores.std():
        return None
    dy, dx = _best(scores)
    here, best = float(scores[REACH, REACH]), float(scores.max())
    if not SMALLEST <= max(abs(dy), abs(dx)) < REACH:
        return None  # at the rim of the search the score may only be on its way to something farther off
    if best < _GAIN * here or best - float(np.median(scores)) < _PEAK * float(scores.std()):
        return None
    explained = _variance_scores(pixels, labels, midpoints)
    if explained is None:
        return None
    other = _best(explained)
    if max(abs(other[0] - dy), abs(other[1] - dx)) > 1 or max(map(abs, other)) < SMALLEST:
        return None
    return Misalignment(dy=dy, dx=dx, gain=best / here if here else np.inf)


def _edge_scores(pixels: NDArray[np.float32], midpoints: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Mean gradient under the label boundaries, by shift."""
    edges = _sample(midpoints, pixels.shape, _MOST_EDGES)
    if edges is None:
        return None
    sides = np.concatenate([np.floor(edges), np.ceil(edges)]).astype(np.intp)
    return _over_shifts(_gradient(pixels), sides, lambda values: float(values.mean()))


def _variance_scores(
    pixels: NDArray[np.float32], labels: NDArray[np.uint8], midpoints: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Share of the grey values' variance near the boundaries that lies between the classes, by shift."""
    from scipy import ndimage

    far = np.ones(labels.shape, dtype=bool)
    far[tuple(midpoints.astype(np.intp).T)] = False
    band = ndimage.distance_transform_cdt(far, "chessboard") <= _BAND
    near = _sample(np.argwhere(band & (labels != UNLABELLED)), labels.shape, _MOST_PIXELS)
    if near is None:
        return None
    classes = labels[tuple(near.T)]
    smooth = ndimage.gaussian_filter(pixels.astype(np.float32), 1.0)
    return _over_shifts(smooth, near, lambda values: _explained(values, classes))


def _sample(points: _Points, shape: tuple[int, ...], most: int) -> _Points | None:
    """Points that stay in the image however they are shifted, evenly thinned out; None of too few."""
    inner = points[((points >= REACH) & (points < np.array(shape) - REACH - 1)).all(axis=1)]
    return None if len(inner) < _FEWEST else inner[:: -(-len(inner) // most)]


def _over_shifts(
    picture: NDArray[np.float32], points: NDArray[np.intp], score: Callable[[NDArray[np.float32]], float]
) -> NDArray[np.float64]:
    """(2 REACH + 1, 2 REACH + 1) scores of the values under the points, by (y, x) shift."""
    flat = picture.ravel()
    places = np.ravel_multi_index(tuple(points.T), picture.shape)
    shifts = range(-REACH, REACH + 1)
    return np.array([[score(flat[places + dy * picture.shape[1] + dx]) for dx in shifts] for dy in shifts])


def _best(scores: NDArray[np.float64]) -> tuple[int, int]:
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(row) - REACH, int(column) - REACH


def _gradient(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy import ndimage

    gradient: NDArray[np.float32] = ndimage.gaussian_gradient_magnitude(pixels.astype(np.float32), _SMOOTHING)
    return gradient


def _explained(values: NDArray[np.floating], classes: NDArray[np.uint8]) -> float:
    """Share of the grey values' variance that lies between the classes; both flat."""
    variance = float(values.var())
    if not variance:
        return 0.0
    counts = np.bincount(classes)
    sums = np.bincount(classes, weights=values)
    means = np.divide(sums, counts, out=np.zeros(len(counts)), where=counts > 0)
    return float((np.square(means - values.mean()) * counts).sum() / len(values) / variance)
