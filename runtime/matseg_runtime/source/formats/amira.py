"""Volumes of Amira and Avizo (`.am`), uncompressed or with HxZip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.deflate import DeflatedPixels, require_first_axis
from matseg_runtime.source.formats.pixels import FilePixels, array_source, reading, text_header
from matseg_shared.errors import UsageError

_TYPES = {
    "byte": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}
_ARRAY = (
    r"Lattice\s*\{\s*(\w+)(?:\s*\[\s*(\d+)\s*\])?\s+\w+\s*\}\s*=?\s*@(\d+)(?:\s*\(\s*(\w+)\s*,\s*\d+\s*\))?"
)
"""Type, numbers per voxel, number of the data section, and compression."""
_NUMBER = r"([-+.\deE]+)"


def open_amira(location: str, options: SourceOptions) -> ArraySource:
    """Open the one volume of a file.

    Raises:
        UsageError: the header is damaged or of another object, or promises other pixels than the file has.
    """
    path = Path(location)
    with reading(path, "an AmiraMesh file (.am)"):
        text, length = text_header(path, rb"\n@1[ \t]*\r?\n")
        first = text.partition("\n")[0]
        if re.match(r"# (AmiraMesh|Avizo)", first) is None or "BINARY" not in first:
            raise UsageError(
                f"{path}: expected a binary AmiraMesh file, found {first[:60]!r}; save it as one"
            )
        order = "<" if "LITTLE" in first else ">"
        found = re.findall(_ARRAY, text)
        size = re.search(r"(?m)^\s*define\s+Lattice\s+(\d+)\s+(\d+)\s+(\d+)\s*$", text)
        if len(found) != 1 or size is None:
            raise UsageError(
                f"{path}: expected one array on a lattice of three axes, found {len(found)}; save the image by itself"
            )
        (kind, channels, section, compression), shape = found[0], tuple(int(size[axis]) for axis in (3, 2, 1))
        if section != "1" or re.search(r'CoordType\s+"(?!uniform)', text):
            raise UsageError(
                f'{path}: expected voxels of one size (CoordType "uniform"); resample and save it so'
            )
        many = int(channels or 1)
        whole = shape if many == 1 else (*shape, many)
        dtype = np.dtype(order + _TYPES[kind])
        array: Any
        if not compression:
            array = FilePixels(path, whole, dtype, offset=length, tail=2)
        elif compression == "HxZip":
            require_first_axis(path, options)
            array = DeflatedPixels(path, whole, dtype, offset=length)
        else:
            raise UsageError(
                f"{path}: is compressed with {compression}, which would have to be unpacked as a whole; save it "
                "without compression"
            )
        edges = _edges(text, shape)
        unit = re.search(r'Coordinates\s+"([^"]+)"', text)
        return array_source(
            "amira",
            path,
            array,
            options,
            edges=edges,
            units=[None if unit is None else unit[1]] * len(edges),
            axis_names=("z", "y", "x") if many == 1 else ("z", "y", "x", "c"),
        )


def _edges(text: str, shape: tuple[int, ...]) -> list[float]:
    """From the bounding box, which reaches from the middle of the first voxel to that of the last."""
    box = re.search(r"BoundingBox\s+" + r"\s+".join([_NUMBER] * 6), text)
    if box is None or min(shape) < 2:
        return []
    low, high = [float(end) for end in box.groups()[0::2]], [float(end) for end in box.groups()[1::2]]
    spans = [end - start for start, end in zip(low, high, strict=True)][::-1]
    return [span / (length - 1) for span, length in zip(spans, shape, strict=True)]
