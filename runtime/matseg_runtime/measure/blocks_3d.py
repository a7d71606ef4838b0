"""Connected regions and boundaries of one block of slices, counted in three dimensions.

A block is measured together with the first slice of the next one. That slice is labelled in both, which tells which
regions of the one go on in which of the other, whatever the connectivity; it is counted in the next one only.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.measure.regions import UNLABELLED_NUMBER, cut_off, numbered, partners
from matseg_runtime.records import Connectivity
from matseg_runtime.units import VoxelSize

NEIGHBOURS: dict[Connectivity, int] = {4: 6, 8: 26}
"""Neighbours of a voxel that belong to it, for those of a pixel: over faces, or also over edges and corners."""
OFFSETS = tuple((z, y, x) for z, y, x in itertools.product((-1, 0, 1), repeat=3) if (z, y, x) > (0, 0, 0))
"""(slice, row, column) steps to half of the 26 neighbours; those to the others are their opposites."""
BYTES_PER_VOXEL = 40
"""Taken while a block is measured, about; of noise, where every other voxel is a region."""
_DIRECTIONS = 1 << 17
"""Points of the sphere by which the neighbours' shares of all directions are counted."""
_RESOLUTION = 1 << 20
"""The largest surface of a crossing as a whole number, so that sums do not depend on their order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """Some regions, one element each; positions count voxels of the volume, slice by slice and row by row."""

    owner: NDArray[np.uint8]
    """Number of the class."""
    voxels: NDArray[np.int64]
    first: NDArray[np.int64]
    """Position of the first voxel."""
    last: NDArray[np.int64]
    """Last slice."""
    at_border: NDArray[np.bool_]
    """True for those that the border of the volume, or of its labelled part, cuts off."""
    surface: NDArray[np.int64]
    """Area of the boundary with other classes, in units of `Crossings`."""

    def __len__(self) -> int:
        return self.owner.size

    def take(self, which: NDArray[Any]) -> Regions:
        """Some of them, by a mask or by number."""
        return Regions(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def with_others(self, other: Regions) -> Regions:
        """These, and then the others."""
        both = {
            field.name: np.concatenate([getattr(self, field.name), getattr(other, field.name)])
            for field in fields(self)
        }
        return Regions(**both)

    def merged(self, group: NDArray[np.int64], count: int) -> Regions:
        """Regions that are one and the same; `group` has their number, from 0 to `count`, among the results."""
        owner = np.zeros(count, np.uint8)
        owner[group] = self.owner  # the same for all of one
        first, last = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
        np.minimum.at(first, group, self.first)
        np.maximum.at(last, group, self.last)
        at_border = np.zeros(count, np.bool_)
        at_border[group[self.at_border]] = True
        voxels, surface = np.zeros(count, np.int64), np.zeros(count, np.int64)
        np.add.at(voxels, group, self.voxels)
        np.add.at(surface, group, self.surface)
        return Regions(
            owner=owner, voxels=voxels, first=first, last=last, at_border=at_border, surface=surface
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockRegions:
    """All regions of a block."""

    slices: int
    """Slices that are counted."""
    regions: Regions
    top: NDArray[np.int32]
    """(H, W) region of each pixel of the first slice, from 1; 0 where there is no label."""
    bottom: NDArray[np.int32] | None
    """The same of the first slice of the next block; None: there is none."""
    pairs: NDArray[np.int64]
    """(13,) pairs of labelled neighbours, by `OFFSETS`."""
    crossings: NDArray[np.int64]
    """(classes, 13) those of them between a class and another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crossings:
    """Area of boundary that a pair of neighbours on both sides of it stands for, in each direction.

    Lines in direction k, one through every voxel, lie v / d apart, with the volume v of a voxel and the distance d of
    neighbours along them: so each crossing stands for as much projected area. The surface is twice the mean of the
    projected areas, every crossing counted, over all directions (Cauchy and Crofton; Ohser and Muecklich, Statistical
    Analysis of Microstructures in Materials Science, 2000, chapter 4). Each of the 13 directions of the grid stands
    for those that are nearest to it (Legland, Kieu and Devaux, Image Analysis and Stereology 26, 2007, from whom we
    differ in counting that share of the sphere on points).
    """

    shares: NDArray[np.float64]
    """(13,) of all directions."""
    distances: NDArray[np.float64]
    """(13,) between neighbours, in the unit of length."""
    areas: NDArray[np.int64]
    """(13,) per crossing, in units of `unit`."""
    unit: float
    """Area in the unit of length squared."""

    @classmethod
    def of(cls, voxel: VoxelSize) -> Crossings:
        """Those of a voxel whose step is known."""
        assert voxel.step is not None, "asked for before"
        edges = np.array([voxel.step, voxel.row, voxel.column])
        steps = np.array(OFFSETS) * edges
        distances = np.sqrt(np.square(steps).sum(axis=1))
        shares = _shares(steps / distances[:, np.newaxis])
        areas = 2 * shares * edges.prod() / distances
        unit = float(areas.max()) / _RESOLUTION
        return cls(
            shares=shares, distances=distances, areas=np.rint(areas / unit).astype(np.int64), unit=unit
        )

    def per_volume(self, crossings: NDArray[np.int64], pairs: NDArray[np.int64]) -> float:
        """S_V = 2 P_L, the surface per volume, in 1 / unit of length: of (13,) crossings among (13,) pairs."""
        shares = self.shares * (pairs > 0)  # one row of voxels has a single direction
        if not shares.any():
            return 0.0
        return 2 * float(np.average(crossings / np.maximum(pairs, 1) / self.distances, weights=shares))


