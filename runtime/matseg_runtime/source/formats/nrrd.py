"""NRRD, with header and pixels in one file (`.nrrd`) or in two (`.nhdr`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.deflate import DeflatedPixels, require_first_axis
from matseg_runtime.source.formats.pixels import (
    FilePixels,
    array_source,
    data_file,
    is_several,
    pixel_files,
    reading,
    text_header,
)
from matseg_shared.errors import UsageError
from matseg_shared.system.names import printable

_TYPES = {
    "int8": "i1", "char": "i1", "uint8": "u1", "uchar": "u1",
    "int16": "i2", "short": "i2", "uint16": "u2", "ushort": "u2",
    "int32": "i4", "int": "i4", "uint32": "u4", "uint": "u4",
    "int64": "i8", "longlong": "i8", "uint64": "u8", "ulonglong": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
"""As `_plain` names them."""
_COLOURS = ("color", "vector", "list", "matrix", "normal", "complex", "quaternion")
"""In the kind of an axis that is not one of space."""


def open_nrrd(location: str, options: SourceOptions) -> ArraySource:
    """Open one image or volume.

    Raises:
        UsageError: the header is damaged, or does not fit the file of its pixels.
    """
    import nrrd

    path = Path(location)
    with reading(path, "a NRRD file"):
        text, length = text_header(path, rb"\n\r?\n|\Z")
        listed = re.search(r"(?m)^data ?file:[ \t]*LIST.*$", text)
        end = len(text) if listed is None else listed.end()
        fields: dict[str, Any] = nrrd.read_header(text[:end].split("\n"))
        shape = tuple(int(size) for size in fields["sizes"])[::-1]
        if len(shape) != int(fields["dimension"]):
            raise ValueError(f"dimension: {fields['dimension']}, sizes: {shape[::-1]}")
        dtype = np.dtype((">" if fields.get("endian") == "big" else "<") + _TYPES[_plain(fields["type"])])
        name = fields.get("data file", fields.get("datafile"))
        data, offset = _place(path, fields, length, options)
        array: Any
        if name is not None and is_several(name):
            array = pixel_files(path, name, text[end:].split("\n"), shape, dtype, options, offset=offset)
        elif fields["encoding"] == "raw":
            array = FilePixels(data, shape, dtype, offset=offset, described_by=path)
        elif fields["encoding"] in ("gzip", "gz") and offset is not None:
            require_first_axis(path, options)
            start = length if data == path else 0
            array = DeflatedPixels(data, shape, dtype, offset=start, skip=offset - start)  # of unpacked bytes
        else:
            raise UsageError(
                f"{path}: holds its pixels as {printable(str(fields['encoding']))}, expected raw or gzip; save it as "
                "one of them"
            )
        names = _axis_names(fields.get("kinds"), len(shape))
        edges, units = _edges(fields, len(shape))
        spatial = [place for place, name in enumerate(names) if name in ("z", "y", "x")]
        return array_source(
            "nrrd",
            path,
            array,
            options,
            data=data,
            edges=[edges[place] for place in spatial] if edges else (),
            units=[units[place] for place in spatial] if edges else (),
            origin=_as_itk(fields, [fields["space origin"]])[0] if "space origin" in fields else (),
            directions=_directions(fields),
            axis_names=names,
        )


def _plain(name: str) -> str:
    """One of the many names of a type, such as `unsigned short int`, as `ushort`."""
    words = [word for word in name.removesuffix("_t").split() if word != "signed"]
    if len(words) > 1 and words[-1] == "int" and words[-2] != "unsigned":
        words.pop()
    return "".join(words).replace("unsigned", "u")


def _place(
    path: Path, fields: dict[str, Any], length: int, options: SourceOptions
) -> tuple[Path, int | None]:
    """The file of the pixels, and where in it they begin; None: so that they end with it."""
    name = fields.get("data file", fields.get("datafile"))
    if int(fields.get("line skip", fields.get("lineskip", 0))):
        raise UsageError(f"{path}: skips lines before its pixels (line skip); save it without them")
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if skip < -1:
        raise ValueError(f"byte skip: {skip}")
    if name is None:
        return path, None if skip == -1 else length + skip
    if is_several(name) and fields["encoding"] != "raw":
        raise UsageError(f"{path}: names one compressed file per slice; save it raw, or as one volume")
    data = path if is_several(name) else data_file(path, name, options)
    return data, None if skip == -1 else skip


def _axis_names(kinds: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Names of the axes, the slowest first: what is no colour is space, and beyond three axes time."""
    colour = [
        any(word in kind.lower() for word in _COLOURS) for kind in reversed(kinds or ["domain"] * count)
    ]
    if len(colour) != count:
        raise ValueError(f"{len(colour)} kinds of {count} axes")
    space = ["t"] * (count - sum(colour) - 3) + list("zyx"[-min(3, count - sum(colour)) :])
    return tuple("c" if is_colour else space.pop(0) for is_colour in colour)


def _directions(fields: dict[str, Any]) -> list[list[float]]:
    """Unit vectors of the axes in space, z first; empty where the header has none."""
    rows = [row for row in fields.get("space directions", ()) if row is not None and np.isfinite(row).all()]
    lengths = [float(np.linalg.norm(row)) for row in rows]
    return _as_itk(fields, [row / length for row, length in zip(rows, lengths, strict=True) if length])[::-1]


def _as_itk(fields: dict[str, Any], vectors: Sequence[Any]) -> list[list[float]]:
    """Vectors of (z, y, x) components, of which x goes to the left and y backwards, as in ITK and in DICOM."""
    space = str(fields.get("space", "")).lower()
    signs = [-1 if space.startswith("r") else 1, -1 if "anterior" in space or space[1:2] == "a" else 1, 1]
    return [(np.asarray(vector, float)[:3] * signs[: len(vector)])[::-1].tolist() for vector in vectors]


def _edges(fields: dict[str, Any], count: int) -> tuple[list[float], list[str | None]]:
    """Edges of a voxel and their units along all axes, the slowest first; empty where the header has none."""
    if "space directions" in fields:
        rows = [[0.0] if row is None else np.nan_to_num(row).tolist() for row in fields["space directions"]]
        edges = [float(np.linalg.norm(row)) for row in rows]
        units = list(fields.get("space units", ()))
        units = [units.pop(0) if edge and units else None for edge in edges]
    else:
        edges = [float(edge) for edge in np.nan_to_num(fields.get("spacings", ()))]
        units = [unit or None for unit in fields.get("units", [None] * len(edges))]
    if len(edges) != count or len(units) != count:
        return [], []
    return edges[::-1], units[::-1]
