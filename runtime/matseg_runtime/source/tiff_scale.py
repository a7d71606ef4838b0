"""The size of a TIFF's pixels, from OME-XML, a microscope's tags, ImageJ's description, or its resolution tags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matseg_runtime.source.sem_tags import finite, sem_tags
from matseg_runtime.units import VoxelSize, unit_of, voxel_of_scale
from matseg_shared.images.ome_names import ome_pixels
from matseg_shared.images.read import TIFF_SUFFIXES

if TYPE_CHECKING:
    from tifffile import TiffFile

_UNIT_TAG = "ResolutionUnit"
_UNITS = {2: "inch", 3: "cm"}
_PER_INCH = {"inch": 1.0, "cm": 2.54}
_FOR_PRINTERS = (1, 72, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)
"""Dots per inch that programs fill in when they know nothing; of these no micrograph is meant."""


def image_voxel_size(path: Path) -> VoxelSize | None:
    """The size in a single image; None for other formats, and for files that cannot be read, which others tell."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            found = tiff_voxel_size(tiff)
    except Exception:  # tifffile raises many kinds for what is no TIFF
        return None
    return None if found is None else replace(found, step=None)


def tiff_voxel_size(tiff: TiffFile) -> VoxelSize | None:
    """The size in an open file, of slices along its pages; None where it says nothing that can be relied on."""
    if tiff.is_ome:
        if (pixels := ome_pixels(tiff)) is None:
            return None
        edges = [_positive(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"]
        # the unit of a length that OME-XML gives without one is the micrometre
        return _voxel(edges, [pixels.get(f"PhysicalSize{axis}Unit", "um") for axis in "ZYX"])
    microscope = sem_tags(tiff.pages.first)
    if microscope is not None and microscope.pixel is not None:
        height, width, edge_unit = microscope.pixel
        return _voxel((None, height, width), (edge_unit,) * 3)
    per_pixel = _resolution(tiff)
    if per_pixel is None:
        return None
    y, x, unit = per_pixel
    if tiff.is_imagej:
        described: dict[str, Any] = tiff.imagej_metadata or {}
        unit = unit_of(str(described.get("unit", ""))) or unit
        return _voxel((_positive(described.get("spacing")), y, x), (unit,) * 3)
    dots = _PER_INCH.get(unit, 0.0) / x
    is_for_printers = any(math.isclose(dots, known, rel_tol=5e-3) for known in _FOR_PRINTERS)
    return None if unit == "" or is_for_printers else _voxel((None, y, x), (unit,) * 3)


def _voxel(edges: Sequence[float | None], units: Sequence[str | None]) -> VoxelSize | None:
    """From edges along z, y and x, of which the first need not be known."""
    known = [(edge, unit) for edge, unit in zip(edges, units, strict=True) if edge is not None]
    if edges[1] is None or edges[2] is None:
        return None
    return voxel_of_scale([edge for edge, _ in known], [unit for _, unit in known], 0, "the input")


def _resolution(tiff: TiffFile) -> tuple[float, float, str] | None:
    """Height and width of a pixel, and their unit; "" where the tags name none."""
    tags: Any = tiff.pages.first.tags
    edges = []
    for name in ("YResolution", "XResolution"):
        tag = tags.get(name)
        value = tag.value if tag is not None else None
        if not isinstance(value, tuple) or len(value) != 2 or _positive(value[0]) is None or not value[1]:
            return None
        edges.append(value[1] / value[0])
    unit = tags.get(_UNIT_TAG)
    return edges[0], edges[1], _UNITS.get(2 if unit is None else int(unit.value), "")


def _positive(value: object) -> float | None:
    number = finite(value)
    return number if number is not None and number > 0 else None
