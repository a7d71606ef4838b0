"""COCO JSON (Lin et al. 2014): polygons and run lengths of objects, as CVAT and Roboflow export them."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from matseg_shared.errors import DatasetError
from matseg_trainer.data.folder import shorten
from matseg_trainer.prepare.imports.base import Export, Size
from matseg_trainer.prepare.imports.files import Coordinate, Document, Edge, ImageFinder, checked
from matseg_trainer.prepare.imports.shapes import Box, Drawing, Shape, class_name, export_of


class _RunLengths(Document):
    counts: str | list[Annotated[int, Field(ge=0)]]
    """Lengths of runs of pixels outside and inside in turn, down the columns; packed into a text, or as they are."""
    size: tuple[Edge, Edge]
    """Rows and columns."""


class _Image(Document):
    id: int | str
    file_name: str
    width: Edge
    height: Edge


class _Category(Document):
    id: int
    name: str


class _Annotation(Document):
    image_id: int | str
    category_id: int
    segmentation: Annotated[
        list[list[Coordinate]] | _RunLengths | None, BeforeValidator(lambda found: found or None)
    ] = None
    """None: a box alone."""


class _Coco(Document):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_coco(path: Path, content: Any, finder: ImageFinder) -> Export:
    """The pictures of a COCO file.

    Raises:
        DatasetError: it is none, or contradicts itself.
    """
    coco = checked(path, _Coco, content, "COCO JSON of objects (instances)")
    names = {item.id: class_name(item.name, f"{path}: category {item.id}") for item in coco.categories}
    pictures = {item.id: item for item in coco.images}
    if len(names) < len(coco.categories) or len(pictures) < len(coco.images):
        raise DatasetError(
            f"{path}: expected each id of images and categories once, found some twice; export it again"
        )
    shapes = defaultdict[int | str, list[Shape]](list)
    for number, item in enumerate(coco.annotations, 1):
        where = f"{path}: annotation {number}"
        for kind, key, known in (("image", item.image_id, pictures), ("category", item.category_id, names)):
            if key not in known:
                raise DatasetError(
                    f"{where}: expected the id of one of its {kind} entries ({shorten([*map(str, known)])}), found "
                    f"{key}; export it again"
                )
        shapes[item.image_id].append(_shape(names[item.category_id], where, item.segmentation))
    return export_of(
        "COCO JSON",
        [
            Drawing(
                name=item.file_name,
                image=finder.find(item.file_name, path),
                shapes=shapes[item.id],
                size=(item.height, item.width),
            )
            for item in coco.images
        ],
        classes=tuple(dict.fromkeys(names.values())),
    )


def _shape(name: str, where: str, found: list[list[float]] | _RunLengths | None) -> Shape:
    if isinstance(found, _RunLengths):
        return Shape(name=name, where=where, mask=partial(_mask, where, found))
    flats = found or []
    if any(len(flat) % 2 for flat in flats):
        raise DatasetError(
            f"{where}: expected x, y, x, y, ... as a polygon, found an odd number of coordinates"
        )
    return Shape(name=name, where=where, parts=[[np.reshape(flat, (-1, 2))] for flat in flats if flat])


def _mask(where: str, runs: _RunLengths, size: Size) -> Box:
    counts = unpack_counts(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if runs.size != size or min(counts, default=-1) < 0 or sum(counts) != math.prod(size):
        raise DatasetError(
            f"{where}: expected run lengths of {size[0]} x {size[1]} pixels (rows x columns), found ones of "
            f"{runs.size[0]} x {runs.size[1]} that add up to {sum(counts)}; export it again"
        )
    ends = np.cumsum(counts)
    starts, ends = ends[:-1:2], ends[1::2]  # of the runs inside
    if not len(starts):
        return 0, 0, np.zeros((0, 0), bool)
    left, right = int(starts[0]) // size[0], -(-int(ends[-1]) // size[0])
    turned = np.zeros((right - left) * size[0] + 1, np.int8)
    np.add.at(turned, starts - left * size[0], 1)
    np.add.at(turned, ends - left * size[0], -1)
    return 0, left, np.cumsum(turned[:-1], dtype=np.int8).astype(bool).reshape(-1, size[0]).T


def unpack_counts(text: str) -> list[int]:
    """Run lengths from COCO's text, five bits a character, lowest first.

    From the fourth on, each is told by how it differs from the last but one.
    """
    counts: list[int] = []
    value = shift = 0
    for mark in text:
        bits = ord(mark) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
