"""MetaImage, NRRD, MRC and NIfTI: a header with the voxel size of the input, and the labels behind it in one file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from matseg_runtime.sink.base import Block, LabelInfo, LabelVolume, Result
from matseg_runtime.sink.stack import FileSink
from matseg_runtime.sink.volume import sync_file
from matseg_runtime.source.base import Spacing
from matseg_runtime.units import converted, exact, unit_of
from matseg_shared.errors import UsageError
from matseg_shared.system.files import output_errors

_MAPPED = 32 << 20
_IMOD_STAMP = 1146047817
_NIFTI_UNITS = {"m": 1, "mm": 2, "um": 3}
_LONGEST_NIFTI = 2**15 - 1


class HeaderSink(FileSink):
    """`<out>.mhd`, `.mha`, `.nrrd`, `.mrc` or `.nii`; class indices as voxels, axes as in the input."""

    def __init__(self, path: Path, volume: LabelVolume, info: LabelInfo, format_: str) -> None:
        """Describe the output; `format_` is a key of `HEADERS`, a UsageError one that cannot hold the volume."""
        super().__init__(path, volume, info)
        self._header = HEADERS[format_](volume, info)

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        axis = self.volume.axis
        if axis == 0:
            return super().write(block, results)
        labels = np.moveaxis(self.labels(results), 0, axis)
        part = [slice(None)] * 3
        part[axis] = slice(block.slices[0].index, block.slices[0].index + len(results))
        with output_errors(self.path):
            offset = self._data_offset(self.partial)
            step = max(1, _MAPPED // int(np.prod(self.volume.shape[1:])))
            for start in range(
                0, len(labels), step
            ):  # mapped piece by piece: every page of the file may be touched
                part[0] = slice(start, start + step)
                voxels = np.memmap(self.partial, np.uint8, "r+", offset, self.volume.shape)
                voxels[tuple(part)] = labels[part[0]]
                voxels.flush()
                del voxels
            sync_file(self.partial)
            size = self.partial.stat().st_size
        return (size,) * len(results)

    def _slices_in(self, place: Path) -> int:
        return self.volume.depth if self._data_offset(place) > 0 else 0

    def _data_offset(self, place: Path) -> int:
        return place.stat().st_size - int(np.prod(self.volume.shape))

    def _create(self, path: Path) -> None:
        header, size = self._header, int(np.prod(self.volume.shape))
        with path.open("wb") as stream:
            stream.write(header)
            if self.volume.axis == 0:
                stream.truncate(len(header) + size)
            else:  # a full disk is to be noticed here, and not when a page of the mapped file finds no place
                for start in range(0, size, _MAPPED):
                    stream.write(bytes(min(_MAPPED, size - start)))
            stream.flush()
            os.fsync(stream.fileno())


def _metaimage(volume: LabelVolume, info: LabelInfo) -> bytes:
    """As ITK reads it, in millimetres."""
    edges, start, unit = _lengths(volume.spacing, "mm")
    directions = volume.spacing.directions or np.eye(3).tolist()
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        f"matseg = {info.provenance}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        f"TransformMatrix = {' '.join(_xyz(row) for row in reversed(directions))}",
        f"Offset = {_xyz(start)}",
        f"ElementSpacing = {_xyz(edges)}",
        *([] if unit is None else [f"DistanceUnits = {unit}"]),
        f"DimSize = {_xyz(volume.shape)}",
        "ElementType = MET_UCHAR",
        "ElementDataFile = LOCAL",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _nrrd(volume: LabelVolume, info: LabelInfo) -> bytes:
    edges, start, unit = _lengths(volume.spacing, None)
    directions = volume.spacing.directions or np.eye(3).tolist()
    vectors = [
        [part * edge for part in row] for row, edge in zip(reversed(directions), reversed(edges), strict=True)
    ]
    lines = [
        "NRRD0005",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {_xyz(volume.shape)}",
        f"space directions: {' '.join(_vector(vector) for vector in vectors)}",
        *([] if unit is None else [f'space units: "{unit}" "{unit}" "{unit}"']),
        "kinds: domain domain domain",
        f"space origin: {_vector(start)}",
        "encoding: raw",
        f"matseg:={info.provenance}",
    ]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode()


def _mrc(volume: LabelVolume, info: LabelInfo) -> bytes:
    """Bytes that are unsigned, as IMOD's stamp says: a voxel without a label is 255."""
    edges, start, _ = _lengths(volume.spacing, "angstrom")
    lengths, label = (
        volume.shape[::-1],
        f"Labels by matseg-run, {info.metadata.name}".encode("ascii", "replace"),
    )
    cell = [edge * count for edge, count in zip(reversed(edges), lengths, strict=True)]
    return struct.pack(
        "<10i6f3i3f2i8x4si40x2i36x3f4s4Bfi80s720x",
        *lengths, 0, 0, 0, 0, *lengths, *cell, 90, 90, 90, 1, 2, 3, 0, -1, -2, 1, 0, b"", 20140, _IMOD_STAMP, 0,
        *reversed(start), b"MAP ", 0x44, 0x44, 0, 0, -1, 1, label[:80],
    )  # fmt: skip


