"""Regions of a few pixels in a label image: slips of the brush more often than material."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 4
"""Regions of at most this many pixels are pointed out."""
_PLACES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRegions:
    """The tiny regions of one class in one label image."""

    index: int
    """The class."""
    count: int
    places: tuple[tuple[int, int], ...]
    """(x, y) of a pixel of each of the first few, from the top."""


def find_tiny_regions(labels: NDArray[np.uint8]) -> tuple[TinyRegions, ...]:
    """Regions of at most `SMALLEST` pixels in (H, W) class indices; 8 neighbours, so a thin diagonal line is one."""
    from scipy import ndimage

    found = []
    for index in np.unique(labels).tolist():
        regions, count = ndimage.label(labels == index, structure=np.ones((3, 3), dtype=bool))
        sizes = np.bincount(regions.ravel(), minlength=count + 1)
        tiny = np.flatnonzero(sizes[1:] <= SMALLEST) + 1
        if tiny.size:
            places = [np.argwhere(regions == number)[0].tolist() for number in tiny[:_PLACES]]
            found.append(
                TinyRegions(
                    index=index, count=int(tiny.size), places=tuple((int(x), int(y)) for y, x in places)
                )
            )
    return tuple(found)
