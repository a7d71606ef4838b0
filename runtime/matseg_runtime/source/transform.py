"""From stored pixels to what the model takes: channels, dtype, an intensity window where one is given, and no data.

Pixels that are no sample are found in one place, `NoData.of`, and travel beside the slice from there on: the network
sees the training mean there, and the label is `UNLABELLED`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.base import Slice, Source, SourceOptions, file_identity
from matseg_runtime.source.open import open_source
from matseg_runtime.units import exact
from matseg_shared.contract.metadata import InputInfo
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import to_channels
from matseg_shared.images.context import join_slices
from matseg_shared.images.read import (
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    PixelArray,
    check_dtype,
    read_stored,
    refuse_infinite,
)

Absent = NDArray[np.bool_]
"""(H, W), True where there are no data."""
Kinds = tuple[float | Literal["circle"], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Intensities that become the model's darkest and brightest; those beyond are clipped."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `LO,HI`, two ascending numbers, or raise a UsageError."""
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError as error:
            raise UsageError(
                f"--window {text}: expected two numbers LO,HI, such as --window 0,4095"
            ) from error
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise UsageError(f"--window {text}: expected LO below HI, both finite")
        return cls(low, high)

    def shares(self, pixels: PixelArray) -> NDArray[np.floating[Any]]:
        """0 for the darkest to 1 for the brightest, of pixels of any dtype."""
        values: NDArray[np.floating[Any]]
        values = pixels.astype(np.float64 if pixels.dtype.itemsize > 2 else np.float32)
        values = (values - self.low) / (self.high - self.low)
        np.clip(values, 0, 1, out=values)
        return values

    def __str__(self) -> str:
        return f"{exact(self.low)},{exact(self.high)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDataOptions:
    """Options on pixels that are no sample; NaN never is one."""

    no_data: Kinds = ()
    """Values that stand for no data; `circle`: everything outside the circle inscribed in a slice."""
    mask: str | None = None
    """An image, or a volume of the input's shape, that is 0 where there is no sample."""
    crop_bottom: int | None = None
    """Rows at the foot of each picture that are no sample; None: as its file says, else the model."""


