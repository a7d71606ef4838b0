"""Quantities as files: a tidy table of slices and classes, a table of size histograms, and a summary as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matseg_runtime.measure.stereology import QUANTILES, ClassQuantities, Diameters, Pixel, quantities
from matseg_runtime.records import Connectivity, SliceRegions
from matseg_runtime.units import VoxelSize
from matseg_shared.system.files import write_text

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
    """What was measured."""
    rows: Sequence[SliceRow]
    classes: Sequence[tuple[int, str]]
    """Value and name of each class."""
    voxel: VoxelSize | None
    connectivity: Connectivity
    unlabelled: int = 0
    """Slices without any label, which are not among the rows."""

    @property
    def pixel(self) -> Pixel:
        """What a pixel stands for."""
        return Pixel.of(self.voxel)

    def total(self) -> tuple[ClassQuantities, ...]:
        """Of all slices together."""
        return self._of(row.regions for row in self.rows)

    def _of(self, slices: Iterable[SliceRegions]) -> tuple[ClassQuantities, ...]:
        return quantities(slices, [value for value, _ in self.classes], self.pixel)

    def write(self, folder: Path) -> None:
        """Write the three files.

        Raises:
            OutputError: they cannot be written.
        """
        total = self.total()
        write_text(folder / QUANTITIES_NAME, self._table(total))
        write_text(folder / SIZES_NAME, self._sizes(total))
        write_text(folder / SUMMARY_NAME, json.dumps(self.summary(total), indent=1) + "\n")

    def summary(self, total: Sequence[ClassQuantities]) -> dict[str, Any]:
        """For JSON."""
        return {
            "labels": self.labels,
            "slices": len(self.rows),
            "slices_without_labels": self.unlabelled,
            "unit": self.pixel.unit,
            "voxel_size": None if self.voxel is None else self.voxel.as_dict(),
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

    def _table(self, total: Sequence[ClassQuantities]) -> str:
        """A row per slice and class, then a row per class with `total` in place of the slice."""
        unit = self.pixel.unit
        header = [
            "slice", "position", "class", "value", "pixels", "fraction", f"area ({unit}^2)",
            "regions", "regions at edge", f"mean diameter ({unit})",
            *(f"diameter p{level} ({unit})" for level in QUANTILES), f"largest diameter ({unit})",
            f"boundary per area (1/{unit})", f"specific surface (1/{unit})",
        ]  # fmt: skip
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for row in self.rows:
            self._write_rows(writer, row.name, row.position, self._of([row.regions]))
        self._write_rows(writer, "total", "", total)
        return text.getvalue()

    def _write_rows(
        self, writer: Any, slice_name: str, position: int | str, items: Sequence[ClassQuantities]
    ) -> None:
        for item, (_, name) in zip(items, self.classes, strict=True):
            measured = (item.boundary_per_area, item.specific_surface)
            writer.writerow(
                [
                    *(slice_name, position, name, item.value, item.pixels),
                    *(f"{item.fraction:.6f}", f"{item.area:.6g}", item.regions, item.regions_at_edge),
                    *_lengths(item.diameters),
                    *(f"{value:.6g}" for value in measured),
                ]
            )

    def _sizes(self, total: Sequence[ClassQuantities]) -> str:
        """A row per class and bin, over all slices."""
        unit = self.pixel.unit
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["class", "value", f"diameter from ({unit})", f"diameter to ({unit})", "regions", "share of area"]
        )
        for item, (_, name) in zip(total, self.classes, strict=True):
            for bar in item.histogram:
                writer.writerow(
                    [
                        name,
                        item.value,
                        f"{bar.low:.6g}",
                        f"{bar.high:.6g}",
                        bar.regions,
                        f"{bar.area_share:.6f}",
                    ]
                )
        return text.getvalue()

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
