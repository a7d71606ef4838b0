"""`.npy` files, mapped for each read; pickled objects in them are never loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.pixels import FilePixels
from matseg_shared.errors import UsageError


def open_npy(location: str, options: SourceOptions) -> ArraySource:
    """Open one array, or raise a UsageError for a damaged file or another content."""
    try:
        with np.errstate(over="raise"):  # of a shape whose product is no number of bytes
            array = np.load(location, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("an archive of several arrays (.npz)")
    except Exception as error:  # numpy raises many kinds for headers that are none
        raise UsageError(
            f"{location}: expected a whole .npy file with an array of numbers, found {error}; save it again with "
            "numpy.save"
        ) from error
    stored = StoredArray(kind="npy", location=location, path=Path(location), array=FilePixels.of(array))
    return ArraySource(stored, options)
