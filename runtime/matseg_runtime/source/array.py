"""A volume behind anything that is indexed like a numpy array: memory map, HDF5 dataset, zarr array."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matseg_runtime.source.base import (
    InputIdentity,
    Slice,
    Source,
    SourceOptions,
    Spacing,
    Volume,
    file_identity,
    file_state,
    refuse_growing_file,
    require_output_name,
)
from matseg_runtime.source.layout import chunk_ranges, last_axis_doubt, layout_of
from matseg_runtime.units import VoxelSize, ome_unit
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.limits import require_memory
from matseg_shared.images.read import PixelArray

MOST_SLICES = 500_000
"""Each has a name and a line in the record of what is done."""
_KEPT_BYTES = 128 << 20
"""Memory for decoded slices that are kept, because they lie in the chunks of others that were read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredArray:
    """One array of a file, opened for reading."""

    kind: str
    """See `InputIdentity`."""
    location: str
    """As the user named it."""
    path: Path
    """The file or folder it lies in."""
    array: Any
    """Has `shape` and `dtype`, and is indexed with slices; safe for several threads."""
    data: Path | None = None
    """The file that its pixels lie in, where `path` is a header only."""
    is_file: bool = True
    """False: a folder or URL, which is not watched for changes."""
    content: str | None = None
    """Identifies the content as far as can be told without reading all of it; None: the file's identity does."""
    chunk_shape: tuple[int, ...] | None = None
    piece_shape: tuple[int, ...] | None = None
    """Shape of what is decoded at a time: a chunk, also within a shard."""
    decoders: int = 1
    """Stored chunks that one read decodes at the same time, at most."""
    copies: int = 2
    """Times that a stored chunk is in memory while it is decoded."""
    axis_names: tuple[str, ...] | None = None
    spacing: Spacing | None = None
    """None: `voxel` says all that is known."""
    voxel: VoxelSize | None = None
    """Voxel size of slices along the first axis."""
    data_bar: int | None = None
    """Rows at the foot of each slice along the first axis that are a bar of data; None: it does not say."""
    warnings: tuple[str, ...] = ()
    """Doubts about it, each in words for a person."""
    check: Callable[[tuple[slice | int, ...]], None] = lambda _: None
    """Raises an ImageError when that part of the array is missing."""
    explain: Callable[[tuple[slice | int, ...], Exception], str] = lambda _, error: (
        f"{type(error).__name__}: {error}"
    )
    """Says why that part cannot be read."""
    closing: Callable[[], None] = lambda: None


