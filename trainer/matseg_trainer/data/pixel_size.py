"""Pixel size of a training set: a model knows structures by their size in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from matseg_runtime.source.tiff_scale import image_voxel_size
from matseg_runtime.units import VoxelSize, parse_voxel_size
from matseg_shared.contract.metadata import PixelSize
from matseg_shared.errors import UsageError


def pixel_sizes(images: Iterable[Path]) -> tuple[VoxelSize | None, ...]:
    """Pixel sizes that the images state, each once; None stands for those that say nothing, as all but TIFFs do."""
    found: list[VoxelSize | None] = []
    for image in images:
        size = image_voxel_size(image)
        if size is None:
            found += [None] if None not in found else []
        elif not any(other is not None and size.agrees_with(other) for other in found):
            found.append(size)
    return tuple(found)


def common_pixel_size(images: Iterable[Path]) -> PixelSize | None:
    """Size of the square pixels on which all images agree; None where they do not, or do not say."""
    found = pixel_sizes(images)
    size = found[0] if len(found) == 1 else None
    if size is None or not math.isclose(size.row, size.column, rel_tol=0.01):
        return None
    return PixelSize(value=size.column, unit=size.unit)


def parse_pixel_size(text: str) -> PixelSize:
    """Read `0.65um`.

    Raises:
        UsageError: no length with a unit, or more than one.
    """
    problem = f"--pixel-size {text}: expected the edge of a pixel with its unit, such as 0.65um"
    if "," in text:
        raise UsageError(problem)
    try:
        size = parse_voxel_size(text)
    except UsageError as error:
        raise UsageError(problem) from error
    return PixelSize(value=size.column, unit=size.unit)
