"""Tags by which ImageJ and Fiji know that pages are slices, how large a voxel is, and the classes' colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from matseg_runtime.sink.base import LabelInfo
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.images.palette import full_palette

_WRITTEN_BY = "ImageJ=1.11a"
"""The first line by which ImageJ knows its own descriptions; other programs' writers give this version."""
_UNITS = {"um": "micron"}
"""ImageJ's names of units, where they are not ours."""


def tiff_tags(info: LabelInfo, *, slices: int) -> dict[str, Any]:
    """Keywords for tifffile's writers that make an image of labels, or a stack of so many slices.

    ImageJ opens the palette of class colours as indexed colour: pixel values stay class indices. The provenance is a
    line of the description that ImageJ passes over.
    """
    lines = [_WRITTEN_BY, f"images={slices}"]
    if slices > 1:
        lines += [f"slices={slices}", "loop=false"]
    tags: dict[str, Any] = {}
    voxel = None if info.voxel is None else info.voxel.in_handy_unit()
    if voxel is not None:
        lines.append(f"unit={_UNITS.get(voxel.unit, voxel.unit)}")
        if slices > 1 and voxel.step is not None:
            lines.append(f"spacing={voxel.step:.9g}")
        tags = {"resolution": (1 / voxel.column, 1 / voxel.row), "resolutionunit": "NONE"}
    lines.append(f"matseg={info.provenance}")
    # (3, 256) 16-bit RGB, as TIFF stores palettes; the last one is that of no data
    colours, palette = info.metadata.colours, np.zeros((3, 256), np.uint16)
    palette[:, : len(colours)] = np.asarray(colours, np.uint16).T * 257
    palette[:, UNLABELLED] = np.asarray(full_palette(colours)[UNLABELLED], np.uint16) * 257
    return tags | {
        "photometric": "palette",
        "colormap": palette,
        "description": "\n".join([*lines, ""]),
        "metadata": None,
    }
