"""TIFF stacks: one page per slice, or one contiguous array behind a single page as ImageJ writes large ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from matseg_runtime.source.array import ArraySource, StoredArray
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.pixels import FilePixels
from matseg_runtime.source.layout import last_axis_doubt
from matseg_runtime.source.sem_tags import sem_tags
from matseg_runtime.source.tiff_scale import tiff_voxel_size
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import GREY
from matseg_shared.images.colours import unlike_its_bytes
from matseg_shared.images.ome_names import foreign_file_problem
from matseg_shared.images.read import PixelArray, apply_palette, decoding_problem
from matseg_shared.images.tiff import full_pages, indices_of, read_tiff_page

_AXES = {"Y": "y", "X": "x", "S": "c"}
"""Axes of tifffile that are no stack of pages, whatever that one is called."""
_MOST_CHANNELS = 7
"""That ImageJ shows together."""


class _Pages:
    """The pages of a TIFF, indexed like an array of (..., H, W) or (..., H, W, C), with pages along the first axes.

    Each reader borrows a `TiffFile` of its own: parsing pages moves the file's position without a lock.
    """

    def __init__(
        self, path: Path, tiff: TiffFile, numbers: NDArray[np.int64], options: SourceOptions
    ) -> None:
        self._path = path
        self._numbers = numbers
        self._first = int(numbers.flat[0])
        self._as_labels = options.as_labels
        self._keep_alpha = bool(options.channels) and options.channels != GREY
        self._idle: SimpleQueue[TiffFile] = SimpleQueue()
        self._idle.put(tiff)
        first = self._read(tiff, self._first)
        self.shape = (*numbers.shape, *first.shape)
        self.dtype = first.dtype

    def __getitem__(self, index: tuple[slice | int, ...]) -> PixelArray:
        pages, within = index[: self._numbers.ndim], index[self._numbers.ndim :]
        numbers = self._numbers[pages]
        try:
            tiff = self._idle.get_nowait()
        except Empty:
            tiff = TiffFile(self._path)
        try:
            read = [self._read(tiff, int(number))[within] for number in numbers.flat]
        finally:
            self._idle.put(tiff)
        return np.stack(read).reshape(*numbers.shape, *read[0].shape)

    def _read(self, tiff: TiffFile, number: int) -> PixelArray:
        page: Any = tiff.pages[number]
        # of OME-TIFFs tifffile keeps only where their pages begin
        page = page.aspage() if isinstance(page, TiffFrame) else page
        stored = read_tiff_page(self._path, page, keep_alpha=self._keep_alpha)
        pixels = stored.pixels if self._as_labels else apply_palette(self._path, stored)
        if number != self._first and pixels.shape != (page_shape := self.shape[self._numbers.ndim :]):
            raise ImageError(
                self._path,
                f"has the shape {pixels.shape}, page 0 {page_shape}; split it into stacks of one shape",
            )
        return pixels

    def close(self) -> None:
        """Close all files; no reader may hold one."""
        while not self._idle.empty():
            self._idle.get().close()


def open_tiff(location: str, options: SourceOptions) -> ArraySource:
    """Open a stack, or a single image; pages have one shape."""
    path = Path(location)
    with ExitStack() as opened:
        try:
            tiff = opened.enter_context(TiffFile(path))
            series, numbers = _stack(path, tiff)
            array, axes = _array(path, tiff, series, numbers, options)
            is_told = axes is None or options.axis is not None or options.axes or series.axes[0] not in "QI"
            # a thumbnail that comes first tells its own
            voxel = tiff_voxel_size(tiff) if numbers[0] == 0 else None
            microscope = sem_tags(tiff.pages[numbers[0]].aspage())
        except UsageError:
            raise
        except Exception as error:  # tifffile raises many kinds for what is no TIFF, or ends early
            raise UsageError(f"{path}: {decoding_problem(path, error)}") from error
        stored = StoredArray(
            kind="tiff",
            location=location,
            path=path,
            array=array,
            axis_names=axes,
            voxel=voxel,
            data_bar=None if microscope is None else microscope.data_bar,
            explain=lambda _, error: decoding_problem(path, error),
            warnings=tuple(_doubts(path, tiff, series, numbers, is_told=bool(is_told))),
            closing=array.close if isinstance(array, _Pages) else tiff.close,
        )
        source = ArraySource(stored, options)
        opened.pop_all()
    return source


def _stack(path: Path, tiff: TiffFile) -> tuple[TiffPageSeries, list[int]]:
    """The series that is the image or volume, and the numbers of its pages."""
    if (problem := foreign_file_problem(tiff)) is not None:
        raise UsageError(f"{path}: {problem}")
    pages = len(tiff.pages)  # finds a circle of pages, in which a look at the series would go round for ever
    if len(tiff.series) == 1 and len(tiff.series[0].levels) == 1 and not tiff.is_ome:
        return tiff.series[0], list(range(pages))
    numbers = full_pages(tiff)
    found = [series for series in tiff.series if not set(numbers).isdisjoint(indices_of(series, tiff))]
    if len(found) > 1:
        shapes = ", ".join(str(series.shape) for series in found[:3])
        raise UsageError(
            f"{path}: expected one stack, found {len(found)} series of the shapes {shapes}; split it first"
        )
    return found[0] if found else tiff.series[0], numbers


def _doubts(
    path: Path, tiff: TiffFile, series: TiffPageSeries, numbers: Sequence[int], *, is_told: bool
) -> Iterator[str]:
    """Doubts about pages that were left out, and, where nobody has told them, about the axes."""
    known = set(numbers)
    left_out = [number for number in range(len(tiff.pages)) if number not in known]
    if silent := [number for number in left_out if not tiff.pages[number].aspage().is_reduced]:
        yield (
            f"{path}: {len(silent)} of its {len(tiff.pages)} pages, number {silent[0]} first, are at most half as "
            "high and wide as the others and were left out as thumbnails; save them in a file of their own if they "
            "are not"
        )
    if not is_told:
        yield from last_axis_doubt(str(path), series.shape)


def _array(
    path: Path, tiff: TiffFile, series: TiffPageSeries, numbers: list[int], options: SourceOptions
) -> tuple[Any, tuple[str, ...] | None]:
    """The array to read from, and its axes: pages are slices, so that three of them are not taken for colours."""
    if series.axes == "YXZ" and not options.axes:
        rows, columns, depth = series.shape
        if options.axis != 2:
            raise UsageError(
                f"{path}: its last axis is z: {depth} slices of {rows} x {columns} pixels; label them with --axis 2"
            )
        _check_mappable(path, tiff, series, numbers)
        # whatever its axes are called, it is cut along the last
        return FilePixels.of(tifffile.memmap(path, mode="r")), tuple("zyx")
    stacked = [
        (axis, length)
        for axis, length in zip(series.axes, series.shape, strict=True)
        if axis not in "YXS" and length > 1
    ]
    name = "" if options.axes else _stack_names(path, series, stacked, options)
    if tiff.is_ome and indices_of(series, tiff) != numbers:  # pages are what is read, in their order
        raise UsageError(
            f"{path}: its OME-XML names planes that are in other files, in another order or nowhere; name the folder "
            "where each file holds one plane, else save it as one plain stack"
        )
    first: TiffPage = tiff.pages[numbers[0]].aspage()
    behind_one_page = len(numbers) == 1 and math.prod(series.shape) > math.prod(first.shape)
    if behind_one_page or (options.axis or 0) != 0:
        _check_mappable(path, tiff, series, numbers)
        known = dict(zip((axis for axis, _ in stacked), name, strict=False))
        names = tuple(_AXES.get(axis, known.get(axis, "t")) for axis in series.axes)
        mapped = tifffile.memmap(path, series=tiff.series.index(series), mode="r")
        return FilePixels.of(mapped), names if name else None
    shape = tuple(length for _, length in stacked) if len(stacked) > 1 else (len(numbers),)
    pages = _Pages(path, tiff, np.array(numbers).reshape(shape), options)
    names = (*(name if stacked else "z"), *"yxc"[: len(pages.shape) - len(shape)])
    return pages, names if name or not stacked else None


def _stack_names(
    path: Path, series: TiffPageSeries, stacked: Sequence[tuple[str, int]], options: SourceOptions
) -> str:
    """Axis along stacks of pages: `z`, `c`, or both in their order; "" where only the model can tell.

    Pages may be slices of one volume, and channels of each where the model takes several or the user chooses. A stack
    of nothing but channels is a volume where `--axis` says so, and where there are more channels than ImageJ has:
    programs that write its TIFFs name the pages of a plain stack channels, if they are not told.
    """
    several = bool(options.channels) or (options.taken or 1) > 1
    found = "".join("c" if axis == "C" else axis for axis, _ in stacked)
    channels = next((length for axis, length in stacked if axis == "C"), 0)
    if channels and not several:
        if len(stacked) > 1:
            raise UsageError(
                f"{path}: holds {channels} channels of each slice, one after the other, and which of them the model is "
                "to see nobody can know; choose with --channels, as in --channels 0"
            )
        if channels <= _MOST_CHANNELS and options.axis is None:
            raise UsageError(
                f"{path}: holds {channels} pages that are called channels of one image; choose the one to be labelled "
                "with --channels, as in --channels 0, or say with --axis 0 that they are slices of a volume"
            )
        return "z"
    others = found.replace("c", "")
    has_samples = dict(zip(series.axes, series.shape, strict=True)).get("S", 1) > 1
    if len(others) > 1 or (channels and has_samples) or not series.axes.rstrip("S").endswith("YX"):
        listed = ", ".join(f"{axis} {length}" for axis, length in zip(series.axes, series.shape, strict=True))
        raise UsageError(
            f"{path}: expected one image or one volume, found the axes {listed}; save each volume as a stack of its own"
        )
    if several and found in ("Q", "I") and not has_samples and options.axis is None:
        return ""
    return found.replace(others, "z") if others else found


def _check_mappable(path: Path, tiff: TiffFile, series: TiffPageSeries, numbers: list[int]) -> None:
    """Make sure that the file's bytes are the pixels as they are meant, so that they can be cut along any axis."""
    if series.dataoffset is None:
        raise UsageError(
            f"{path}: only an uncompressed stack can be cut along another axis than 0, because each slice would "
            "mean decoding every page; save it as zarr or uncompressed first"
        )
    for number in numbers:
        if (found := unlike_its_bytes(tiff.pages[number].aspage())) is not None:
            raise UsageError(
                f"{path}: expected plain grey or RGB pixels, as they are needed to cut along another axis than 0 or "
                f"behind a single page, found {found}; save it as a plain stack or zarr first"
            )