def parse_no_data(text: str) -> float | Literal["circle"]:
    """Read a value, or `circle`.

    Raises:
        UsageError: neither.
    """
    if text == "circle":
        return "circle"
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(
            f"--no-data {text}: expected a value such as 0 or -9999, or the word circle"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """Mask of the sample: one image for all slices, or as many as the input has."""

    location: str
    identity: str
    """Changes when its content does."""
    image: PixelArray | None = None
    """0 where there is no sample; None: each slice has its own."""
    slices: Source | None = None

    @classmethod
    def open(cls, location: str, source: Source, axis: int | None) -> Mask:
        """Open a mask, sliced along the same axis as the source, which is the first if the user names none.

        Raises:
            UsageError: it cannot be opened, or has another shape than the input.
        """
        path = Path(location)
        if path.suffix.lower() in IMAGE_SUFFIXES - TIFF_SUFFIXES and path.is_file():
            image = read_stored(path).pixels
            return cls(location=location, identity=f"{path.name}: {file_identity(path)}", image=image)
        found = open_source(location, SourceOptions(as_labels=True))
        if axis and len(found.slices) > 1 and found.volume is not None:
            found.close()
            found = open_source(location, SourceOptions(axis=axis, as_labels=True))
        files = "\n".join(item.identity for item in found.slices)
        content = found.identity.content or hashlib.sha256(files.encode()).hexdigest()
        identity = f"{found.identity.name}: {content}"
        if len(found.slices) == 1:
            with closing(found):
                return cls(location=location, identity=identity, image=found.read(0, 1)[0])
        own, other = source.volume, found.volume
        if own is not None and other is not None:
            expected, has = (" x ".join(map(str, volume.shape)) for volume in (own, other))
        else:
            depth = len(source.slices) if own is None else own.shape[own.axis]
            expected, has = f"{depth} slices", f"{len(found.slices)} slices"
        if expected != has:
            found.close()
            raise UsageError(
                f"--mask {location}: expected one image, or {expected} as {source.location} has, found {has}; give a "
                "mask of the whole input, whatever --range takes of it"
            )
        return cls(location=location, identity=identity, slices=found)

    def beyond(self, position: int, shape: tuple[int, int], where: str) -> Absent:
        """(H, W) where the slice at a position of the whole input is no sample; an ImageError where it does not fit."""
        found = self.image if self.slices is None else self.slices.read(position, position + 1)[0]
        assert found is not None, "it is one or the other"
        if found.shape[:2] != shape:
            expected, has = (" x ".join(map(str, size)) for size in (shape, found.shape[:2]))
            raise ImageError(
                where, f"expected a mask of its {expected} pixels, found {self.location} of {has}"
            )
        is_none: Absent = ~_any_channel((found != 0) & ~np.isnan(found))
        return is_none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoData:
    """Finds the pixels of one input's slices that are no sample."""

    source: Source
    options: NoDataOptions = field(default_factory=NoDataOptions)
    mask: Mask | None = None
    model_crop: int = 0
    """Rows at the foot that were no sample in the model's training pictures."""
    across: int | None = None
    """Spatial axis of the slices that a circle and a mask of one image belong to, where these are cut along another."""

    def of(self, pixels: PixelArray, item: Slice) -> Absent | None:
        """(H, W) where a slice is no sample; None where all of it is one.

        Args:
            pixels: (H, W) or (H, W, C) as they are stored.
            item: of the source.

        Raises:
            ImageError: the mask does not fit, or cannot be read, or nothing is left of the slice.
        """
        beyond, kinds = None, self.options.no_data
        if self.across is not None and self._is_across:
            beyond, kinds = self._crossed(item), tuple(kind for kind in kinds if kind != "circle")
        if self.mask is not None and (beyond is None or self.mask_slices is not None):
            shape = (pixels.shape[0], pixels.shape[1])
            masked = self.mask.beyond(self.source.first + item.index, shape, item.where)
            beyond = masked if beyond is None else masked | beyond
        return absent_pixels(pixels, item.where, kinds, self.rows_cut(item), beyond)

    @property
    def mask_slices(self) -> Source | None:
        """The mask where each slice has its own; it is read slice by slice."""
        return None if self.mask is None else self.mask.slices

    @property
    def _is_across(self) -> bool:
        return self.source.volume is not None and self.source.volume.axis != self.across

    def _crossed(self, item: Slice) -> Absent:
        """(H, W) where a slice lies outside of the circle, or the mask, of the slices that it crosses."""
        volume = self.source.volume
        assert volume is not None, "a folder cannot be cut along another axis"
        plane = [axis for axis in range(3) if axis != self.across]
        lengths = (volume.shape[plane[0]], volume.shape[plane[1]])
        outside = np.zeros(lengths, np.bool_)
        if "circle" in self.options.no_data:
            outside |= _outside_circle(*lengths)
        if self.mask is not None and self.mask.image is not None:
            outside |= self.mask.beyond(0, lengths, item.where)
        line: Absent = np.take(outside, self.source.first + item.index, axis=plane.index(volume.axis))
        rows, columns = (axis for axis in range(3) if axis != volume.axis)
        column = line[np.newaxis] if rows == self.across else line[:, np.newaxis]
        return np.broadcast_to(column, (volume.shape[rows], volume.shape[columns]))

    def close(self) -> None:
        """Release the mask's files."""
        if self.mask_slices is not None:
            self.mask_slices.close()

    def rows_cut(self, item: Slice) -> int:
        """Rows at the foot of a slice that are no sample: as the user says, else its file, else the model."""
        if self.across is not None and self._is_across:
            return 0
        if self.options.crop_bottom is not None:
            return self.options.crop_bottom
        own = self.source.data_bar(item.index)
        return self.model_crop if own is None else own

    def is_told_of_bar(self, item: Slice) -> bool:
        """True where file, user or model say how many rows of a slice are a bar of data, or that none are."""
        given, own = self.options.crop_bottom, self.source.data_bar(item.index)
        return given is not None or own is not None or self.model_crop > 0

    def text(self) -> str | None:
        """All that decides it beside the input and the model, as the job's key has it; None: nothing."""
        parts = [kind if isinstance(kind, str) else exact(kind) for kind in self.options.no_data]
        if self.options.crop_bottom is not None:
            parts.append(f"lowest {self.options.crop_bottom} rows")
        if self.mask is not None:
            parts.append(f"mask {self.mask.identity}")
        return ", ".join(parts) or None


def absent_pixels(
    pixels: PixelArray, where: Path | str, kinds: Kinds = (), rows: int = 0, beyond: Absent | None = None
) -> Absent | None:
    """(H, W) where an image is no sample; None where all of it is one.

    Args:
        pixels: (H, W) or (H, W, C) as they are stored.
        where: named in errors.
        kinds: see `NoDataOptions.no_data`.
        rows: at the foot, that are none.
        beyond: (H, W) what a mask leaves out.

    Raises:
        ImageError: nothing is left above those rows.
    """
    height, width = pixels.shape[:2]
    found = [item for item in (not_numbers(pixels), beyond) if item is not None]
    for kind in kinds:
        if kind == "circle":
            found.append(_outside_circle(height, width))
        elif not np.isnan(kind):
            value = int(kind) if pixels.dtype.kind in "ui" and float(kind).is_integer() else float(kind)
            found.append(~_any_channel(pixels != value))
    if rows >= height:
        raise ImageError(where, f"is {height} rows high, of which the lowest {rows} are to be cut off")
    if rows:
        found.append(np.broadcast_to(np.arange(height)[:, np.newaxis] >= height - rows, (height, width)))
    absent = functools.reduce(np.logical_or, found) if found else None
    return absent if absent is not None and absent.any() else None


def zeroed(pixels: PixelArray, absent: Absent) -> PixelArray:
    """(H, W) or (H, W, C) pixels with 0 where there are no data; grey that is stored as RGB stays one channel."""
    nought = pixels.dtype.type(0)
    if pixels.ndim == 2:
        return np.where(absent, nought, pixels)
    if pixels.strides[-1] == 0:
        grey = np.where(absent, nought, pixels[..., 0])
        return np.broadcast_to(grey[..., np.newaxis], pixels.shape)
    return np.where(absent[..., np.newaxis], nought, pixels)


def fill_absent(image: PixelArray, absent: Absent, mean: Sequence[float]) -> None:
    """Put the training mean of each channel into (C, H, W) pixels of a model's dtype, rounded for whole numbers."""
    values = np.array(mean)[:, np.newaxis, np.newaxis]
    whole = values if image.dtype.kind == "f" else np.rint(values)
    np.copyto(image, whole.astype(image.dtype), where=absent)


def join_converted(
    images: Sequence[PixelArray], absent: Sequence[Absent | None], mean: Sequence[float]
) -> PixelArray:
    """The input of a model with context: a slice in the middle of its neighbours, each as `Transform.convert` gives it.

    Args:
        images: (C, H, W) each.
        absent: (H, W) where each is no sample, or None: a neighbour gives way to the slice there, and all channels
            hold the training mean where the slice itself is none.
        mean: of each channel of the joined image.
    """
    joined = join_slices(images, absent)
    if (own := absent[len(images) // 2]) is not None:
        fill_absent(joined, own, mean)
    return joined


def not_numbers(pixels: PixelArray) -> Absent | None:
    """(H, W) where pixels, in any of their channels, are NaN; None where none is."""
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return None
    found = _any_channel(np.isnan(pixels))
    return found if found.any() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """Turns slices as they are stored into the model's input."""

    info: InputInfo
    window: Window | None = None
    stored_dtype: str | None = None
    """Dtype of the slices that a window maps: it means other intensities in another dtype. None: any."""
    no_data: NoData | None = None
    """None: all pixels are data, but for NaN."""

    def absent(self, pixels: PixelArray, item: Slice) -> Absent | None:
        """(H, W) where a slice, as it is stored, is no sample; see `NoData.of`."""
        return None if self.no_data is None else self.no_data.of(pixels, item)

    def convert(self, pixels: PixelArray, where: str, absent: Absent | None = None) -> PixelArray:
        """Make slices of any dtype what the model takes.

        Args:
            pixels: (H, W) or (H, W, 3) as they are stored.
            where: named in errors.
            absent: (H, W) where there are no data, which become the training mean; None: nowhere.

        Returns:
            (C, H, W) in the model's dtype.

        Raises:
            ImageError: it does not fit the model.
        """
        if self.window is None and pixels.dtype.name != self.info.dtype:
            check_dtype(pixels if absent is None else pixels[~absent], self.info.dtype, where)
        if absent is not None:
            pixels = zeroed(pixels, absent)
        refuse_infinite(pixels, where)
        if self.window is not None:
            pixels = self._map(pixels, where)
        image = to_channels(pixels, self.info.channels, where)
        if absent is not None:
            fill_absent(image, absent, self.info.mean)
        return image

    def clipped(self, pixels: PixelArray, absent: Absent | None = None) -> int:
        """Number of pixels with data that, in any of their channels, lie beyond the window; 0 without one.

        Args:
            pixels: (H, W) or (H, W, 3) as they are stored.
            absent: (H, W) where there are no data; None: nowhere.
        """
        if self.window is None:
            return 0
        if pixels.dtype == np.float16:
            pixels = pixels.astype(np.float32)  # the window's ends may lie beyond the largest half
        beyond = _any_channel((pixels < self.window.low) | (pixels > self.window.high))
        return int(np.count_nonzero(beyond if absent is None else beyond & ~absent))

    def _map(self, pixels: PixelArray, where: str) -> PixelArray:
        assert self.window is not None
        if pixels.dtype.kind not in "uif":
            raise ImageError(where, f"has {pixels.dtype} pixels, which no window can map")
        if self.stored_dtype is not None and pixels.dtype.name != self.stored_dtype:
            raise ImageError(
                where,
                f"has {pixels.dtype} pixels, the other slices {self.stored_dtype}, and one --window cannot fit both; "
                "convert them alike",
            )
        values = self.window.shares(pixels)
        dtype, histogram = np.dtype(self.info.dtype), self.info.histogram
        if dtype.kind == "f":  # the range of the training set; of integers the whole one
            values *= histogram.high - histogram.low
            values += histogram.low
        else:
            values *= np.iinfo(dtype).max
            np.rint(values, out=values)
        return values.astype(dtype)


@functools.lru_cache(maxsize=4)
def _outside_circle(height: int, width: int) -> Absent:
    """Pixels whose centres lie outside the circle inscribed in a slice."""
    y, x = (np.arange(length) - (length - 1) / 2 for length in (height, width))
    outside: Absent = y[:, np.newaxis] ** 2 + x**2 > (min(height, width) / 2) ** 2
    outside.flags.writeable = False
    return outside


def _any_channel(pixels: NDArray[Any]) -> Absent:
    return pixels if pixels.ndim == 2 else np.any(pixels, axis=-1)
