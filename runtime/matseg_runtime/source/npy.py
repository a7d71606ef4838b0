"""`.npy` files, memory-mapped; pickled objects in them are never loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.folder import file_identity
from matseg_shared.errors import UsageError


def open_npy(path: Path, options: SourceOptions) -> ArraySource:
    """Open one array.

    Raises:
        UsageError: the file is damaged, or holds no plain array of numbers.
    """
    try:
        with np.errstate(over="raise"):  # of a shape whose product is no number of bytes
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("an archive of several arrays (.npz)")
    except Exception as error:  # numpy raises many kinds for headers that are none
        raise UsageError(
            f"{path}: expected a whole .npy file with an array of numbers, found {error}; save it again with numpy.save"
        ) from error
    content = f"{file_identity(path)}; {array.shape} {array.dtype}"
    return ArraySource(
        StoredArray(kind="npy", location=str(path), path=path, array=array, content=content, watched=path),
        options,
    )
