"""Small OME-Zarr images of both versions in use."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_models
import zarr
from zarr.errors import ZarrUserWarning

VOLUME = onnx_models.random_pixels((12, 45, 50), "uint8", 1)
"""Pixels of the images that `make_image` writes."""


def make_image(
    path: Path,
    version: Literal["0.4", "0.5"],
    node: str = "",
    *,
    axes: str = "zyx",
    consolidated: bool = False,
) -> Path:
    """Write `VOLUME`, or one slice of it, as an OME-Zarr image of two levels."""
    pixels = VOLUME if "z" in axes else VOLUME[0]
    pixels = pixels.reshape((1,) * (len(axes) - pixels.ndim) + pixels.shape)
    format_: Literal[2, 3] = 2 if version == "0.4" else 3
    root = zarr.open_group(str(path), mode="w", zarr_format=format_)
    group = root if node == "" else root.create_group(node)
    for level, step in enumerate((1, 2)):
        coarse = tuple(slice(None, None, step if axis in "yx" else 1) for axis in axes)
        chunks = tuple(8 if axis == "z" else length for axis, length in zip(axes, pixels.shape, strict=True))
        separator = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if format_ == 2 else {}
        group.create_array(str(level), data=np.ascontiguousarray(pixels[coarse]), chunks=chunks, **separator)
    group.attrs.put(_ome_attributes(version, axes))
    if consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # zarr 3 has no word on it yet
            zarr.consolidate_metadata(str(path), zarr_format=format_)
    return path


def _ome_attributes(version: str, axes: str) -> dict[str, Any]:
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    sizes = {"z": 0.002, "y": 0.0013, "x": 0.0013}
    image = {
        "name": "scan",
        "axes": [{"name": axis, **kinds.get(axis, {"type": "space", "unit": "millimeter"})} for axis in axes],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {
                        "type": "scale",
                        "scale": [sizes.get(axis, 1.0) * (step if axis in "yx" else 1) for axis in axes],
                    },
                    {"type": "translation", "translation": [5.0 if axis == "z" else 0.0 for axis in axes]},
                ],
            }
            for level, step in enumerate((1, 2))
        ],
    }
    if version == "0.4":
        return {"multiscales": [{"version": "0.4", **image}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}
