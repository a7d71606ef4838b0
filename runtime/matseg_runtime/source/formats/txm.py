"""Reconstructed volumes of Zeiss Xradia microscopes (`.txm`), and their single images (`.xrm`)."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.deflate import require_first_axis
from matseg_runtime.source.formats.pixels import array_source, reading
from matseg_shared.errors import UsageError
from matseg_shared.images.limits import require_memory

_TYPES = {3: "u1", 4: "<i2", 5: "<u2", 6: "<i4", 7: "<u4", 10: "<f4", 11: "<f8"}
_PER_FOLDER = 100
"""Images in each of the folders `ImageData1`, `ImageData2`, ... of the file."""


class _Images:
    """The images, each a stream of an OLE file, indexed along the first axis only."""

    def __init__(self, ole: Any, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._ole = ole
        self._lock = Lock()

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        first = index[0]
        assert isinstance(first, slice), "images of a .txm are cut along the first axis only"
        images = np.stack([self._image(number) for number in range(*first.indices(self.shape[0]))])
        return images[:, *index[1:]]

    def _image(self, number: int) -> NDArray[Any]:
        name = f"ImageData{number // _PER_FOLDER + 1}/Image{number + 1}"
        expected = self.shape[1] * self.shape[2] * self.dtype.itemsize
        with self._lock:
            if not self._ole.exists(name):
                raise ValueError(f"the file has no {name}")
            if (found := self._ole.get_size(name)) != expected:
                raise ValueError(f"{name} has {found} bytes, expected {expected}")
            content = self._ole.openstream(name).read()
        return np.frombuffer(content, self.dtype).reshape(self.shape[1:])


def open_txm(location: str, options: SourceOptions) -> ArraySource:
    """Open one volume.

    Raises:
        UsageError: the file is damaged, or holds projections.
    """
    import olefile

    path = Path(location)
    if path.suffix.lower() == ".txrm":
        raise UsageError(
            f"{path}: holds the projections of a scan, expected its slices; reconstruct it, and name the .txm"
        )
    require_first_axis(path, options)
    with reading(path, "a file of Zeiss XMReconstructor (.txm)"):
        ole = olefile.OleFileIO(str(path))
        try:
            code = _number(ole, "DataType", "<i4")
            if code not in _TYPES:
                raise ValueError(f"DataType {code}")
            lengths = [_number(ole, name, "<i4") for name in ("NoOfImages", "ImageHeight", "ImageWidth")]
            depth, rows, columns = (int(length) for length in lengths)
            if min(depth, rows, columns) < 1 or depth * rows * columns > path.stat().st_size:
                raise ValueError(f"{depth} images of {rows} x {columns} pixels in a smaller file")
            array = _Images(ole, (depth, rows, columns), np.dtype(_TYPES[int(code)]))
            require_memory(path, array.shape[1:], array.dtype.itemsize, "slice")
            edge = float(_number(ole, "PixelSize", "<f4")) if ole.exists("ImageInfo/PixelSize") else 0.0
            return array_source(
                "txm",
                path,
                array,
                options,
                edges=[edge] * 3,
                units=["um"] * 3,
                axis_names=("z", "y", "x"),
                closing=ole.close,
            )
        except BaseException:
            ole.close()
            raise


def _number(ole: Any, name: str, dtype: str) -> Any:
    content = ole.openstream(f"ImageInfo/{name}").read(4)
    return np.frombuffer(content, dtype)[0]
