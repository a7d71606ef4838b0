"""Plain pixels without a header, of which the user tells size and data type."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import RawShape, SourceOptions
from matseg_runtime.source.formats.pixels import FilePixels, array_source
from matseg_shared.errors import UsageError

_ORDERS = {"little", "big", "C", "F"}
_HEADERS = (".mhd", ".nhdr", ".vgi")


def parse_raw(text: str) -> RawShape:
    """Read `512x1024x1024,uint16` or `512x1024x1024,uint16,big`.

    Raises:
        UsageError: anything else; shows the form.
    """
    shape, *rest = [part.strip() for part in text.split(",")]
    lengths = re.fullmatch(r"\d{1,9}([x*]\d{1,9}){1,3}", shape)
    orders = set(rest[1:])
    try:
        dtype = np.dtype(rest[0] if rest else object)
    except (TypeError, ValueError, SyntaxError):
        dtype = np.dtype(object)
    if lengths is None or dtype.kind not in "uif" or not orders <= _ORDERS:
        raise UsageError(
            f"--raw {text}: expected SHAPE,DTYPE[,ORDER], slices first, such as 512x1024x1024,uint16; ORDER is little "
            "(default) or big for bytes, C (default) or F for axes"
        )
    if dtype.byteorder == "=" or "big" in orders:
        dtype = dtype.newbyteorder(">" if "big" in orders else "<")
    return RawShape(
        shape=tuple(int(length) for length in re.split(r"[x*]", shape)),
        dtype=dtype.str,
        order="F" if "F" in orders else "C",
    )


def open_raw(location: str, options: SourceOptions) -> ArraySource:
    """Open a file of nothing but pixels.

    Raises:
        UsageError: nobody says what they are, or the file has another number of bytes.
    """
    path = Path(location)
    if options.raw is None:
        found = [name for suffix in _HEADERS if (name := path.with_suffix(suffix)).is_file()]
        header = f"name its header {found[0].name} instead, or " if found else ""
        raise UsageError(
            f"{path}: has no header to tell its size and data type; {header}say both with --raw ZxYxX,DTYPE, such as "
            "--raw 512x1024x1024,uint16"
        )
    told = options.raw
    array = FilePixels(path, told.shape, np.dtype(told.dtype), order=told.order)
    names = tuple("tzyx"[4 - len(told.shape) :])
    return array_source("raw", path, array, options, axis_names=names)
