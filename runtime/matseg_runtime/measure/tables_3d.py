"""Quantities of regions in three dimensions as files: tables of all regions and of classes, and a summary as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.measure.blocks_3d import NEIGHBOURS, Crossings, Regions
from matseg_runtime.measure.regions_3d import (
    ClassTotals,
    dense_slices,
    measure_volume,
    plan_blocks,
)
from matseg_runtime.measure.report import QUANTITIES_3D_NAME, REGIONS_3D_NAME, SUMMARY_3D_NAME
from matseg_runtime.measure.stereology import (
    QUANTILES,
    Diameters,
    Quantity,
    SizeBin,
    diameter_statistics,
    size_histogram,
)
from matseg_runtime.records import Connectivity
from matseg_runtime.source.base import Source
from matseg_runtime.units import PIXELS, VoxelSize
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import UsageError
from matseg_shared.system.files import atomic_write, write_csv, write_text

_METHODS = {
    "diameter": "of the sphere with the region's volume; regions at the border are left out",
    "surface": "of the boundary with other classes, by lines in 13 directions (Cauchy and Crofton; Legland, Kieu and "
    "Devaux 2007); the border is no boundary",
    "specific_surface": "S_V = 2 P_L, by the same lines: surface per volume, whatever the structure's direction",
}


class ClassVolumes(Quantity):
    """One class of a volume."""

    value: int
    name: str
    voxels: int
    fraction: float
    """Share of the labelled voxels."""
    volume: float
    """Volume in the unit cubed."""
    regions: int
    regions_at_border: int
    largest_share: float
    """Share of the class's volume in its largest region, wherever that lies."""
    diameter: Diameters | None
    """None: no region has a size."""
    surface: float
    """Area in the unit squared."""
    specific_surface: float
    """S_V, in 1 / unit."""
    histogram: tuple[SizeBin, ...]


class VolumeSummary(Quantity):
    """`quantities_3d.json`: all regions of a volume."""

    labels: str
    """Location of the labels that were measured."""
    shape: tuple[int, int, int]
    """(slices, rows, columns)."""
    excluded: int
    """Slices without a label, at which regions end."""
    unlabelled_voxels: int
    unit: str
    voxel_size: VoxelSize | None
    connectivity: int
    """Neighbours that belong to a voxel: 6 or 26."""
    methods: dict[str, str] = _METHODS
    """Definition of the quantities."""
    classes: tuple[ClassVolumes, ...]

    def lines(self) -> list[str]:
        """Lines for a person, one per class."""
        found = []
        for item in self.classes:
            text = f"{item.name} in 3D: {item.regions} regions ({item.regions_at_border} at the border), "
            text += f"{item.largest_share:.1%} of it in the largest"
            if item.diameter is not None:
                text += f", median diameter {item.diameter.p50:.4g} {self.unit}"
            found.append(f"{text}, specific surface {item.specific_surface:.4g} 1/{self.unit}")
        return found


def write_volume_tables(
    folder: Path,
    source: Source,
    classes: Sequence[tuple[int, str]],
    pixels: Mapping[int, int],
    *,
    voxel: VoxelSize | None,
    connectivity: Connectivity,
    excluded: frozenset[int],
    workers: int,
    progress: Progress = SILENT,
) -> VolumeSummary:
    """Measure labels as one volume, and write the three files, about classes given by value and name.

    `pixels` has the pixels of each value that occurs, ascending; `excluded` the places of slices that cannot be read.
    Without a voxel size, whose step is known, voxels are cubes, and lengths are in pixels.

    Raises:
        UsageError: slices differ in shape, can no longer be read, or hold other labels than `pixels` says.
        OutputError: the files cannot be written.
    """
    values = tuple(pixels)
    cube = voxel or replace(PIXELS, step=1.0)
    crossings = Crossings.of(cube)
    names = dict(classes)
    progress.stage("measuring in three dimensions", len(source.slices), unit="slices")
    slices = dense_slices(source, values, excluded)
    first = next(slices)
    height, width = first.shape
    depth, workers = plan_blocks(first.size, workers)
    with atomic_write(folder / REGIONS_3D_NAME) as stream:
        table = _RegionTable(
            stream.write,
            [(value, names[value]) for value in values],
            size=(height, width),
            first=source.first,
            voxel=cube,
            crossings=crossings,
        )
        totals = measure_volume(
            chain([first], slices),
            len(values),
            depth=depth,
            connectivity=connectivity,
            crossings=crossings,
            workers=workers,
            finished=table.add,
            progress=progress,
        )
        if [item.voxels for item in totals.classes] != list(pixels.values()):
            raise UsageError(
                f"{source.location}: its labels have changed while they were measured; run again when they are complete"
            )
    labelled = sum(pixels.values())
    found = dict(zip(values, zip(totals.classes, totals.crossings, strict=True), strict=True))
    nothing = ClassTotals(), np.zeros_like(totals.pairs)
    shape = (len(source.slices), height, width)
    summary = VolumeSummary(
        labels=source.location,
        shape=shape,
        excluded=len(excluded),
        unlabelled_voxels=math.prod(shape) - labelled,
        unit=cube.unit,
        voxel_size=voxel,
        connectivity=NEIGHBOURS[connectivity],
        classes=tuple(
            _volumes(value, name, *found.get(value, nothing), totals.pairs, labelled, cube, crossings)
            for value, name in classes
        ),
    )
    write_csv(folder / QUANTITIES_3D_NAME, _table(summary))
    write_text(folder / SUMMARY_3D_NAME, json.dumps(summary.document(), indent=1) + "\n")
    return summary


