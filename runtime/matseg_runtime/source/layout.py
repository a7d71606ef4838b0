"""Which axes of a stored array are space, which are colour, and how slices are cut from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.read import PixelArray

COLOURS = 3
_TINY = 16
"""Pixels along an edge, up to which nobody means an image."""
_MOST_CHUNKS = 1_000_000
"""Chunks of one read; more are a mistake in the metadata, or chunks so small that nobody could wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the axes of an array are used.

    A stored array (T=1, C=3, Z, Y, X) has spatial = (2, 3, 4), colour = 1, and slices along Z with axis = 0.
    """

    ndim: int
    """Axes of the stored array."""
    spatial: tuple[int, ...]
    """Two or three stored axes, in stored order; every axis that is neither spatial nor colour has length 1."""
    colour: int | None
    """The stored axis of length 3, if there is one."""
    axis: int
    """Which of three spatial axes is sliced along."""

    @property
    def slice_axis(self) -> int | None:
        """The stored axis that is sliced along; None for a single image."""
        return self.spatial[self.axis] if len(self.spatial) == 3 else None

    def index(self, start: int, stop: int) -> tuple[slice | int, ...]:
        """The index of slices `start` to `stop` in the stored array."""
        whole = (*self.spatial, self.colour)
        index: list[slice | int] = [slice(None) if axis in whole else 0 for axis in range(self.ndim)]
        if self.slice_axis is not None:
            index[self.slice_axis] = slice(start, stop)
        return tuple(index)

    def images(self, block: PixelArray) -> list[PixelArray]:
        """Cut what `index` gave into (H, W) or (H, W, 3) images."""
        planes = (axis for axis in self.spatial if axis != self.slice_axis)
        wanted = [axis for axis in (self.slice_axis, *planes, self.colour) if axis is not None]
        block = np.transpose(block, [sorted(wanted).index(axis) for axis in wanted])
        return list(block) if self.slice_axis is not None else [block]


def layout_of(
    where: str, shape: Sequence[int], axis: int | None, names: Sequence[str] | None = None
) -> Layout:
    """Decide by the axes' names where a file has them, else by their lengths.

    Args:
        where: the array, named in errors.
        shape: of the stored array.
        axis: the spatial axis to slice along; None: the first.
        names: `t`, `c`, `z`, `y`, `x` per axis, as OME-Zarr has them.

    Raises:
        UsageError: an empty array, or axes that cannot be told apart.
    """
    if 0 in shape:
        raise UsageError(f"{where}: holds nothing to segment: its shape is {tuple(shape)}")
    if names is None and axis is None:
        _refuse_colours_for_slices(where, shape)
    spatial, colour = _axes(shape, names)
    extra = [number for number in range(len(shape)) if number not in (*spatial, colour)]
    if len(spatial) not in (2, 3) or any(shape[number] != 1 for number in extra):
        raise UsageError(
            f"{where}: expected an image or a volume, grey or with {COLOURS} colours, found an array of shape "
            f"{tuple(shape)}{'' if names is None else f' with the axes {chr(44).join(names)}'}"
        )
    named = [] if names is None else [names[number] for number in spatial]
    if named != sorted(named, reverse=True):
        raise UsageError(
            f"{where}: expected its axes in the order z, y, x, found {', '.join(named)}: its slices would be mirrored "
            "along the diagonal; transpose it first"
        )
    if axis is not None and axis >= len(spatial):
        raise UsageError(
            f"{where}: has {len(spatial)} spatial axes, so --axis must be below {len(spatial)}, not {axis}"
        )
    if axis is not None and len(spatial) == 2:
        raise UsageError(f"{where}: is a single image, which --axis cannot slice")
    return Layout(ndim=len(shape), spatial=spatial, colour=colour, axis=axis or 0)


def _refuse_colours_for_slices(where: str, shape: Sequence[int]) -> None:
    """Refuse an image with alpha or with its colours first, which looks like a volume of tiny or of few slices."""
    real = [length for length in shape if length != 1]
    if len(real) != 3:
        return
    if real[-1] in (2, 4) and min(real[:2]) > _TINY:
        raise UsageError(
            f"{where}: of the shape {tuple(shape)}, is an image with an alpha channel or a volume of slices "
            f"{real[-1]} pixels wide; save it without alpha, or say that it is a volume with --axis 0"
        )
    if real[0] == COLOURS and min(real[1:]) > _TINY:
        raise UsageError(
            f"{where}: of the shape {tuple(shape)}, is an image with its {COLOURS} colours first or a volume of "
            f"{COLOURS} slices; save it with the colours last, or say that it is a volume with --axis 0"
        )


def _axes(shape: Sequence[int], names: Sequence[str] | None) -> tuple[tuple[int, ...], int | None]:
    """The spatial axes, and that of colours."""
    if names is not None:
        spatial = tuple(number for number, name in enumerate(names) if name in ("z", "y", "x"))
        colours = (number for number, name in enumerate(names) if name == "c" and shape[number] == COLOURS)
        return spatial, next(colours, None)
    colour = None
    if len(shape) >= 3 and shape[-1] == COLOURS:
        colour = len(shape) - 1
    elif len(shape) == 4 and shape[1] == COLOURS and shape[0] != 1:
        colour = 1
    elif len(shape) == 4 and shape[0] == COLOURS:
        colour = 0
    axes = [number for number in range(len(shape)) if number != colour]
    if colour is None and len(axes) > 2 and shape[axes[-1]] == 1:
        axes.pop()  # grey as the only channel
    while len(axes) > 3 and shape[axes[0]] == 1:
        axes.pop(0)
    return tuple(axes), colour


def chunk_ranges(
    index: Sequence[slice | int], shape: Sequence[int], chunk_shape: Sequence[int]
) -> list[range]:
    """Numbers of the chunks that an index touches, along each axis of the stored array."""
    ranges = []
    for part, length, chunk in zip(index, shape, chunk_shape, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // chunk, -(-stop // chunk)))
    return ranges


def require_few_chunks(where: str, ranges: Sequence[range]) -> None:
    """Refuse with an ImageError a read of so many chunks that they could not even be listed."""
    if (count := math.prod(map(len, ranges))) > _MOST_CHUNKS:
        raise ImageError(where, f"one slice of it is cut into {count} chunks; store it in larger ones")
