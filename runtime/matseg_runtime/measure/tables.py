"""Quantities as files: a tidy table of slices and classes, a table of size histograms, and a summary as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        return quantities(slices, [value for value, _ in self.classes], self.pixel)

    def write(self, folder: Path) -> None:
        """Write the three files.

        Raises:
            OutputError: they cannot be written.
        """
        total = self.total()
        write_csv(folder / QUANTITIES_NAME, self._table(total))
        write_csv(folder / SIZES_NAME, self._sizes(total))
        write_text(folder / SUMMARY_NAME, json.dumps(self.summary(total), indent=1) + "\n")

    def summary(self, total: Sequence[ClassQuantities]) -> dict[str, Any]:
        """For JSON."""
        return {
            "labels": self.labels,
            "slices": len(self.rows),
            "slices_without_labels": self.unlabelled,
            "unit": self.pixel.unit,
            "voxel_size": None if self.voxel is None else dataclasses.asdict(self.voxel),
            "connectivity": self.connectivity,
            "methods": _METHODS,
            "classes": [self._class(item, name) for item, (_, name) in zip(total, self.classes, strict=True)],
        }

    def _class(self, item: ClassQuantities, name: str) -> dict[str, Any]:
        step = self.pixel.step
        sizes = item.diameters
        return {
            "value": item.value,
            "name": name,
            "pixels": item.pixels,
            "fraction": item.fraction,
            "area": item.area,
            "volume": None if step is None else item.area * step,
            "regions": item.regions,
            "regions_at_edge": item.regions_at_edge,
            "diameter": None
            if sizes is None
            else {
                "mean": sizes.mean,
                **{f"p{level}": value for level, value in zip(QUANTILES, sizes.quantiles, strict=True)},
                "largest": sizes.largest,
            },
            "boundary_per_area": item.boundary_per_area,
            "specific_surface": item.specific_surface,
            "histogram": [
                {"from": bar.low, "to": bar.high, "regions": bar.regions, "area_share": bar.area_share}
                for bar in item.histogram
            ],
        }

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
        for item, (_, name) in zip(items, self.classes, strict=True):
            yield [
                *(slice_name, position, name, item.value, item.pixels),
                *(f"{item.fraction:.6f}", f"{item.area:.6g}", item.regions, item.regions_at_edge),
                *_lengths(item.diameters),
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
        for item, (_, name) in zip(total, self.classes, strict=True):
            for bar in item.histogram:
                bounds = (f"{bar.low:.6g}", f"{bar.high:.6g}")
                yield [name, item.value, *bounds, bar.regions, f"{bar.area_share:.6f}"]

    def lines(self) -> list[str]:
        """For a person: a line per class."""
        unit = self.pixel.unit
        found = []
        for item, (_, name) in zip(self.total(), self.classes, strict=True):
            sizes = item.diameters
            text = f"{name}: {item.fraction:.4%}, {item.regions} regions ({item.regions_at_edge} at the edge)"
            if sizes is not None:
                text += f", median diameter {sizes.quantiles[QUANTILES.index(50)]:.4g} {unit}"
            found.append(f"{text}, specific surface {item.specific_surface:.4g} 1/{unit}")
        return found


def _lengths(sizes: Diameters | None) -> list[str]:
    """Mean, quantiles and largest; empty where no region has a size."""
    if sizes is None:
        return [""] * (len(QUANTILES) + 2)
    return [f"{length:.6g}" for length in (sizes.mean, *sizes.quantiles, sizes.largest)]
