"""MRC, of electron tomography: `.mrc`, `.rec`, `.map`, `.st`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.pixels import FilePixels, array_source, reading
from matseg_shared.errors import UsageError

_STACKS_OF_VOLUMES = range(401, 631)
"""Space groups that stand for several volumes one behind the other, each of `mz` sections."""
_IMOD_STAMP = 1146047817
_IMOD_PLACE = slice(40, 48)
"""Place of IMOD's stamp and flags in the second field of extra space."""
_BYTES_ARE_SIGNED = 1
_LARGEST_SIGNED = 127
_NM_PER_ANGSTROM = 0.1


def open_mrc(location: str, options: SourceOptions) -> ArraySource:
    """Open one volume or image; several volumes are an axis t, of which `options.axes` makes channels.

    Raises:
        UsageError: the header is damaged, or promises other pixels than the file has.
    """
    from mrcfile import dtypes, utils

    path = Path(location)
    with reading(path, "an MRC file"):
        with path.open("rb") as stream:
            start = stream.read(dtypes.HEADER_DTYPE.itemsize)
        header: Any = np.frombuffer(start, dtypes.HEADER_DTYPE)[0]
        order = utils.byte_order_from_machine_stamp(header["machst"])
        header = np.frombuffer(start, dtypes.HEADER_DTYPE.newbyteorder(order))[0]
        axes = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
        if axes not in ((1, 2, 3), (0, 0, 0)):
            raise UsageError(
                f"{path}: stores its axes in the order {axes}, expected columns, rows, sections (1, 2, 3); save it so"
            )
        shape, names = tuple(int(header[name]) for name in ("nz", "ny", "nx")), tuple("zyx")
        depth = int(header["mz"])
        if int(header["ispg"]) in _STACKS_OF_VOLUMES and 0 < depth < shape[0] and shape[0] % depth == 0:
            shape, names = (shape[0] // depth, depth, *shape[1:]), ("t", *names)
        dtype = utils.dtype_from_mode(int(header["mode"])).newbyteorder(order)
        if dtype == np.int8 and _has_unsigned_bytes(header, order):
            dtype = np.dtype(np.uint8)
        offset = len(start) + int(header["nsymbt"])
        array = FilePixels(path, shape, dtype, offset=offset, tail=math.inf)
        grid = [int(header[name]) for name in ("mz", "my", "mx")]
        cell = [float(header["cella"][axis]) for axis in "zyx"]
        edges = [length / (count or 1) * _NM_PER_ANGSTROM for length, count in zip(cell, grid, strict=True)]
        if cell == grid:  # voxels of 1 angstrom are what programs fill in
            edges = []
        elif edges[0] == 0:  # a single image, as EPU writes it
            edges = edges[1:]
        return array_source(
            "mrc", path, array, options, edges=edges, units=["nm"] * len(edges), axis_names=names
        )


def _has_unsigned_bytes(header: Any, order: str) -> bool:
    """Mode 0 was unsigned before 2014; IMOD, which says so in a stamp of its own, writes both."""
    stamp, flags = np.frombuffer(header["extra2"].tobytes()[_IMOD_PLACE], f"{order}i4")
    if stamp == _IMOD_STAMP:
        return not flags & _BYTES_ARE_SIGNED
    return bool(header["dmax"] > _LARGEST_SIGNED)