def _volumes(
    value: int,
    name: str,
    found: ClassTotals,
    met: NDArray[np.int64],
    pairs: NDArray[np.int64],
    labelled: int,
    voxel: VoxelSize,
    crossings: Crossings,
) -> ClassVolumes:
    """The quantities of a class that is met in (13,) of all pairs."""
    one = voxel.area * (voxel.step or 0.0)
    sizes, counts = np.array(sorted(found.sizes.items()), np.int64).reshape(-1, 2).T
    smallest = float(sphere_diameter(np.array([one]))[0])
    return ClassVolumes(
        value=value,
        name=name,
        voxels=found.voxels,
        fraction=found.voxels / labelled if labelled else 0.0,
        volume=found.voxels * one,
        regions=found.regions,
        regions_at_border=found.at_border,
        largest_share=found.largest / found.voxels if found.voxels else 0.0,
        diameter=diameter_statistics(sphere_diameter(sizes * one), counts) if sizes.size else None,
        surface=int(met @ crossings.areas) * crossings.unit,
        specific_surface=crossings.per_volume(met, pairs),
        histogram=size_histogram(sizes, counts, smallest, dimensions=3) if sizes.size else (),
    )


def _table(summary: VolumeSummary) -> Iterator[list[Any]]:
    """A row per class."""
    unit = summary.unit
    yield [
        "class", "value", "voxels", "fraction", f"volume ({unit}^3)", "regions", "regions at border",
        "largest share", f"mean diameter ({unit})", *(f"diameter p{level} ({unit})" for level in QUANTILES),
        f"largest diameter ({unit})", f"surface ({unit}^2)", f"specific surface (1/{unit})",
    ]  # fmt: skip
    for item in summary.classes:
        lengths = [""] * len(Diameters.model_fields)
        if item.diameter is not None:
            lengths = [f"{length:.6g}" for _, length in item.diameter]
        yield [
            *(item.name, item.value, item.voxels, f"{item.fraction:.6f}", f"{item.volume:.6g}"),
            *(item.regions, item.regions_at_border, f"{item.largest_share:.6f}", *lengths),
            *(f"{item.surface:.6g}", f"{item.specific_surface:.6g}"),
        ]


class _RegionTable:
    """`regions_3d.csv`, written while regions come."""

    def __init__(
        self,
        write: Callable[[bytes], Any],
        classes: Sequence[tuple[int, str]],
        *,
        size: tuple[int, int],
        first: int,
        voxel: VoxelSize,
        crossings: Crossings,
    ) -> None:
        """`size` is (H, W), `first` the place of the first slice in its input."""
        self._write, self._size, self._first = write, size, first
        self._classes = [_line([name, value]) for value, name in classes]
        self._voxel_volume = voxel.area * (voxel.step or 0.0)
        self._unit_of_surface = crossings.unit
        self._number = 0
        unit = voxel.unit
        head = f"region,class,value,at border,voxels,volume ({unit}^3),diameter ({unit}),surface ({unit}^2)"
        write(f"{head},slice,row,column,last slice\n".encode())

    def add(self, regions: Regions) -> None:
        """Write a row for each."""
        if not len(regions):
            return
        slices, places = np.divmod(regions.first, self._size[0] * self._size[1])
        rows, columns = np.divmod(places, self._size[1])
        volumes = regions.voxels * self._voxel_volume
        numbers = np.arange(self._number + 1, self._number + 1 + len(regions))
        columns_of_table = (
            numbers,
            regions.owner,
            regions.at_border.astype(np.uint8),
            regions.voxels,
            volumes,
            sphere_diameter(volumes),
            regions.surface * self._unit_of_surface,
            slices + self._first,
            rows,
            columns,
            regions.last + self._first,
        )
        self._number += len(regions)
        for row in zip(*(column.tolist() for column in columns_of_table), strict=True):
            number, owner, at_border, voxels, volume, diameter, surface, *place = row
            text = f"{number},{self._classes[owner]},{at_border},{voxels},{volume:.6g},{diameter:.6g},{surface:.6g},"
            self._write(f"{text}{','.join(map(str, place))}\n".encode())


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def sphere_diameter(volumes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Diameter of the spheres that have these volumes."""
    found: NDArray[np.float64] = np.cbrt(6 / math.pi * volumes)
    return found
