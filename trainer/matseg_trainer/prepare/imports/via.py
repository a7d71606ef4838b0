"""VGG Image Annotator (VIA) 2: one JSON file of regions for many pictures; annotations, or a whole project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from matseg_shared.errors import DatasetError
from matseg_trainer.prepare.imports.base import Export
from matseg_trainer.prepare.imports.files import Coordinate, Document, ImageFinder, checked
from matseg_trainer.prepare.imports.shapes import Drawing, Ring, Shape, ellipse, export_of, rectangle

PROJECT_KEY = "_via_img_metadata"


class _Outline(Document):
    """The keys of all kinds of shapes; which of them are there depends on the name."""

    name: Literal["polygon", "rect", "circle", "ellipse", "polyline", "point"]
    all_points_x: list[Coordinate] = Field(default_factory=list)
    all_points_y: list[Coordinate] = Field(default_factory=list)
    x: Coordinate = 0
    y: Coordinate = 0
    width: Coordinate = 0
    height: Coordinate = 0
    cx: Coordinate = 0
    cy: Coordinate = 0
    r: Coordinate = 0
    rx: Coordinate = 0
    ry: Coordinate = 0
    theta: float = Field(default=0, allow_inf_nan=False)


class _Region(Document):
    shape_attributes: _Outline
    region_attributes: dict[str, Any]


class _Picture(Document):
    filename: str
    regions: Annotated[
        list[_Region],
        BeforeValidator(lambda found: list(found.values()) if isinstance(found, dict) else found),
    ]
    """VIA 1 numbers them."""


def read_via(path: Path, content: Any, finder: ImageFinder) -> Export:
    """The pictures of a VIA file.

    Raises:
        DatasetError: it is none, or regions have several attributes, or one has none.
    """
    pictures = checked(
        path, dict[str, _Picture], content.get(PROJECT_KEY, content), "a file of the VGG Image Annotator"
    )
    keys = {key for item in pictures.values() for region in item.regions for key in region.region_attributes}
    if len(keys) > 1:
        raise DatasetError(
            f"{path}: expected one attribute of regions, which says their class, found {', '.join(sorted(keys))}; "
            "export it again without the others (Attributes > Region Attributes)"
        )
    drawings = []
    for item in pictures.values():
        shapes = [
            Shape(
                name=_class_of(region),
                where=f"{path}: {item.filename}, region {number}",
                parts=[[_ring(region.shape_attributes)]],
            )
            for number, region in enumerate(item.regions, 1)
        ]
        drawings.append(Drawing(name=item.filename, image=finder.find(item.filename, path), shapes=shapes))
    return export_of("VGG Image Annotator (VIA)", drawings)


def _class_of(region: _Region) -> str:
    """The attribute's value; of check boxes, the one that is ticked; else nothing."""
    value = next(iter(region.region_attributes.values()), "")
    if isinstance(value, dict):
        ticked = [str(name) for name, is_ticked in value.items() if is_ticked]
        value = ticked[0] if len(ticked) == 1 else ""
    return value if isinstance(value, str) else ""


def _ring(outline: _Outline) -> Ring:
    """Corners of the region; fewer than three where it has no area."""
    if outline.name == "polygon":
        pairs = zip(outline.all_points_x, outline.all_points_y, strict=False)
        return np.array(list(pairs), np.float64).reshape(-1, 2)
    if outline.name == "rect":
        return rectangle(outline.x, outline.y, outline.x + outline.width, outline.y + outline.height)
    if outline.name == "circle":
        return ellipse(outline.cx, outline.cy, outline.r, outline.r)
    if outline.name == "ellipse":
        return ellipse(outline.cx, outline.cy, outline.rx, outline.ry, outline.theta)
    return np.empty((0, 2))
