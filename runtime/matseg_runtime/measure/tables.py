"""Quantities as files: a tidy table of slices and classes, a table of size histograms, and a summary as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from matseg_runtime.measure.report import QUANTITIES_NAME, SIZES_NAME, SUMMARY_NAME
from matseg_runtime.measure.stereology import QUANTILES, ClassQuantities, Diameters, Quantity, quantities
from matseg_runtime.records import Connectivity, SliceRegions
from matseg_runtime.units import PIXELS, VoxelSize
from matseg_shared.system.files import write_csv, write_text

_METHODS = {
    "diameter": "of the circle with the region's area, in the section; regions at the edge are left out",
    "boundary_per_area": "L_A = pi/2 P_L: length of the boundary per area of the section",
    "specific_surface": "S_V = 2 P_L = 4/pi L_A (Underwood 1970): surface per volume, of an isotropic structure",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One slice of a table."""

    name: str
    position: int
    """In its input, from 0."""
    regions: SliceRegions
    no_data: int = 0
    """Pixels that have no label."""


class RegionSummary(Quantity):
    """`quantities.json`: all slices together."""

    labels: str
    """Location of the labels that were measured."""
    slices: int
    slices_without_labels: int
    """Not among `slices`."""
    no_data_pixels: int = 0
    """Pixels of the slices that are no sample and in no fraction."""
    unit: str
    voxel_size: VoxelSize | None
    connectivity: Connectivity
    methods: dict[str, str] = _METHODS
    """Definition of the quantities."""
    classes: tuple[ClassQuantities, ...]

    def lines(self) -> list[str]:
        """Lines for a person, one per class."""
        found = []
        for item in self.classes:
            text = f"{item.name}: {item.fraction:.4%}, {item.regions} regions ({item.regions_at_edge} at the edge)"
            if item.diameter is not None:
                text += f", median diameter {item.diameter.p50:.4g} {self.unit}"
            found.append(f"{text}, specific surface {item.specific_surface:.4g} 1/{self.unit}")
        return found


def write_tables(
    folder: Path,
    rows: Sequence[SliceRow],
    classes: Sequence[tuple[int, str]],
    *,
    labels: str,
    voxel: VoxelSize | None,
    connectivity: Connectivity,
    unlabelled: int = 0,
) -> RegionSummary:
    """Write the three files, about classes given by value and name.

    `unlabelled` is the number of slices without any label, which are not among the rows. Without a voxel size, lengths
    are in pixels.

    Raises:
        OutputError: they cannot be written.
    """
    pixel = voxel or PIXELS
    summary = RegionSummary(
        labels=labels,
        slices=len(rows),
        slices_without_labels=unlabelled,
        no_data_pixels=sum(row.no_data for row in rows),
        unit=pixel.unit,
        voxel_size=voxel,
        connectivity=connectivity,
        classes=quantities((row.regions for row in rows), classes, pixel),
    )
    each = ((row.name, row.position, quantities([row.regions], classes, pixel)) for row in rows)
    write_csv(folder / QUANTITIES_NAME, _table(chain(each, [("total", "", summary.classes)]), pixel.unit))
    write_csv(folder / SIZES_NAME, _sizes(summary))
    write_text(folder / SUMMARY_NAME, json.dumps(summary.document(), indent=1) + "\n")
    return summary


def _table(
    slices: Iterable[tuple[str, int | str, Sequence[ClassQuantities]]], unit: str
) -> Iterator[list[Any]]:
    """A row per slice and class, from (name, position, classes) of each slice."""
    yield [
        "slice", "position", "class", "value", "pixels", "fraction", f"area ({unit}^2)",
        "regions", "regions at edge", f"mean diameter ({unit})",
        *(f"diameter p{level} ({unit})" for level in QUANTILES), f"largest diameter ({unit})",
        f"boundary per area (1/{unit})", f"specific surface (1/{unit})",
    ]  # fmt: skip
    for name, position, classes in slices:
        for item in classes:
            lengths = [""] * len(Diameters.model_fields)
            if item.diameter is not None:
                lengths = [f"{length:.6g}" for _, length in item.diameter]
            yield [
                *(name, position, item.name, item.value, item.pixels),
                *(f"{item.fraction:.6f}", f"{item.area:.6g}", item.regions, item.regions_at_edge),
                *lengths,
                *(f"{item.boundary_per_area:.6g}", f"{item.specific_surface:.6g}"),
            ]


def _sizes(summary: RegionSummary) -> Iterator[list[Any]]:
    """A row per class and bin, over all slices."""
    bounds = (f"diameter from ({summary.unit})", f"diameter to ({summary.unit})")
    yield ["class", "value", *bounds, "regions", "share of area"]
    for item in summary.classes:
        for bar in item.histogram:
            bounds = (f"{bar.low:.6g}", f"{bar.high:.6g}")
            yield [item.name, item.value, *bounds, bar.regions, f"{bar.area_share:.6f}"]
