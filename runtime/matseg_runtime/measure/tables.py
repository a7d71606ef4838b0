"""Quantities as files: a tidy table of slices and classes, a table of size histograms, and a summary as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from matseg_runtime.measure.stereology import QUANTILES, ClassQuantities, Diameters, quantities
from matseg_runtime.records import Connectivity, SliceRegions
from matseg_runtime.units import PIXELS, VoxelSize
from matseg_shared.system.files import write_csv, write_text

QUANTITIES_NAME = "quantities.csv"
SIZES_NAME = "region_sizes.csv"
SUMMARY_NAME = "quantities.json"
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


class RegionSummary(BaseModel):
    """`quantities.json`: all slices together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: str
    """Location of the labels that were measured."""
    slices: int
    slices_without_labels: int
    unit: str
    voxel_size: VoxelSize | None
    connectivity: Connectivity
    methods: dict[str, str]
    """How the quantities are defined."""
    classes: tuple[ClassQuantities, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTables:
    """Everything that is said about the regions of some labels."""

    labels: str
    """Location of the labels that were measured."""
    rows: Sequence[SliceRow]
    classes: Sequence[tuple[int, str]]
    """Value and name of each class."""
    voxel: VoxelSize | None
    connectivity: Connectivity
    unlabelled: int = 0
    """Slices without any label, which are not among the rows."""

    @property
    def pixel(self) -> VoxelSize:
        """The lengths that a pixel stands for."""
        return self.voxel or PIXELS

    def total(self) -> tuple[ClassQuantities, ...]:
        """The quantities of all slices together."""
        return self._quantities(row.regions for row in self.rows)

    def _quantities(self, slices: Iterable[SliceRegions]) -> tuple[ClassQuantities, ...]:
        return quantities(slices, self.classes, self.pixel)

    def write(self, folder: Path) -> None:
        """Write the three files.

        Raises:
            OutputError: they cannot be written.
        """
        total = self.total()
        write_csv(folder / QUANTITIES_NAME, self._table(total))
        write_csv(folder / SIZES_NAME, self._sizes(total))
        write_text(folder / SUMMARY_NAME, json.dumps(self.summary(), indent=1) + "\n")

    def summary(self) -> dict[str, Any]:
        """For JSON; see `RegionSummary`."""
        summary = RegionSummary(
            labels=self.labels,
            slices=len(self.rows),
            slices_without_labels=self.unlabelled,
            unit=self.pixel.unit,
            voxel_size=self.voxel,
            connectivity=self.connectivity,
            methods=_METHODS,
            classes=self.total(),
        )
        return summary.model_dump(mode="json", by_alias=True)

    def _table(self, total: Sequence[ClassQuantities]) -> Iterator[list[Any]]:
        """A row per slice and class, then a row per class with `total` in place of the slice."""
        unit = self.pixel.unit
        yield [
            "slice", "position", "class", "value", "pixels", "fraction", f"area ({unit}^2)",
            "regions", "regions at edge", f"mean diameter ({unit})",
            *(f"diameter p{level} ({unit})" for level in QUANTILES), f"largest diameter ({unit})",
            f"boundary per area (1/{unit})", f"specific surface (1/{unit})",
        ]  # fmt: skip
        for row in self.rows:
            yield from self._rows(row.name, row.position, self._quantities([row.regions]))
        yield from self._rows("total", "", total)

    def _rows(
        self, slice_name: str, position: int | str, items: Sequence[ClassQuantities]
    ) -> Iterator[list[Any]]:
        for item in items:
            yield [
                *(slice_name, position, item.name, item.value, item.pixels),
                *(f"{item.fraction:.6f}", f"{item.area:.6g}", item.regions, item.regions_at_edge),
                *_lengths(item.diameter),
                *(f"{item.boundary_per_area:.6g}", f"{item.specific_surface:.6g}"),
            ]

    def _sizes(self, total: Sequence[ClassQuantities]) -> Iterator[list[Any]]:
        """A row per class and bin, over all slices."""
        unit = self.pixel.unit
        yield [
            "class",
            "value",
            f"diameter from ({unit})",
            f"diameter to ({unit})",
            "regions",
            "share of area",
        ]
        for item in total:
            for bar in item.histogram:
                bounds = (f"{bar.low:.6g}", f"{bar.high:.6g}")
                yield [item.name, item.value, *bounds, bar.regions, f"{bar.area_share:.6f}"]

    def lines(self) -> list[str]:
        """For a person: a line per class."""
        unit = self.pixel.unit
        found = []
        for item in self.total():
            sizes = item.diameter
            text = f"{item.name}: {item.fraction:.4%}, {item.regions} regions ({item.regions_at_edge} at the edge)"
            if sizes is not None:
                text += f", median diameter {sizes.p50:.4g} {unit}"
            found.append(f"{text}, specific surface {item.specific_surface:.4g} 1/{unit}")
        return found


def _lengths(sizes: Diameters | None) -> list[str]:
    """Mean, quantiles and largest; empty where no region has a size."""
    if sizes is None:
        return [""] * len(Diameters.model_fields)
    return [f"{length:.6g}" for _, length in sizes]