class ArraySource(Source):
    """Slices of one array along one of its axes.

    Where fewer slices are read than lie in a layer of chunks, all of the layer is kept, or as large a part of it as may
    be, so that each chunk is decoded once whoever reads slice by slice.
    """

    def __init__(self, stored: StoredArray, options: SourceOptions) -> None:
        """Lay out the slices; a UsageError for an empty array, unclear axes, or a range outside of it."""
        self._stored = stored
        dtype = np.dtype(stored.array.dtype)
        if dtype.kind not in "uifb":
            raise UsageError(f"{stored.location}: expected an array of numbers, found {dtype}")
        shape = tuple(int(length) for length in stored.array.shape)
        self._layout = layout_of(stored.location, shape, options, stored.axis_names)
        axis = self._layout.slice_axis
        whole = self._layout.index(0, 1)
        one = tuple(
            1 if isinstance(part, int) else len(range(*part.indices(n)))
            for part, n in zip(whole, shape, strict=True)
        )
        _require_memory(stored, one)
        self.location = stored.location
        # `scan` of `scan.ome.zarr`, `scan.nii.zarr` and `scan.h5`
        name = stored.path.stem.removesuffix(".ome").removesuffix(".nii")
        self.beside = stored.path.absolute().with_name(name)
        self._depth = 1 if axis is None else shape[axis]
        self._start, stop = _range(stored.location, options.slices, self._depth)
        state = file_state(stored.data or stored.path) if stored.is_file else None
        self._identity = "" if state is None else state.identity
        content = stored.content or f"{self._identity}; {stored.array.shape} {stored.array.dtype}"
        self.identity = InputIdentity(kind=stored.kind, name=stored.path.name, content=content)
        self.slices = tuple(self._slice(number) for number in range(self._start, stop))
        require_output_name(stored.location, self.slices[-1].name)
        self._chunk = 1 if axis is None or stored.chunk_shape is None else stored.chunk_shape[axis]
        plane = math.prod(one) * dtype.itemsize
        self._part = math.ceil(self._chunk / math.ceil(self._chunk / max(_KEPT_BYTES // plane, 1)))
        self._kept: dict[int, Sequence[PixelArray]] = {}
        self._most_kept, self._keeping = max(_KEPT_BYTES // (self._part * plane), 1), threading.Lock()
        self.volume = Volume(
            shape=tuple(shape[number] for number in self._layout.spatial),
            axis=self._layout.axis,
            start=self._start,
            dtype=dtype.name,
            channels=self._layout.channels,
            slices_per_chunk=self._chunk,
            decoding_bytes=_decoding_bytes(stored, whole, dtype.itemsize),
            kept_bytes=min(self._part, self._depth) * plane,
            spacing=_spacing(stored, len(self._layout.spatial)),
        )
        is_told = options.axis is not None or options.axes or stored.axis_names is not None
        self._doubts = () if is_told else tuple(last_axis_doubt(stored.location, self.volume.shape))
        if state is not None:
            refuse_growing_file(stored.data or stored.path, state)

    def _slice(self, number: int) -> Slice:
        """The slice at a position in the whole volume."""
        stem = self.beside.name
        if self._depth == 1:
            return Slice(index=0, name=stem, where=self.location, identity=self._identity)
        digits = max(4, len(str(self._depth - 1)))
        return Slice(
            index=number - self._start,
            name=f"{stem}_{number:0{digits}d}",
            where=f"{self.location}, slice {number}",
            identity=self._identity,
        )

    def neighbours(self, index: int, context: int) -> tuple[Slice, ...]:
        number, last = self._start + index, self._depth - 1
        return tuple(self._slice(min(max(number + step, 0), last)) for step in range(-context, context + 1))

    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        """See `Source.read`; also of slices beyond the range, whose indices are negative or go on after the last."""
        if self._part == 1 or stop - start > self._part:
            return self._decoded(start, stop)
        images: list[PixelArray] = []
        while (place := start + len(images)) < stop:
            images += self._read_in_part(place, stop)
        return images

    def _read_in_part(self, start: int, stop: int) -> Sequence[PixelArray]:
        """Slices as far as the part of a layer that the first one lies in; they are kept until all are read at once."""
        layer, place = divmod(self._start + start, self._chunk)
        begin = layer * self._chunk + place // self._part * self._part
        end = min(begin + self._part, (layer + 1) * self._chunk, self._depth) - self._start
        begin, stop = begin - self._start, min(stop, end)
        if stop - start == end - begin:
            with self._keeping:
                images = self._kept.pop(begin, ())
            return images or self._decoded(begin, end)
        with self._keeping:
            if begin not in self._kept:
                while len(self._kept) >= self._most_kept:
                    del self._kept[next(iter(self._kept))]
                self._kept[begin] = ()
                with suppress(ImageError):  # of one slice; the others are read without it
                    self._kept[begin] = self._decoded(begin, end)
            found = self._kept[begin][start - begin : stop - begin]
        return [np.array(image) for image in found] or self._decoded(start, stop)

    def keep_little(self) -> None:
        with self._keeping:
            self._kept.clear()
            self._most_kept = 1

    def _decoded(self, start: int, stop: int) -> Sequence[PixelArray]:
        index = self._layout.index(self._start + start, self._start + stop)
        where = self._slice(self._start + start).where
        try:
            self._stored.check(index)
            block = np.asarray(self._stored.array[index])
        except MemoryError:
            raise
        except ImageError as error:
            raise ImageError(where, str(error).removeprefix(f"{error.path}: ")) from error
        except Exception as error:  # each format's decoders raise their own kinds for damaged data
            raise ImageError(where, f"cannot be read: {self._stored.explain(index, error)}") from error
        if block.dtype.byteorder not in "=|":
            block = block.astype(block.dtype.newbyteorder("="))
        if block.dtype == np.bool_:
            block = block.astype(np.uint8) * np.uint8(255)
        return self._layout.images(block)

    def current_identity(self, index: int) -> str:  # noqa: ARG002 (one file is behind all slices)
        found = file_identity(self._stored.data or self._stored.path) if self._stored.is_file else ""
        if found != self._identity:
            raise UsageError(
                f"{self.location}: has changed while it was being labelled ({self._identity}, now {found}); run "
                "again with --overwrite when it is complete"
            )
        return found

    def data_bar(self, index: int) -> int | None:  # noqa: ARG002 (one microscope wrote all pages)
        return self._stored.data_bar if self._layout.axis == 0 else None

    def warnings(self) -> tuple[str, ...]:
        return (*self._stored.warnings, *self._doubts)

    def voxel_size(self) -> VoxelSize | None:
        known = super().voxel_size()
        return known or (self._stored.voxel if self._layout.axis == 0 else None)

    def close(self) -> None:
        self._stored.closing()


def _require_memory(stored: StoredArray, one: tuple[int, ...]) -> None:
    """Make sure that one slice of a shape, and the chunks it lies in, which are decoded whole, fit into memory."""
    itemsize = np.dtype(stored.array.dtype).itemsize
    require_memory(stored.location, one, itemsize, "slice")
    if (piece := stored.piece_shape) is not None:
        if min(piece, default=1) < 1:
            raise UsageError(f"{stored.location}: its chunks have the shape {piece}, which holds nothing")
        require_memory(stored.location, piece, itemsize, "chunk")


def _decoding_bytes(stored: StoredArray, one: tuple[slice | int, ...], itemsize: int) -> int:
    """Bytes of the chunks that are decoded at a time to read what one slice's index touches."""
    if (chunk := stored.chunk_shape) is None or stored.piece_shape is None:
        return 0
    touched = math.prod(map(len, chunk_ranges(one, stored.array.shape, chunk)))
    return min(touched, stored.decoders) * math.prod(chunk) * itemsize * stored.copies


def _spacing(stored: StoredArray, axes: int) -> Spacing | None:
    """That of the spatial axes, where a format tells of three whatever the array's are: a colour image has two."""
    spacing, voxel = stored.spacing, stored.voxel
    if spacing is None and voxel is not None and voxel.step is not None:  # an unknown step is not to become 1
        scale = (voxel.step, voxel.row, voxel.column)
        spacing = Spacing(scale=scale, translation=(0.0,) * 3, units=(ome_unit(voxel.unit),) * 3)
    if spacing is None or len(spacing.scale) < axes or not spacing.is_sound:
        return None
    if len(spacing.scale) == axes:
        return spacing
    return Spacing(
        scale=spacing.scale[-axes:], translation=spacing.translation[-axes:], units=spacing.units[-axes:]
    )


def _range(location: str, asked: tuple[int | None, int | None] | None, depth: int) -> tuple[int, int]:
    start, stop = asked or (None, None)
    start, stop = start or 0, depth if stop is None else stop
    if not 0 <= start < stop <= depth:
        raise UsageError(
            f"{location}: --range {start}:{stop} does not lie within its {depth} slices, 0:{depth}"
        )
    if stop - start > MOST_SLICES:
        raise UsageError(
            f"{location}: has {stop - start} slices along that axis, expected at most {MOST_SLICES} at a time; take a "
            "part with --range START:STOP, or check the shape in its header"
        )
    return start, stop
