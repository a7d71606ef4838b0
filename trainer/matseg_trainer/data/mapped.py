"""Arrays that stay in files and are mapped where they are looked at, so that all processes share one copy."""

from __future__ import annotations

import math
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import DatasetError, OutputError
from matseg_shared.images.read import TIFF_SUFFIXES, PixelArray

BAND_PIXELS = 1 << 22
"""Pixels of which temporary copies are made at once, in float64 or int64."""


def row_bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of whole rows, of at most `BAND_PIXELS` pixels or one row, that cover an image of (H, W, ...) pixels."""
    rows = max(1, BAND_PIXELS // max(shape[1], 1))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedArray:
    """Place of an array in a file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    """Bytes before it in the file."""
    order: Literal["C", "F"]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self | None:
        """The place of an array that is mapped as a whole; None of one in memory."""
        if not isinstance(array, np.memmap) or array.filename is None:
            return None
        order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
        path = Path(str(array.filename))
        return cls(path=path, dtype=array.dtype, shape=array.shape, offset=array.offset, order=order)

    @classmethod
    def save(cls, path: Path, array: NDArray[Any]) -> Self:
        """Write an array as `.npy`.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            np.save(path, array)
            place = cls.of(np.load(path, mmap_mode="r"))
        except (OSError, ValueError) as error:  # numpy writes by itself, and then says how much was missing
            raise OutputError(
                f"{path.parent}: decoded images are to be kept there, for which {array.nbytes / 1e6:.0f} MB could not "
                f"be written ({error}); free some space, or name another disk in the environment variable TMPDIR"
            ) from error
        assert place is not None
        return place

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def open(self, mode: Literal["r", "r+"] = "r") -> NDArray[Any]:
        """The array, of which only what is looked at is read.

        Raises:
            DatasetError: the file is gone, or shorter than it was.
        """
        try:
            array: NDArray[Any] = np.memmap(
                self.path, self.dtype, mode=mode, offset=self.offset, shape=self.shape, order=self.order
            )
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{self.path}: expected the file as it was when the training began, found another or none ({error}); "
                "leave images and label arrays as they are while a training uses them"
            ) from error
        return np.asarray(array)


def map_tiff(path: Path, pixels: PixelArray) -> MappedArray | None:
    """The place of an image in its own file, where that holds its (H, W) or (H, W, C) pixels one after the other.

    None of others: of compressed and tiled TIFFs, and where the file's values stand for other pixels.
    """
    import tifffile

    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    try:
        stored = tifffile.memmap(path, mode="r")
    except ValueError:
        return None
    if (stored.shape, stored.dtype) != (pixels.shape, pixels.dtype):
        return None
    same = all(np.array_equal(stored[rows], pixels[rows]) for rows in row_bands(pixels.shape))
    return MappedArray.of(stored) if same else None


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Name of a folder of this process for decoded images, made when the first is saved, and removed in the end."""
    folder = Path(tempfile.gettempdir()) / f"matseg-{secrets.token_hex(8)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
