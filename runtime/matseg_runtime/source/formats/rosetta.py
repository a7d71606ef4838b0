"""Formats of electron microscopes that RosettaSciIO reads: Gatan `.dm3` and `.dm4`, and others.

Its licence is the GPL, so that it is no part of this program: it is used where a user has installed it. Of its other
readers those are left out that have one here already, and that of netCDF, which evaluates text of the file as code.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.pixels import array_source, reading
from matseg_shared.errors import UnsupportedError, UsageError


class _Lazy:
    """An array of dask, computed part by part."""

    def __init__(self, data: Any) -> None:
        self._data, self._lock = data, Lock()
        self.shape, self.dtype = tuple(int(length) for length in data.shape), np.dtype(data.dtype)

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        with self._lock:
            return np.asarray(self._data[index])


def open_rosetta(location: str, options: SourceOptions) -> ArraySource:
    """Open the one image or volume of a file.

    Raises:
        UnsupportedError: RosettaSciIO is not installed.
        UsageError: the file is damaged, or holds several images.
    """
    path = Path(location)
    suffix = path.suffix.lower()
    try:
        from rsciio import IO_PLUGINS

        names = [plugin["api"] for plugin in IO_PLUGINS if suffix[1:] in plugin["file_extensions"]]
        reader = importlib.import_module(names[0])
    except (ImportError, IndexError) as error:
        raise UnsupportedError(
            f"{path}: reading {suffix} needs rosettasciio, which has another licence (GPL-3.0) and is installed apart: "
            f"pip install --upgrade rosettasciio ({error})"
        ) from error
    with reading(path, f"a file that rosettasciio reads ({suffix})"):
        signals = reader.file_reader(str(path), lazy=True)
        images = [signal for signal in signals if signal["data"].ndim >= 2]
        if len(images) != 1:
            raise UsageError(
                f"{path}: expected one image or volume, found {len(images)}; save the one to be labelled"
            )
        array = _Lazy(images[0]["data"])
        axes = [axis for axis in images[0]["axes"] if "scale" in axis][-3:]
        units = [str(axis.get("units") or "") or None for axis in axes]
        known = len(axes) == len(array.shape) and all(units)
        edges = [axis["scale"] for axis in axes] if known else ()
        return array_source("rosettasciio", path, array, options, edges=edges, units=units if known else ())
