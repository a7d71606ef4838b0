"""GeoJSON as QuPath exports it: one file per picture, of the same name, in pixels of full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from matseg_shared.images.palette import Colour
from matseg_trainer.prepare.imports.base import Export
from matseg_trainer.prepare.imports.files import Coordinate, Document, ImageFinder, checked
from matseg_trainer.prepare.imports.shapes import Drawing, Shape, export_of

_Rings = list[Annotated[list[Annotated[list[Coordinate], Field(min_length=2)]], Field(min_length=3)]]
_Byte = Annotated[int, Field(ge=0, le=255)]
_IGNORED = r".*\*"
"""Names of classes that QuPath leaves out of trainings."""


class _Geometry(Document):
    type: Literal["Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString"]
    coordinates: list[_Rings]
    """Outlines of polygons; none for what has no area."""

    @model_validator(mode="before")
    @classmethod
    def _of_polygons(cls, found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        kind, coordinates = found.get("type"), found.get("coordinates")
        areas = [coordinates] if kind == "Polygon" else coordinates if kind == "MultiPolygon" else []
        return {"type": kind, "coordinates": areas}


class _Class(Document):
    name: str = ""
    names: list[str] = Field(default_factory=list)
    """Parts of a class within classes, such as Pore: Filled, instead of its name."""
    color: tuple[_Byte, _Byte, _Byte] | None = None
    colorRGB: int | None = None  # noqa: N815 (QuPath 0.2: 0xAARRGGBB, negative)

    @property
    def colour(self) -> Colour | None:
        if self.colorRGB is None:
            return self.color
        return self.colorRGB >> 16 & 255, self.colorRGB >> 8 & 255, self.colorRGB & 255


class _Properties(Document):
    objectType: str = "annotation"  # noqa: N815
    classification: _Class | None = None


class _Feature(Document):
    type: Literal["Feature"]
    geometry: _Geometry
    properties: _Properties | None = None


def read_qupath(documents: Sequence[tuple[Path, Any]], finder: ImageFinder) -> Export:
    """One picture per file.

    Raises:
        DatasetError: a file is no GeoJSON.
    """
    drawings = []
    colours: dict[str, Colour] = {}
    for path, content in documents:
        found = content
        if isinstance(content, dict):
            found = content.get("features") if content.get("type") == "FeatureCollection" else [content]
        shapes = []
        for number, item in enumerate(checked(path, list[_Feature], found, "GeoJSON of QuPath"), 1):
            properties = item.properties or _Properties()
            kind = properties.classification
            name = properties.objectType if kind is None else kind.name or ": ".join(kind.names)
            if kind is not None and kind.colour is not None:
                colours.setdefault(name.strip(), kind.colour)
            areas = item.geometry.coordinates
            parts = [[np.array([point[:2] for point in ring]) for ring in rings] for rings in areas]
            shapes.append(Shape(name=name, where=f"{path}: object {number} ({name})", parts=parts))
        drawings.append(Drawing(name=path.stem, image=finder.find(path.stem, path), shapes=shapes))
    return export_of("QuPath GeoJSON", drawings, colours=colours, ignored=_IGNORED)
