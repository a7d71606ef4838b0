"""From counted pixels to quantities: areas, diameters and specific surfaces, in pixels or in a unit of length.

**Specific surface.** Lines laid through a section meet the boundary of a phase P_L times per unit length. For lines
of all directions, the boundary's length per area of the section is L_A = pi/2 P_L (Cauchy and Crofton), and the surface
per volume of the body S_V = 2 P_L = 4/pi L_A (Underwood, Quantitative Stereology, 1970, chapter 2). That holds for a
structure without preferred direction, or for sections of random directions; of an oriented one the figure belongs to
this direction of cutting. The lines are the pixel grid's four directions, weighted by the angle that each stands for
(Ohser and Muecklich, Statistical Analysis of Microstructures in Materials Science, 2000, chapter 4; Legland, Kieu and
Devaux, Image Analysis and Stereology 26, 2007). Following pixel edges instead would be wrong by a factor of up to
4/pi, whatever the resolution. With four directions a straight boundary along one of them comes out 5 % too short, one
half-way between 3 % too long, and one that runs in all directions right. The edge of the image is no boundary, and
neither is that of an unlabelled part.

**Size.** The diameter of the circle that has a region's area. It is the size of the profile in the section, not of
the body that was cut. Regions at the edge are counted, but have no size: they go on outside. Larger regions meet the
edge more often, so where many do, the sizes of the others are too small on average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from matseg_runtime.records import ClassRegions, SliceRegions
from matseg_runtime.units import VoxelSize

QUANTILES = (10, 25, 50, 75, 90)
"""Per cent of the regions that are no larger."""
_BINS_PER_OCTAVE = 2
"""A bin of the histogram ends at 2**(1/2) of where it begins: fine enough to see two populations."""


class Quantity(BaseModel):
    """Base of what `quantities.json` holds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """As the file holds it."""
        return self.model_dump(mode="json", by_alias=True)


class SizeBin(Quantity):
    """One bar of a histogram of diameters."""

    low: float = Field(validation_alias="from", serialization_alias="from")
    """Diameters from here..."""
    high: float = Field(validation_alias="to", serialization_alias="to")
    """...to below here."""
    regions: int
    area_share: float
    """Share of the area (in three dimensions, of the volume) of all regions that have a size."""


class Diameters(Quantity):
    """Diameters of the circles (in three dimensions, spheres) as large as the regions that are not at the edge.

    Each region is counted once.

    `p10` is the smallest diameter that 10 % do not exceed, and so on.
    """

    mean: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    largest: float


class ClassQuantities(Quantity):
    """One class in a slice, or in all of them."""

    value: int
    name: str
    pixels: int
    fraction: float
    """Share of the labelled pixels."""
    area: float
    """Area in the unit squared."""
    volume: float | None
    """In the unit cubed; None: it is not known how far slices are apart."""
    regions: int
    regions_at_edge: int
    diameter: Diameters | None
    """None: no region has a size."""
    boundary_per_area: float
    """L_A, in 1 / unit."""
    specific_surface: float
    """S_V, in 1 / unit."""
    histogram: tuple[SizeBin, ...]


def quantities(
    slices: Iterable[SliceRegions], classes: Sequence[tuple[int, str]], pixel: VoxelSize
) -> tuple[ClassQuantities, ...]:
    """The quantities of classes, given by value and name, over some slices; one that does not occur has zeros."""
    found: dict[int, list[ClassRegions]] = {value: [] for value, _ in classes}
    pairs = np.zeros(4, np.int64)
    for item in slices:
        pairs += item.pairs
        for regions in item.classes:
            found[regions.value].append(regions)
    pixels = sum(regions.pixels for items in found.values() for regions in items)
    return tuple(_quantities(value, name, found[value], pairs, pixels, pixel) for value, name in classes)


