"""Labelbox: exported rows, one JSON document per picture and line (`.ndjson`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasPath, Field

from matseg_shared.errors import DatasetError
from matseg_trainer.prepare.imports.base import Export
from matseg_trainer.prepare.imports.files import Coordinate, Document, Edge, ImageFinder, checked
from matseg_trainer.prepare.imports.shapes import Drawing, Shape, export_of, rectangle


class _Corner(Document):
    x: Coordinate
    y: Coordinate


class _Box(Document):
    top: Coordinate
    left: Coordinate
    height: Coordinate
    width: Coordinate


class _Object(Document):
    name: str
    polygon: list[_Corner] | None = None
    bounding_box: _Box | None = None
    mask: dict[str, Any] | None = None
    composite_mask: dict[str, Any] | None = None


class _Label(Document):
    objects: list[_Object] = Field(default_factory=list, validation_alias=AliasPath("annotations", "objects"))


class _Project(Document):
    labels: list[_Label]


class _Row(Document):
    id: str = Field(validation_alias=AliasPath("data_row", "id"))
    external_id: str | None = Field(None, validation_alias=AliasPath("data_row", "external_id"))
    projects: dict[str, _Project]
    height: Edge | None = Field(None, validation_alias=AliasPath("media_attributes", "height"))
    width: Edge | None = Field(None, validation_alias=AliasPath("media_attributes", "width"))


def read_labelbox(path: Path, content: Any, finder: ImageFinder) -> Export:
    """The pictures of a Labelbox export.

    Raises:
        DatasetError: it is none; a picture has several labels; or masks were left on Labelbox's server.
    """
    drawings = []
    for row in checked(path, list[_Row], content, "rows exported from Labelbox"):
        name = row.external_id or row.id
        labels = [label for project in row.projects.values() for label in project.labels]
        if len(labels) > 1:
            raise DatasetError(
                f"{path}: {name}: expected one label, found {len(labels)}; export one project, and the label that won"
            )
        shapes = []
        for number, item in enumerate([found for label in labels for found in label.objects], 1):
            where = f"{path}: {name}, object {number} ({item.name})"
            if item.mask is not None or item.composite_mask is not None:
                raise DatasetError(
                    f"{where}: expected a polygon or a box, found a mask, of which the export has only the address; "
                    "convert masks to polygons in Labelbox, or export them as COCO with labelbox's own converter"
                )
            ring = np.array([(corner.x, corner.y) for corner in item.polygon or ()], np.float64)
            if len(ring) < 3 and (box := item.bounding_box) is not None:
                ring = rectangle(box.left, box.top, box.left + box.width, box.top + box.height)
            shapes.append(Shape(name=item.name, where=where, parts=[[ring]]))
        size = None if row.height is None or row.width is None else (row.height, row.width)
        drawings.append(Drawing(name=name, image=finder.find(name, path), shapes=shapes, size=size))
    return export_of("Labelbox", drawings)
