"""Cut an image into overlapping tiles so that the stitched result equals the untiled one.

Why it is exact: a network of stride `s` maps a shift of the input by `s` pixels to the same shift of the
output, so tiles may start at multiples of `s` only. Outputs within `halo` pixels of a cut edge can depend on
pixels beyond it and are dropped; outputs at the image's own border see the same border as untiled.

```
   0                                                   size  padded
   |----------- read ------------|                       :    |
   |------- write --------|~halo~|                       :    |
                   |~halo~|------ write ------|~halo~|   :    |
                          |~halo~|------ write ----------|    |      the last tile ends at the padded edge
```

All boxes are half-open pixel ranges in (y, x) order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open pixel rectangle: rows `y0` to `y1`, columns `x0` to `x1`, both ends exclusive."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    def slices(self) -> tuple[slice, slice]:
        """Index an (H, W) array with it."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def relative_to(self, other: Box) -> Box:
        """The same pixels, counted from the upper-left corner of `other`."""
        return self.moved(-other.y0, -other.x0)

    def moved(self, down: int, right: int) -> Box:
        """The same size, somewhere else."""
        return Box(self.y0 + down, self.x0 + right, self.y1 + down, self.x1 + right)

    def common(self, other: Box) -> Box | None:
        """The pixels of both; None where there are none."""
        box = Box(
            max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1)
        )
        return box if box.y0 < box.y1 and box.x0 < box.x1 else None


@dataclass(frozen=True, slots=True)
class Tile:
    """The box that the network reads, and the box of its outputs that are kept."""

    read: Box
    """In the padded image; origin and shape are multiples of the stride."""
    write: Box
    """In the image itself; the write boxes of a plan cover each pixel exactly once."""


def padded_length(length: int, stride: int) -> int:
    """`length` rounded up to a multiple of `stride`, at least one stride, in pixels."""
    return max(1, -(-length // stride)) * stride


def pad_to_stride(image: NDArray[np.generic], stride: int) -> NDArray[np.generic]:
    """Reflect an image at its lower and right edge up to multiples of `stride`.

    Args:
        image: (H, W) or (H, W, C), any dtype, at least 1 x 1.
        stride: pixels.

    Returns:
        The same array when nothing has to be added, else a larger copy; the original starts at (0, 0).
    """
    height, width = image.shape[:2]
    below = padded_length(height, stride) - height
    right = padded_length(width, stride) - width
    if below == right == 0:
        return image
    return np.pad(image, ((0, below), (0, right), *[(0, 0)] * (image.ndim - 2)), mode="reflect")


def smallest_tile(halo: int, stride: int) -> int:
    """Edge length of the smallest tile that still writes one stride of pixels."""
    return 2 * padded_length(halo, stride) * (halo > 0) + stride


def plan_tiles(shape: tuple[int, int], tile: tuple[int, int], *, halo: int, stride: int) -> list[Tile]:
    """Tiles in row order whose stitched outputs equal the untiled output.

    Args:
        shape: (H, W) of the image in pixels, at least 1 x 1.
        tile: (rows, columns) of the largest tile to read, in pixels; rounded down to multiples of `stride`.
        halo: outputs this near a cut edge are dropped; rounded up to a multiple of `stride`.
        stride: the network's, in pixels.

    Raises:
        UsageError: the tile is too small to write anything.
    """
    if min(shape) < 1:
        raise UsageError(f"an image of {shape[0]} x {shape[1]} pixels has nothing to segment")
    rows, columns = (
        _plan_axis(length, edge // stride * stride, halo=halo, stride=stride)
        for length, edge in zip(shape, tile, strict=True)
    )
    return [
        Tile(read=Box(ry[0], rx[0], ry[1], rx[1]), write=Box(wy[0], wx[0], wy[1], wx[1]))
        for ry, wy in rows
        for rx, wx in columns
    ]


_Range = tuple[int, int]


def _plan_axis(length: int, tile: int, *, halo: int, stride: int) -> list[tuple[_Range, _Range]]:
    """(read, write) ranges along one axis; a length that fits is one tile."""
    padded = padded_length(length, stride)
    if padded <= tile:
        return [((0, padded), (0, length))]
    halo = -(-halo // stride) * stride
    if tile < 2 * halo + stride:
        raise UsageError(
            f"a tile of {tile} pixels is too small for this model: its halo of {halo} pixels on either side "
            f"leaves nothing to write; use at least {2 * halo + stride}"
        )
    ranges: list[tuple[_Range, _Range]] = []
    written = 0
    while written < length:
        start = min(max(written - halo, 0), padded - tile)
        stop = start + tile
        end = length if stop == padded else min(stop - halo, length)
        ranges.append(((start, stop), (written, end)))
        written = end
    return ranges
