"""Size of the structures in labels: how thin they are, and how far their regions reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THIN = 0.25
"""Share of a class's area in places of at most its thickness."""
WINDOW = 1024
"""Edge in pixels of the middle of an image that is looked at."""
_SPANNING = 0.9
"""A region that reaches over this share of the window is cut by its edges, and its extent is unknown."""
_LEAST_WHOLE = 0.1
"""Share of a class's area that whole regions must have to stand for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """Size of one class's regions, in pixels; None: no region tells."""

    thickness: int | None
    """Width of its thin places: a quarter of its area is no thicker."""
    extent: int | None
    """Longer side of the box around a region: the median over the area of all whole regions."""
    largest: int | None
    """That of the largest whole region."""


def measure_structures(labels: Iterable[NDArray[np.uint8]], n_class: int) -> tuple[Structure, ...]:
    """Measure the regions of each class in (H, W) label arrays, of each of which the middle is looked at.

    Thickness is twice the chessboard distance from the boundary along a region's middle lines; regions are connected
    over edges and corners.
    """
    thick: list[list[NDArray[np.int64]]] = [[] for _ in range(n_class)]
    boxes: list[list[NDArray[np.int64]]] = [[] for _ in range(n_class)]
    for array in labels:
        top, left = ((full - min(full, WINDOW)) // 2 for full in array.shape)
        window = array[top : top + WINDOW, left : left + WINDOW]
        for index in np.unique(window[window < n_class]).tolist():
            mask = window == index
            if not mask.all():
                thick[index].append(_thickness(mask))
                boxes[index].append(_regions(mask))
    return tuple(_structure(widths, found) for widths, found in zip(thick, boxes, strict=True))


def _thickness(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) width at each pixel of the middle lines."""
    from scipy import ndimage  # of the extra `train`

    distance = ndimage.distance_transform_cdt(np.pad(mask, 1, mode="edge"), metric="chessboard")[1:-1, 1:-1]
    middle = mask & (ndimage.maximum_filter(distance, 3) == distance)
    found: NDArray[np.int64] = 2 * distance[middle].astype(np.int64) - 1
    return found


def _regions(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N, 2) extent and area of each region; the extent is 0 where it spans the window."""
    from scipy import ndimage

    regions, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(regions.ravel())[1:]
    sides = [[part.stop - part.start for part in box] for box in ndimage.find_objects(regions)]
    extents = [
        max(box) if all(side < _SPANNING * full for side, full in zip(box, mask.shape, strict=True)) else 0
        for box in sides
    ]
    return np.stack([np.array(extents, np.int64), areas], axis=1)


def _structure(thick: list[NDArray[np.int64]], boxes: list[NDArray[np.int64]]) -> Structure:
    if not thick:
        return Structure(thickness=None, extent=None, largest=None)
    widths, regions = np.concatenate(thick), np.concatenate(boxes)
    thickness = _weighted_quantile(widths, widths, THIN)
    whole = regions[regions[:, 0] > 0]
    if whole[:, 1].sum() < _LEAST_WHOLE * regions[:, 1].sum():
        return Structure(thickness=thickness, extent=None, largest=None)
    extent = _weighted_quantile(whole[:, 0], whole[:, 1], 0.5)
    return Structure(thickness=thickness, extent=extent, largest=int(whole[:, 0].max()))


def _weighted_quantile(values: NDArray[np.int64], weights: NDArray[np.int64], share: float) -> int:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return int(values[order][np.searchsorted(total, share * total[-1])])