def _quantities(
    value: int,
    name: str,
    found: Sequence[ClassRegions],
    pairs: NDArray[np.int64],
    labelled: int,
    pixel: VoxelSize,
) -> ClassQuantities:
    crossings = np.array([item.crossings for item in found], np.int64).reshape(-1, 4).sum(axis=0)
    per_length = _intersections_per_length(crossings, pairs, pixel)
    sizes: Counter[int] = Counter()
    for item in found:
        sizes.update(dict(item.sizes))
    areas, counts = np.array(sorted(sizes.items()), np.int64).reshape(-1, 2).T
    pixels = sum(item.pixels for item in found)
    smallest = float(equivalent_diameter(np.array([1]), pixel)[0])
    return ClassQuantities(
        value=value,
        name=name,
        pixels=pixels,
        fraction=pixels / labelled if labelled else 0.0,
        area=pixels * pixel.area,
        volume=None if pixel.step is None else pixels * pixel.area * pixel.step,
        regions=sum(item.regions for item in found),
        regions_at_edge=sum(item.at_edge for item in found),
        diameter=diameter_statistics(equivalent_diameter(areas, pixel), counts) if areas.size else None,
        boundary_per_area=math.pi / 2 * per_length,
        specific_surface=2 * per_length,
        histogram=size_histogram(areas, counts, smallest, dimensions=2) if areas.size else (),
    )


def _intersections_per_length(
    crossings: NDArray[np.int64], pairs: NDArray[np.int64], pixel: VoxelSize
) -> float:
    """P_L in 1 / unit: how often lines meet a boundary; (4,) pairs of neighbours across it, and (4,) all pairs."""
    diagonal = math.hypot(pixel.row, pixel.column)
    distances = pixel.column, pixel.row, diagonal, diagonal
    # the share of all directions that each of the four stands for: half-way to the next on either side
    angle = math.atan2(pixel.row, pixel.column) / math.pi
    shares = np.array([angle, 0.5 - angle, 0.25, 0.25]) * (pairs > 0)  # a single row has no columns
    if not shares.any():
        return 0.0
    return float(np.average(crossings / np.maximum(pairs, 1) / distances, weights=shares))


def equivalent_diameter(area: NDArray[np.integer], pixel: VoxelSize) -> NDArray[np.float64]:
    """Diameter of the circle with as much area as so many pixels, in the unit of length."""
    return np.sqrt(4 / math.pi * pixel.area * area.astype(np.float64))


def diameter_statistics(diameters: NDArray[np.float64], counts: NDArray[np.int64]) -> Diameters:
    """Mean, quantiles and largest of ascending diameters, each of so many regions."""
    cumulative = np.cumsum(counts)
    # in whole numbers, so that 10 % of 10 regions is the first and not, by rounding, the second
    places = np.searchsorted(100 * cumulative, np.array(QUANTILES) * cumulative[-1])
    return Diameters(
        mean=float((diameters * counts).sum() / cumulative[-1]),
        largest=float(diameters[-1]),
        **{f"p{level}": diameters[place] for level, place in zip(QUANTILES, places, strict=True)},
    )


def size_histogram(
    sizes: NDArray[np.int64], counts: NDArray[np.int64], smallest: float, *, dimensions: int
) -> tuple[SizeBin, ...]:
    """Bins of equal ratio on a grid that begins at the diameter of one pixel, so that histograms can be compared.

    Args:
        sizes: ascending areas or volumes, in pixels or voxels.
        counts: number of regions of each.
        smallest: diameter of one pixel or voxel, in the unit of length.
        dimensions: 2 of areas, 3 of volumes.
    """
    # diameters go with a root of the size, so bins of diameter are bins of the logarithm of the size
    bins = np.floor(_BINS_PER_OCTAVE / dimensions * np.log2(sizes) + 1e-9).astype(np.int64)
    first, last = int(bins[0]), int(bins[-1])
    regions = np.bincount(bins - first, weights=counts, minlength=last - first + 1)
    shares = np.bincount(bins - first, weights=sizes * counts / (sizes * counts).sum())
    return tuple(
        SizeBin(
            low=smallest * 2 ** (number / _BINS_PER_OCTAVE),
            high=smallest * 2 ** ((number + 1) / _BINS_PER_OCTAVE),
            regions=int(count),
            area_share=float(share),
        )
        for number, count, share in zip(range(first, last + 1), regions, shares, strict=True)
    )
