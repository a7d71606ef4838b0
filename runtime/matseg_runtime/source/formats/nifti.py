"""NIfTI, `.nii` and `.nii.gz`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.deflate import GZIP, DeflatedPixels, require_first_axis
from matseg_runtime.source.formats.pixels import FilePixels, array_source, reading
from matseg_shared.errors import UsageError

_LONGEST = 540
"""Bytes of the header of version 2; version 1 has 348."""


class _Scaled:
    """Stored numbers and the line that turns them into what they stand for."""

    def __init__(self, array: Any, slope: float, intercept: float) -> None:
        self._array, self._slope, self._intercept = array, np.float32(slope), np.float32(intercept)
        self.shape, self.dtype = array.shape, np.dtype(np.float32)

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[np.float32]:
        stored: NDArray[Any] = self._array[index]
        return stored.astype(np.float32) * self._slope + self._intercept


def open_nifti(location: str, options: SourceOptions) -> ArraySource:
    """Open one volume, its axes k, j, i as they are stored; several are an axis t.

    Raises:
        UsageError: the header is damaged, or promises other pixels than the file has.
    """
    import nibabel

    path = Path(location)
    with reading(path, "a NIfTI file (.nii, .nii.gz)"):
        with path.open("rb") as stream:
            start = stream.read(_LONGEST)
        is_packed = start[:2] == GZIP
        if is_packed:
            require_first_axis(path, options)
            start = bytes(DeflatedPixels(path, (_LONGEST + 1,), np.dtype(np.uint8)).read(0, _LONGEST))
        versions = (nibabel.Nifti1Header, nibabel.Nifti2Header)
        kind = versions[start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")]
        header = kind(start[: kind.sizeof_hdr], check=False)
        if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
            raise UsageError(
                f"{path}: expected header and voxels in one file (.nii), found {header['magic']}"
            )
        shape = tuple(int(length) for length in header.get_data_shape())[::-1]
        dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
        if len(shape) < 2 or offset < kind.sizeof_hdr:
            raise ValueError(f"a shape of {shape}, voxels from byte {offset}")
        while len(shape) > 3 and shape[0] == 1:  # one time
            shape = shape[1:]
        array: Any = (
            DeflatedPixels(path, shape, dtype, skip=offset)
            if is_packed
            else FilePixels(path, shape, dtype, offset=offset, tail=math.inf)
        )
        slope, intercept = header.get_slope_inter()
        if slope is not None and (slope, intercept) != (1.0, 0.0):
            array = _Scaled(array, slope, intercept)
        edges = [float(edge) for edge in header.get_zooms()][:3][::-1]
        origin, directions = _place(header)
        unit = header.get_xyzt_units()[0]
        return array_source(
            "nifti",
            path,
            array,
            options,
            edges=edges,
            units=[None if unit == "unknown" else unit] * len(edges),
            origin=origin,
            directions=directions,
            axis_names=tuple("tzyx"[4 - len(shape) :]) if len(shape) <= 4 else None,
        )


def _place(header: Any) -> tuple[list[float], list[list[float]]]:
    """Place of the first voxel and unit vectors of the axes, z first, as `Spacing` has them; empty: not told.

    In NIfTI x goes to the right and y to the front, in ITK and DICOM to the left and to the back.
    """
    if not (header["sform_code"] or header["qform_code"]):
        return [], []
    try:
        affine = np.diag([-1.0, -1.0, 1.0]) @ header.get_best_affine()[:3]
    except Exception:  # of numbers that are no rotation; labels need no place
        return [], []
    vectors = affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0)
    return affine[::-1, 3].tolist(), vectors.T[::-1, ::-1].tolist()