def _shares(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(13,) share of the sphere that is nearer to each of (13, 3) lines of unit length than to the others."""
    number = np.arange(_DIRECTIONS) + 0.5
    height, angle = 1 - number / _DIRECTIONS, number * math.pi * (3 - math.sqrt(5))  # even on a half sphere
    radius = np.sqrt(1 - np.square(height))
    best, nearest = np.zeros(_DIRECTIONS), np.zeros(_DIRECTIONS, np.int64)
    for place, (z, y, x) in enumerate(directions):
        cosine = np.abs(z * height + radius * (y * np.sin(angle) + x * np.cos(angle)))
        nearest[cosine > best] = place
        np.maximum(best, cosine, out=best)
    counts = np.bincount(nearest, minlength=len(directions))
    kinds = np.abs(OFFSETS) @ [4, 2, 1]  # those that mirror each other stand for as much
    shared: NDArray[np.float64] = np.bincount(kinds, weights=counts)[kinds] / np.bincount(kinds)[kinds]
    return shared / _DIRECTIONS


def measure_block(
    dense: NDArray[np.uint8],
    *,
    start: int,
    is_last: bool,
    classes: int,
    connectivity: Connectivity,
    areas: NDArray[np.int64],
) -> BlockRegions:
    """Measure the regions of a block whose first slice has the place `start`.

    `dense` has (D, H, W) class numbers below `classes`, or `UNLABELLED_NUMBER`; unless `is_last`, the last slice is the
    first of the next block. `areas` are those of `Crossings`.
    """
    found = numbered(dense, connectivity).astype(np.int32)
    depth, size = len(dense) if is_last else len(dense) - 1, dense[0].size
    voxels = np.bincount(found[:depth].ravel(), minlength=int(found.max(initial=0)) + 1)
    first, last = np.zeros(voxels.size, np.int64), np.zeros(voxels.size, np.int64)
    for z in reversed(range(len(dense))):  # what is written last stays
        first[found[z].ravel()[::-1]] = np.arange((start + z + 1) * size - 1, (start + z) * size - 1, -1)
    for z in range(len(dense)):
        last[found[z]] = start + z
    owner = np.full(voxels.size, UNLABELLED_NUMBER, np.uint8)
    owner[1:] = dense.ravel()[first[1:] - start * size]
    pairs, crossings, surface = _boundaries(dense, found, owner, classes, depth, areas)
    regions = Regions(
        owner=owner,
        voxels=voxels,
        first=first,
        last=last,
        at_border=cut_off(found, voxels.size, [*[0] * (start == 0), *[-1] * is_last]),
        surface=surface,
    )
    return BlockRegions(
        slices=depth,
        regions=regions.take(slice(1, None)),  # type: ignore[arg-type]
        top=found[0].copy(),
        bottom=None if is_last else found[-1].copy(),
        pairs=pairs,
        crossings=crossings,
    )


def _boundaries(
    dense: NDArray[np.uint8],
    found: NDArray[np.int32],
    owner: NDArray[np.uint8],
    classes: int,
    depth: int,
    areas: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs, crossings of each class, and surface of each region (0: none), as `BlockRegions` and `Regions` have them.

    Pairs within a slice are counted in its own block; those between slices in the block of the upper one.
    """
    labelled = dense != UNLABELLED_NUMBER
    is_whole = bool(labelled.all())
    pairs = np.zeros(len(OFFSETS), np.int64)
    crossings = np.zeros((classes, len(OFFSETS)), np.int64)
    surface = np.zeros(owner.size, np.int64)
    for direction, offset in enumerate(OFFSETS):
        first, second = partners(offset)
        if offset[0] == 0:
            first, second = (slice(depth), *first[1:]), (slice(depth), *second[1:])
        differs = dense[first] != dense[second]
        if is_whole:
            pairs[direction] = differs.size
        else:
            known = labelled[first] & labelled[second]
            pairs[direction] = np.count_nonzero(known)
            differs &= known
        for side in (first, second):
            met = np.bincount(found[side][differs], minlength=owner.size)
            surface += areas[direction] * met
            crossings[:, direction] += np.bincount(owner, weights=met, minlength=256)[:classes].astype(
                np.int64
            )
    return pairs, crossings, surface
