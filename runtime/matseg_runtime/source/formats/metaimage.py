"""MetaImage, as ITK writes it: `.mhd` with its pixels in another file, or `.mha` with header and pixels in one."""

from __future__ import annotations

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
    "MET_CHAR": "i1", "MET_UCHAR": "u1",
    "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def open_metaimage(location: str, options: SourceOptions) -> ArraySource:
    """Open one image or volume.

    Raises:
        UsageError: the header is damaged, or does not fit the file of its pixels.
    """
    path = Path(location)
    with reading(path, "a MetaImage header (.mhd, .mha)"):
        text, length = text_header(path, rb"(?im)^[ \t]*ElementDataFile[ \t]*=.*(\n|\Z)")
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
        shape, names = _shape(fields)
        array, data = _pixels(path, fields, shape, (text, length), options)
        edges = (_numbers(fields, "elementspacing") or _numbers(fields, "elementsize"))[:3]
        matrix = _numbers(fields, "transformmatrix")[::-1]
        unit = fields.get("distanceunits")
        return array_source(
            "metaimage",
            path,
            array,
            options,
            data=data,
            edges=edges[::-1],
            units=[None if unit in ("?", "UNKNOWN") else unit] * len(edges),
            origin=(_numbers(fields, "offset") or _numbers(fields, "position"))[::-1],
            directions=[matrix[:3], matrix[3:6], matrix[6:]] if len(matrix) == 9 else (),
            axis_names=names,
        )


def _shape(fields: dict[str, str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Lengths of the axes, the slowest first, and their names."""
    lengths = tuple(int(part) for part in fields["dimsize"].split())[::-1]
    if len(lengths) != int(fields["ndims"]) or not 2 <= len(lengths) <= 4:
        raise ValueError(f"NDims = {fields['ndims']}, DimSize = {fields['dimsize']}")
    names = tuple("tzyx"[4 - len(lengths) :])
    channels = int(fields.get("elementnumberofchannels", "1"))
    return (lengths, names) if channels == 1 else ((*lengths, channels), (*names, "c"))


def _pixels(
    path: Path,
    fields: dict[str, str],
    shape: tuple[int, ...],
    header: tuple[str, int],
    options: SourceOptions,
) -> tuple[Any, Path]:
    """The pixels, and the file that they lie in."""
    text, length = header
    kind = fields["elementtype"].removesuffix("_ARRAY")
    if kind not in _TYPES:
        raise ValueError(f"ElementType = {printable(kind)}")
    if not _true(fields.get("binarydata", "True")):
        raise UsageError(f"{path}: holds its pixels as text; save it as binary")
    msb = fields.get("elementbyteordermsb", fields.get("binarydatabyteordermsb", "False"))
    dtype = np.dtype((">" if _true(msb) else "<") + _TYPES[kind])
    name = fields["elementdatafile"]
    is_local = name.upper() == "LOCAL"
    skip = length if is_local else int(fields.get("headersize", "0"))
    is_packed = _true(fields.get("compresseddata", "False"))
    if skip < -1:
        raise ValueError(f"HeaderSize = {skip}")
    if is_several(name) and is_packed:
        raise UsageError(f"{path}: names one compressed file per slice; save it raw, or as one volume")
    if is_several(name):
        listed = text_header(path, rb"\Z")[0].split("\n")[text.count("\n") :]
        return pixel_files(
            path, name, listed, shape, dtype, options, offset=None if skip == -1 else skip
        ), path
    data = path if is_local else data_file(path, name, options)
    if is_packed:
        require_first_axis(path, options)
        return DeflatedPixels(data, shape, dtype, offset=max(skip, 0)), data
    return FilePixels(data, shape, dtype, offset=None if skip == -1 else skip, described_by=path), data


def _numbers(fields: dict[str, str], key: str) -> list[float]:
    return [float(part) for part in fields.get(key, "").split()]


def _true(text: str) -> bool:
    return text.lower() in ("true", "t", "1")