def _nifti(volume: LabelVolume, info: LabelInfo) -> bytes:
    """Version 1, in a unit that it knows; with the affine matrix of the input, or none.

    Raises:
        UsageError: the volume is longer than such files can be.
    """
    if max(volume.shape) > _LONGEST_NIFTI:
        raise UsageError(
            f"a .nii has at most {_LONGEST_NIFTI} voxels along an axis, the labels have {max(volume.shape)}; write "
            "them to a .nrrd or .zarr"
        )
    edges, start, unit = _lengths(volume.spacing, None)
    if unit is not None and unit not in _NIFTI_UNITS:
        edges, start, unit = _lengths(volume.spacing, "mm")
    directions = volume.spacing.directions
    vectors = (
        np.asarray(np.eye(3) if directions is None else directions)[::-1, ::-1] * np.array([edges[::-1]]).T
    )
    affine = np.column_stack([vectors.T, start[::-1]]) * [
        [-1],
        [-1],
        [1],
    ]  # from left and back to right and front
    return struct.pack(
        "<i36x8h14x2h2x8f3f3xB24x80s24x2h24x12f16x4s4x",
        348, 3, *volume.shape[::-1], 1, 1, 1, 1, 2, 8, 1, *edges[::-1], 0, 0, 0, 0, 352, 1, 0,
        0 if unit is None else _NIFTI_UNITS[unit], f"Labels by matseg-run, {info.metadata.name}".encode()[:80],
        0, directions is not None, *affine.ravel(), b"n+1",
    )  # fmt: skip


HEADERS: Mapping[str, Callable[[LabelVolume, LabelInfo], bytes]] = {
    "metaimage": _metaimage,
    "nrrd": _nrrd,
    "mrc": _mrc,
    "nifti": _nifti,
}
"""Header of each format, for labels of one byte that follow it."""


def _lengths(spacing: Spacing, wanted: str | None) -> tuple[list[float], list[float], str | None]:
    """Edges of a voxel and place of the first in (z, y, x) order, and their unit: the wanted one, or their own.

    A unit that is not known stays so, and the numbers are as they are.
    """
    units = [unit_of(unit) for unit in spacing.units]
    own = next((unit for unit in reversed(units) if unit is not None), None)
    if own is None:
        return list(spacing.scale), list(spacing.translation), None
    unit = wanted or own
    both = [
        [converted(length, each or own, unit) for length, each in zip(lengths, units, strict=True)]
        for lengths in (spacing.scale, spacing.translation)
    ]
    return both[0], both[1], unit


def _xyz(values: Sequence[float]) -> str:
    return " ".join(exact(value) for value in reversed(values))


def _vector(values: Sequence[float]) -> str:
    return f"({','.join(exact(value) for value in reversed(values))})"
