"""Shapes to pixels: a pixel belongs to a shape when its centre lies within.

The corner of a picture is (0, 0) and the centre of its first pixel (0.5, 0.5), as CVAT, LabelMe, COCO, QuPath and
ImageJ have it. A pixel is inside by the even-odd rule, so that a ring within a ring is a hole; of shapes that share an
edge, each pixel belongs to one. Pillow's and OpenCV's polygons also take the pixels that the outline runs through,
which makes every region half a pixel wider on each side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import DatasetError
from matseg_shared.images.palette import Colour
from matseg_shared.images.read import natural_key
from matseg_trainer.prepare.imports.base import OUTSIDE, Export, Indices, LabelledImage, Painted, Size

Ring = NDArray[np.float64]
"""(N, 2) corners (x, y) of a closed polygon."""
Box = tuple[int, int, NDArray[np.bool_]]
"""Row and column of the upper left pixel, and (h, w) pixels that belong to the shape."""
_CORNERS_OF_A_CIRCLE = 512
"""The area is right to 0.003 %; the outline is 0.02 pixels off at a radius of 1000."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """A drawn area of one class."""

    name: str
    """The class, as the file has it."""
    where: str
    """File and place, for messages."""
    parts: Sequence[Sequence[Ring]] = ()
    """Areas that are joined; each an outline, then its holes."""
    mask: Callable[[Size], Box] | None = None
    """Pixels instead of outlines, for a picture of that size."""

    @property
    def has_area(self) -> bool:
        return self.mask is not None or any(len(ring) > 2 for rings in self.parts for ring in rings)

    def boxes(self, size: Size) -> Iterator[Box]:
        """The pixels of each part.

        Raises:
            DatasetError: the shape lies outside of the picture.
        """
        if self.mask is not None:
            yield self.mask(size)
            return
        (left, top), (right, bottom) = self.bounds
        if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
            raise DatasetError(
                f"{self.where}: expected a shape within the picture of {size[0]} x {size[1]} pixels (rows x columns), "
                f"found one from row {top:g}, column {left:g} to row {bottom:g}, column {right:g}; was it drawn on "
                "another picture, or on one of another resolution?"
            )
        for rings in self.parts:
            yield fill(rings, size)

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and largest (x, y)."""
        corners = np.concatenate([ring for rings in self.parts for ring in rings])
        return corners.min(axis=0), corners.max(axis=0)


def class_name(text: str, where: str) -> str:
    """The name of a class without spaces around it.

    Raises:
        DatasetError: there is nothing else in it.
    """
    if not text.strip():
        raise DatasetError(
            f"{where}: expected the name of a class, found {text!r}; name it, and export again"
        )
    return text.strip()


def fill(rings: Sequence[Ring], size: Size) -> Box:
    """The pixels whose centres lie in an odd number of rings, in the part of the picture that the rings span."""
    corners = np.concatenate(rings)
    low, high = corners.min(axis=0), corners.max(axis=0)
    (left, top), (right, bottom) = (
        np.clip(np.ceil(end - 0.5), 0, size[::-1]).astype(int) for end in (low, high)
    )
    # each crossing of a row's centre line by an edge turns all pixels to the right of it over
    turned = np.zeros((bottom - top, right - left + 1), np.uint8)
    start, end = corners, np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    first, last = np.clip(np.ceil(np.sort([start[:, 1], end[:, 1]], axis=0) - 0.5), top, bottom).astype(int)
    edge = np.repeat(np.arange(len(start)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
    column = np.clip(np.ceil(x + (row + 0.5 - y) * dx / dy - 0.5), left, right).astype(int)
    np.bitwise_xor.at(turned, (row - top, column - left), 1)
    return top, left, np.bitwise_xor.accumulate(turned, axis=1)[:, :-1].astype(bool)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing(LabelledImage):
    """Shapes of one picture."""

    shapes: Sequence[Shape]
    """In the order in which they are painted, later ones over earlier ones."""

    def paint(self, size: Size, indices: Indices) -> Painted:
        """Its labels.

        Raises:
            DatasetError: a shape lies outside of the picture, or its mask does not fit it.
        """
        painted = Painted(labels=np.full(size, indices[OUTSIDE], np.uint8))
        labels, happened = painted.labels, painted.happened
        drawn = np.zeros(size, bool)
        for shape in self.shapes:
            value, pixels = indices[shape.name], 0
            for row, column, mask in shape.boxes(size):
                box = np.s_[row : row + mask.shape[0], column : column + mask.shape[1]]
                happened["covered"] += int(np.count_nonzero(mask & drawn[box] & (labels[box] != value)))
                labels[box][mask] = value
                drawn[box] |= mask
                pixels += int(np.count_nonzero(mask))
            happened["too small"] += pixels == 0
            if shape.mask is None:
                low, high = shape.bounds
                happened["clipped"] += bool((low < -1).any() or (high > np.array(size[::-1]) + 1).any())
        return painted


def export_of(
    tool: str,
    drawings: Sequence[Drawing],
    *,
    left_out: int = 0,
    classes: Sequence[str] | None = None,
    colours: Mapping[str, Colour] | None = None,
    ignored: str | None = None,
) -> Export:
    """An export of shapes, of which those without an area are left out.

    Args:
        tool: as messages name it.
        drawings: one per picture.
        left_out: shapes without an area that are in none of them.
        classes: in their order; None: those of the shapes, by their names.
        colours: of classes that have one.
        ignored: regular expression for names that mean that nobody labelled the pixels.

    Raises:
        DatasetError: a class has no name.
    """
    left_out += sum(not shape.has_area for drawing in drawings for shape in drawing.shapes)
    drawings = [
        replace(
            drawing,
            shapes=[
                replace(shape, name=class_name(shape.name, shape.where))
                for shape in drawing.shapes
                if shape.has_area
            ],
        )
        for drawing in drawings
    ]
    names = {shape.name for drawing in drawings for shape in drawing.shapes} - {OUTSIDE}
    unlabelled = frozenset(name for name in names if ignored and re.fullmatch(ignored, name))
    note = f"{left_out} shape(s) without an area (points, lines, texts, bare boxes) were left out"
    return Export(
        tool=tool,
        images=drawings,
        classes=tuple(sorted(names - unlabelled, key=natural_key) if classes is None else classes),
        colours=colours or {},
        unlabelled=unlabelled,
        notes=(note,) if left_out else (),
    )


def rectangle(left: float, top: float, right: float, bottom: float) -> Ring:
    """The four corners, from two that lie opposite."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Ring:
    """A polygon of many corners with the ellipse's area; `angle` in radians turns x towards y."""
    turn = np.linspace(0, 2 * np.pi, _CORNERS_OF_A_CIRCLE, endpoint=False)
    across, down = radius_x * np.cos(turn), radius_y * np.sin(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + across * cos - down * sin, y + across * sin + down * cos], axis=1)
