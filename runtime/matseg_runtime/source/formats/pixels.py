"""Pixels that lie one after the other in a file, and what the headers that describe them have in common."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.array import MOST_SLICES, ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions, Spacing, file_identity
from matseg_runtime.units import ome_unit, unit_of, voxel_of_scale
from matseg_shared.errors import MatsegError, UsageError
from matseg_shared.system.names import printable

_MAPPED = 32 << 20
"""Bytes of the file that are looked at before what was mapped is let go."""
_CHEAP = (1, 16, 64)
"""So many slices along each axis cost hardly more than one, which lies on as many pages of the file."""
_LONGEST_NAME = 4096
LONGEST_HEADER = 1 << 20
"""Bytes; a text header has a few hundred."""


class FilePixels:
    """An array in a file, mapped for each read only: what was read counts as this process's memory no longer."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        offset: int | None = 0,
        order: Literal["C", "F"] = "C",
        described_by: Path | None = None,
        tail: float = 0,
    ) -> None:
        """Check a description against the file.

        Args:
            path: the file that the pixels lie in.
            shape, dtype, order: of the array, as numpy has them.
            offset: bytes before the first pixel; None: the last pixel is the file's end.
            described_by: the file of the header; None: `path`.
            tail: bytes that may follow the pixels.

        Raises:
            UsageError: the file has not as many bytes as the description promises.
        """
        self.path, self.shape, self.dtype, self._order = path, shape, dtype, order
        self.chunk_shape = _CHEAP if len(shape) == 3 and order == "C" else None
        size, promised = path.stat().st_size, math.prod(shape) * dtype.itemsize
        self._offset = size - promised if offset is None else offset
        found = size - max(self._offset, 0)
        if min(shape, default=0) < 1 or self._offset < 0 or not promised <= found <= promised + tail:
            lengths = " x ".join(str(length) for length in shape)
            where = "" if described_by in (None, path) else f" in {path.name}"
            raise UsageError(
                f"{described_by or path}: promises {lengths} pixels of {dtype.name}, expected exactly {promised} bytes "
                f"of them{where}, found {found}; check its sizes and data type, and whether the file is whole"
            )

    @classmethod
    def of(cls, mapped: NDArray[Any]) -> NDArray[Any] | FilePixels:
        """The pixels of an array that numpy has mapped; of an empty one the array itself."""
        if not isinstance(mapped, np.memmap) or not mapped.size or mapped.filename is None:
            return mapped
        order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
        place = Path(mapped.filename)
        return cls(place, mapped.shape, mapped.dtype, offset=mapped.offset, order=order, tail=math.inf)

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        first = index[0]
        if not isinstance(first, slice) or self._order == "F":
            return self._mapped(index)
        layers = range(
            *first.indices(self.shape[0])
        )  # all of them, and so the whole file, along another axis
        step = max(1, _MAPPED // (math.prod(self.shape[1:]) * self.dtype.itemsize))
        parts = [slice(start, min(start + step, layers.stop)) for start in layers[::step]]
        return np.concatenate([self._mapped((part, *index[1:])) for part in parts])

    def _mapped(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        mapped = np.memmap(self.path, self.dtype, "r", self._offset, self.shape, self._order)
        return np.array(mapped[index])


class PixelFiles:
    """An array of which each layer along the first axis lies in a file of its own."""

    def __init__(self, layers: Sequence[FilePixels]) -> None:
        """Put together layers of one shape, each of length 1."""
        self._layers, self.dtype = layers, layers[0].dtype
        self.shape = (len(layers), *layers[0].shape[1:])
        self.chunk_shape = _CHEAP if len(self.shape) == 3 else None
        self.content = hashlib.sha256(
            " ".join(file_identity(item.path) for item in layers).encode()
        ).hexdigest()

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        first, *others = index
        if not isinstance(first, slice):
            return self._layers[first][(0, *others)]
        return np.concatenate([layer[(slice(None), *others)] for layer in self._layers[first]])


def is_several(name: str) -> bool:
    """True where a header names a list or a pattern in the place of a file of pixels."""
    return name.split()[:1] == ["LIST"] or "%" in name


def pixel_files(
    header: Path,
    name: str,
    listed: Sequence[str],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: SourceOptions,
    *,
    offset: int | None,
) -> PixelFiles:
    """The pixels of one file per layer.

    Args:
        header: the file that names them.
        name: `LIST`, or a pattern with first and last number and step, as in `s%03d.raw 1 5 1`.
        listed: the lines behind it, which are the names of a list.
        shape, dtype: of the array.
        options: see `data_file`.
        offset: see `FilePixels`; of each file.

    Raises:
        UsageError: there are not as many as layers, or one is missing or has another number of bytes.
    """
    found = re.fullmatch(
        r"(?:LIST|(?P<pattern>[^%]*%(?:0?\d)?d[^%]*?)\s+(?P<first>-?\d+)\s+(?P<last>-?\d+)(?:\s+(?P<step>-?\d+))?)"
        r"(?:\s+(?P<axes>\d+))?",
        name,
    )
    if len(name) > _LONGEST_NAME or found is None or int(found["axes"] or len(shape) - 1) != len(shape) - 1:
        raise UsageError(
            f"{header}: expected the names of one file per slice, such as LIST or s%03d.raw 1 5 1, found "
            f"{printable(name)}; save it as one volume"
        )
    names: Sequence[str] = [line.strip() for line in listed if line.strip()]
    count = len(names)
    if pattern := found["pattern"]:
        step, last = int(found["step"] or 1), int(found["last"])
        numbers = range(int(found["first"]), last + (1 if step > 0 else -1), step)
        count = len(numbers)
        names = [pattern % number for number in numbers] if count == shape[0] <= MOST_SLICES else ()
    if count != shape[0] or count > MOST_SLICES:
        raise UsageError(
            f"{header}: expected {shape[0]} files, one per slice and at most {MOST_SLICES}, found the names of {count}"
        )
    files = [data_file(header, one, options) for one in names]
    layers = [FilePixels(file, (1, *shape[1:]), dtype, offset=offset, described_by=header) for file in files]
    return PixelFiles(layers)


def array_source(
    kind: str,
    path: Path,
    array: Any,
    options: SourceOptions,
    *,
    data: Path | None = None,
    edges: Sequence[float] = (),
    units: Sequence[str | None] = (),
    origin: Sequence[float] = (),
    directions: Sequence[Sequence[float]] = (),
    axis_names: tuple[str, ...] | None = None,
    **more: Any,
) -> ArraySource:
    """Slices of a volume, with all that is known of it.

    Args:
        kind: of the format.
        path: the file that the user named.
        array: its pixels, indexed like a numpy array.
        options: how they are cut.
        data: the file that they lie in; None: `path`.
        edges: of a voxel along (z, y, x), or (y, x); empty: not known.
        units: of each of them, as the file spells them; None where it names none.
        origin: place of the first voxel's middle, in the same unit; empty: nought.
        directions: see `Spacing`; empty: none are told.
        axis_names: see `StoredArray`.
        more: other fields of it.
    """
    edges = [abs(float(edge)) for edge in edges]
    if edges and not any(units) and set(edges) != {1.0}:  # edges of 1 are what programs fill in
        units = ["mm"] * len(edges)
        more["warnings"] = (
            f"{path}: tells the edges of a voxel ({' x '.join(f'{edge:g}' for edge in edges)}) and no unit; taken for "
            "mm, as ITK and 3D Slicer do, if --voxel-size does not say otherwise",
        )
    if len(edges) == 2:
        more["voxel"] = voxel_of_scale(edges, units, 0, "the input")
    elif len(edges) == 3:
        known = [unit_of(unit) for unit in units]
        more["spacing"] = Spacing(
            scale=tuple(edges),
            translation=tuple(origin) if len(origin) == 3 else (0.0,) * 3,
            units=tuple(None if unit is None else ome_unit(unit) for unit in known),
            directions=tuple(tuple(row) for row in directions) if np.shape(directions) == (3, 3) else None,
        )
    files = [path] if data is None or data == path else [path, data]
    more_content = [array.content] if isinstance(array, PixelFiles) else []
    stored = StoredArray(
        kind=kind,
        location=str(path),
        path=path,
        data=data,
        array=array,
        content="; ".join([*map(file_identity, files), *more_content, f"{array.shape} {array.dtype}"]),
        axis_names=axis_names,
        chunk_shape=getattr(array, "chunk_shape", None),
        **more,
    )
    return ArraySource(stored, options)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged header makes a parser raise into one sentence.

    Args:
        path: the file.
        what: that it should be, with its article.

    Raises:
        UsageError: the header cannot be read.
    """
    try:
        yield
    except (MatsegError, MemoryError):
        raise
    except Exception as error:  # each parser raises kinds of its own
        cause = f"no {error}" if isinstance(error, KeyError) else printable(str(error)[:200])
        raise UsageError(f"{path}: expected {what}, found a damaged or unusual one ({cause})") from error


def text_header(path: Path, end: bytes) -> tuple[str, int]:
    """The text at the start of a file, and its length in bytes.

    Args:
        path: the file.
        end: regular expression for what the header ends with; it is part of it.

    Raises:
        ValueError: there is no such end within `LONGEST_HEADER`.
    """
    with path.open("rb") as stream:
        start = stream.read(LONGEST_HEADER)
    found = re.search(end, start)
    if found is None:
        raise ValueError("its header has no end")
    return start[: found.end()].decode(errors="replace"), found.end()


def data_file(header: Path, name: str, options: SourceOptions) -> Path:
    """The file that a header names for its pixels: where it says, or beside it where both have been moved.

    Raises:
        UsageError: it is missing, or lies elsewhere than in the header's folder or below.
    """
    folder = Path(os.path.abspath(header.parent))  # noqa: PTH100 (links are left as they are)
    shown = printable(name)
    if "\0" in name:
        raise UsageError(f"{header}: names the file {shown} for its pixels, which no file can be called")
    place, near = Path(os.path.abspath(folder / name)), folder / PureWindowsPath(name).name  # noqa: PTH100
    if near.is_file() and not place.is_file():
        place = near
    if not options.follow_links and not place.is_relative_to(folder):
        raise UsageError(
            f"{header}: takes its pixels from {shown}, which does not lie in its folder or below; move it there, or "
            "use --follow-links if you trust the file"
        )
    if not place.is_file():
        raise UsageError(
            f"{header}: takes its pixels from {shown}, which is not there; bring it into the same folder"
        )
    return place
