"""What a TIFF says of the size of its pixels: OME-XML, ImageJ's description, or its resolution tags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from matseg_runtime.units import VoxelSize, unit_of, voxel_of_scale
from matseg_shared.images.read import TIFF_SUFFIXES

if TYPE_CHECKING:
    from tifffile import TiffFile

_UNIT_TAG = "ResolutionUnit"
_UNITS = {2: "inch", 3: "cm"}
_PER_INCH = {"inch": 1.0, "cm": 2.54}
_FOR_PRINTERS = (1, 72, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)
"""Dots per inch that programs fill in when they know nothing; of these no micrograph is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffScale:
    """Edge lengths of a voxel."""

    z: float | None
    """Distance of the pages; None: the file does not say."""
    y: float
    x: float
    unit: str


def tiff_voxel_size(path: Path) -> VoxelSize | None:
    """Of a single image; None for other formats, and for files that cannot be read, which is for others to say."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            scale = tiff_scale(tiff)
    except Exception:  # tifffile raises many kinds for what is no TIFF
        return None
    return None if scale is None else voxel_of_scale((scale.y, scale.x), (scale.unit,) * 2, 0, "the input")


def tiff_scale(tiff: TiffFile) -> TiffScale | None:
    """Of an open file; None where it says nothing that can be relied on."""
    if tiff.is_ome:
        return _of_ome(tiff.ome_metadata or "")
    per_pixel = _resolution(tiff)
    if per_pixel is None:
        return None
    y, x, unit = per_pixel
    if tiff.is_imagej:
        described: dict[str, Any] = tiff.imagej_metadata or {}
        unit = unit_of(str(described.get("unit", ""))) or unit
        z = _positive(described.get("spacing"))
        return None if unit == "" else TiffScale(z=z, y=y, x=x, unit=unit)
    if unit == "" or _is_for_printers(x, unit):
        return None
    return TiffScale(z=None, y=y, x=x, unit=unit)


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


def _is_for_printers(edge: float, unit: str) -> bool:
    dots = _PER_INCH[unit] / edge
    return any(math.isclose(dots, known, rel_tol=5e-3) for known in _FOR_PRINTERS)


def _of_ome(text: str) -> TiffScale | None:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    edges = {axis: _positive(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"}
    # the unit of a length that OME-XML gives without one is the micrometre
    units = {axis: unit_of(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "ZYX"}
    y, x, unit = edges["Y"], edges["X"], units["X"]
    if y is None or x is None or unit is None or units["Y"] != unit:
        return None
    return TiffScale(z=edges["Z"] if units["Z"] == unit else None, y=y, x=x, unit=unit)


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
