"""LabelMe: one JSON file beside each picture, or with the picture in it."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from matseg_shared.errors import DatasetError
from matseg_trainer.prepare.imports.base import OUTSIDE, Export, Size
from matseg_trainer.prepare.imports.files import Document, Edge, ImageFinder, Point, checked
from matseg_trainer.prepare.imports.shapes import Box, Drawing, Shape, ellipse, export_of, rectangle

_BACKGROUND = "_background_"
_IGNORE = "__ignore__"
_CORNERS = {"polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "mask": 2}
"""Least number of points; other kinds of shapes have no area."""


class _Shape(Document):
    label: str
    points: list[Point]
    shape_type: str | None = "polygon"
    mask: str | None = None
    """Pixels of a shape of type `mask`, a PNG in base64, from the first of two points to the second, inclusive."""


class _Picture(Document):
    shapes: list[_Shape]
    imagePath: str  # noqa: N815 (the format's name)
    imageData: str | None = None  # noqa: N815
    imageHeight: Edge | None = None  # noqa: N815
    imageWidth: Edge | None = None  # noqa: N815


def read_labelme(documents: Sequence[tuple[Path, Any]], finder: ImageFinder) -> Export:
    """One picture per file.

    Raises:
        DatasetError: a file is no LabelMe file.
    """
    drawings = []
    for path, content in documents:
        picture = checked(path, _Picture, content, "a LabelMe file")
        height, width = picture.imageHeight, picture.imageWidth
        drawings.append(
            Drawing(
                name=picture.imagePath,
                image=finder.find(picture.imagePath, path) or _embedded(path, picture.imageData),
                shapes=[_shape(path, number, item) for number, item in enumerate(picture.shapes, 1)],
                size=None if height is None or width is None else (height, width),
            )
        )
    return export_of("LabelMe JSON", drawings, ignored=_IGNORE)


def _shape(path: Path, number: int, item: _Shape) -> Shape:
    where = f"{path}: shape {number} ({item.label!r})"
    name = OUTSIDE if item.label.strip() == _BACKGROUND else item.label
    points, kind = np.array(item.points, np.float64), item.shape_type or "polygon"
    if len(points) < _CORNERS.get(kind, len(points) + 1):
        return Shape(name=name, where=where)
    if kind == "mask":
        return Shape(name=name, where=where, mask=partial(_mask, where, points, item.mask or ""))
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        points = ellipse(points[0, 0], points[0, 1], radius, radius)
    elif kind == "rectangle" and len(points) == 2:
        points = rectangle(*points[0], *points[1])
    return Shape(name=name, where=where, parts=[[points]])


def _mask(where: str, points: np.ndarray[Any, Any], content: str, size: Size) -> Box:
    (left, top), (right, bottom) = np.rint([points.min(axis=0), points.max(axis=0)]).astype(int)
    expected = (bottom - top + 1, right - left + 1)
    try:
        with Image.open(io.BytesIO(base64.b64decode(content)), formats=("PNG",)) as image:
            found = image.size[::-1]
            mask = np.asarray(image) > 0 if found == expected else np.empty(0, bool)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(
            f"{where}: expected a PNG in base64 as its mask, found something else ({error})"
        ) from error
    if found != expected or mask.ndim != 2 or min(top, left) < 0 or bottom >= size[0] or right >= size[1]:
        raise DatasetError(
            f"{where}: expected a mask of {expected[0]} x {expected[1]} pixels (rows x columns) within the picture of "
            f"{size[0]} x {size[1]}, found {found[0]} x {found[1]} from row {top}, column {left}; draw it anew"
        )
    return int(top), int(left), mask


def _embedded(path: Path, content: str | None) -> bytes | None:
    """The picture that a file carries."""
    try:
        return None if content is None else base64.b64decode(content)
    except binascii.Error as error:
        raise DatasetError(f"{path}: expected imageData in base64, found something else ({error})") from error
