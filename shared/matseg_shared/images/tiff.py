"""TIFFs of one image, whose channels are samples of one page or pages of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from matseg_shared.contract.metadata import MAX_CHANNELS
from matseg_shared.errors import ImageError
from matseg_shared.images.channels import GREY, ChannelChoice, PixelArray
from matseg_shared.images.colours import (
    as_meant,
    check_colours,
    has_alpha,
    is_colour,
    is_inverted,
    palette_of,
    unlike_its_bytes,
)
from matseg_shared.images.context import context_of
from matseg_shared.images.limits import Format, could_fill, require_bounded_stream, require_memory
from matseg_shared.images.ome_names import foreign_file_problem, ome_channel_names
from matseg_shared.images.stored import (
    ORIENTATION_TAG,
    StoredImage,
    check_orientation,
    drop_alpha,
    is_opaque,
    native,
    one_channel,
)
from matseg_shared.system.names import printable

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
_STREAMS: dict[int, Format] = {8: "deflate", 32946: "deflate", 34925: "lzma"}
"""TIFF compressions whose streams say nothing of what they become."""


def read_tiff(path: Path, *, pages_are_channels: bool, keep_alpha: bool) -> StoredImage:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if (problem := foreign_file_problem(tiff)) is not None:
            raise ImageError(path, problem)
        numbers = full_pages(tiff)
        page: TiffPage = tiff.pages[numbers[0]].aspage()
        images = len(numbers)
        # series of OME-TIFFs may well reach into other files, each of which is an image by itself
        if images == 1 and not tiff.is_ome:
            series = next((item for item in tiff.series if page.index in indices_of(item, tiff)), None)
            # a stack may also stand behind a single directory, as ImageJ writes large ones
            images = 1 if series is None else math.prod(series.shape) // max(1, math.prod(page.shape))
        if images <= 1:
            return read_tiff_page(path, page, keep_alpha=keep_alpha)
        pixels = _pages_as_channels(path, tiff) if pages_are_channels else None
        if pixels is None:
            raise ImageError(
                path, f"expected one image, found a stack of {images} images; run it as a stack by itself"
            )
        return StoredImage(pixels=pixels)


def full_pages(tiff: TiffFile) -> list[int]:
    """Numbers of the pages that are no thumbnails, masks or coarser copies of others.

    Those say that their resolution is reduced, or are at most half as high and half as wide as the largest.
    """
    if len(tiff.pages) == 1:
        return [0]
    pages = [page.aspage() for page in tiff.pages]
    full = [page for page in pages if not page.is_reduced] or pages
    largest = max(full, key=lambda page: page.imagelength * page.imagewidth)
    rows, columns = largest.imagelength // 2, largest.imagewidth // 2
    return [page.index for page in full if page.imagelength > rows or page.imagewidth > columns]


def indices_of(series: TiffPageSeries, tiff: TiffFile) -> list[int | None]:
    """Numbers of the pages of a series; None for one that lies nowhere, or in another file."""
    return [None if page is None or page.parent is not tiff else page.index for page in series]


def channel_names(path: Path, channels: int, choice: ChannelChoice = ()) -> tuple[str, ...]:
    """Names that a TIFF gives to the chosen channels of its image.

    Args:
        path: of an image that has been read, not necessarily a TIFF.
        channels: how many are chosen.
        choice: of them.

    Returns:
        As many; empty where some have no name, or share one.
    """
    if choice == GREY:
        return ()
    names = _stored_names(path)
    if choice and max(choice) < len(names):
        names = tuple(names[number] for number in choice)
    fits = len(names) == len(set(names)) == channels
    return names if fits and all(printable(name) == name and name.strip() for name in names) else ()


def stored_context(path: Path) -> int:
    """Neighbours on either side that an image has among its channels, as their names say; 0: none."""
    return context_of(_stored_names(path))


def _stored_names(path: Path) -> tuple[str, ...]:
    """Names of all channels that a TIFF holds; empty where it gives none, or is no TIFF."""
    import tifffile

    if path.suffix.lower() not in TIFF_SUFFIXES:
        return ()
    with tifffile.TiffFile(path) as tiff:
        return tuple((tiff.imagej_metadata or {}).get("Labels", ())) or ome_channel_names(tiff)


def write_channels(
    stream: BinaryIO, pixels: PixelArray, names: Sequence[str], size: tuple[float, float, str] | None = None
) -> None:
    """Write an image as a TIFF in which ImageJ shows channels by their names.

    Args:
        stream: of the file.
        pixels: (H, W, C) of uint8, uint16 or float32.
        names: of its channels.
        size: row, column and unit of a pixel; None: not known.
    """
    import tifffile

    metadata: dict[str, Any] = {"axes": "CYX", "Labels": list(names)}
    resolution = None
    if size is not None:
        row, column, metadata["unit"] = size
        resolution = (1 / column, 1 / row)
    planes = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(
        stream, planes, imagej=True, photometric="minisblack", resolution=resolution, metadata=metadata
    )


def _pages_as_channels(path: Path, tiff: TiffFile) -> PixelArray | None:
    """(H, W, C) of a TIFF whose pages are the channels of one image; None where they are slices, or may be.

    Pages that the file gives no name may be channels where they are few. Pixels whose channels come last, written
    without a word, become as many pages as the image has rows.
    """
    if len(tiff.series) != 1:
        return None
    series = tiff.series[0]
    shape = tuple(length for length in series.shape if length != 1)
    names = "".join(axis for axis, length in zip(series.axes, series.shape, strict=True) if length != 1)
    if len(shape) != 3 or names[0] not in "CQIS" or names[1:] not in ("YX", "YS"):
        return None
    require_memory(path, shape, series.dtype.itemsize)
    if len(tiff.pages) == 1:
        if series.dataoffset is None or unlike_its_bytes(tiff.pages.first) is not None:
            return None
        pixels = native(series.asarray().reshape(shape))
    else:
        if indices_of(series, tiff) != list(range(len(tiff.pages))):
            return None
        pages = [read_tiff_page(path, page.aspage()) for page in tiff.pages]
        if any(page.palette is not None for page in pages):
            return None
        pixels = np.stack([page.pixels for page in pages])
    first, rows, last = pixels.shape
    if names[0] != "C" and last <= MAX_CHANNELS and last < min(first, rows):
        return pixels
    return np.moveaxis(pixels, 0, -1) if first <= MAX_CHANNELS else None


def read_tiff_page(path: Path, page: TiffPage, *, keep_alpha: bool = False) -> StoredImage:
    """One page of an open TIFF, as the file holds it.

    Args:
        path: of the file, named in errors.
        page: of a `tifffile.TiffFile`.
        keep_alpha: as one more channel.

    Raises:
        ImageError: the page is not whole, or cannot be read without loss.
    """
    import tifffile

    itemsize = 8 if page.dtype is None else page.dtype.itemsize
    require_memory(path, page.shape, itemsize)
    require_memory(path, page.chunks, itemsize, "tile")
    _check_segments(path, page)
    _check_streams(path, page, math.prod(page.chunks) * itemsize)
    orientation = page.tags.get(ORIENTATION_TAG)
    check_orientation(path, 1 if orientation is None else int(orientation.value))
    check_colours(path, page)
    pixels = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = native(as_meant(path, page, pixels))
    if has_alpha(page) and not keep_alpha:
        pixels = drop_alpha(path, pixels)
    elif is_colour(page) and page.extrasamples == (0,) and is_opaque(pixels[..., -1]):
        pixels = pixels[..., :-1]  # of no known meaning, and says nothing
    inverted = is_inverted(page) and page.bitspersample == 8 * pixels.itemsize
    return StoredImage(pixels=one_channel(pixels), palette=palette_of(page), inverted=inverted)


def _check_segments(path: Path, page: TiffPage) -> None:
    """Decoders fill in what a cut-off file lacks, with zeros or grey."""
    size, expected = page.parent.filehandle.size, math.prod(page.chunked)
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    present = sum(count > 0 and offset + count <= size for offset, count in segments)
    if present != expected:
        raise ImageError(
            path,
            f"is not whole: {expected - present} of its {expected} strips or tiles are missing; save it again from "
            "its source",
        )


def _check_streams(path: Path, page: TiffPage, pixels: int) -> None:
    """Without the extra `compressed-tiff`, tifffile unpacks deflate and LZMA with Python's own, to any length."""
    kind: Format | None = _STREAMS.get(int(page.compression))
    if kind is None or not could_fill(max(page.databytecounts, default=0), kind):
        return
    with path.open("rb") as stream:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            stream.seek(offset)
            require_bounded_stream(path, stream.read(count), kind, pixels)
