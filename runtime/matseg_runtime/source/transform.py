"""From stored pixels to what the model takes: channels, dtype, and an intensity window where one is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.units import exact
from matseg_shared.contract.metadata import InputInfo
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.read import PixelArray, check_dtype, non_finite, to_channels


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

    def __str__(self) -> str:
        return f"{exact(self.low)},{exact(self.high)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """Turns slices as they are stored into the model's input."""

    info: InputInfo
    window: Window | None = None
    stored_dtype: str | None = None
    """Dtype of the slices that a window maps: it means other intensities in another dtype. None: any."""

    def convert(self, pixels: PixelArray, where: str) -> PixelArray:
        """(H, W) or (H, W, 3) of any dtype to (C, H, W) in the model's, or an ImageError where it does not fit."""
        if self.window is not None:
            pixels = self._map(pixels, where)
        check_dtype(pixels, self.info.dtype, where)
        _refuse_non_finite(pixels, where)
        return to_channels(pixels, self.info.channels, where)

    def clipped(self, pixels: PixelArray) -> int:
        """How many pixels, in any of their channels, lie beyond the window; 0 without one.

        Args:
            pixels: (H, W) or (H, W, 3) as they are stored.
        """
        if self.window is None:
            return 0
        if pixels.dtype == np.float16:
            pixels = pixels.astype(np.float32)  # the window's ends may lie beyond the largest half
        beyond = (pixels < self.window.low) | (pixels > self.window.high)
        return int(np.count_nonzero(beyond if beyond.ndim == 2 else beyond.any(axis=-1)))

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
        _refuse_non_finite(pixels, where)
        values: NDArray[np.floating[Any]]
        values = pixels.astype(np.float64 if pixels.dtype.itemsize > 2 else np.float32)
        values = (values - self.window.low) / (self.window.high - self.window.low)
        np.clip(values, 0, 1, out=values)
        dtype, histogram = np.dtype(self.info.dtype), self.info.histogram
        if dtype.kind == "f":  # the range of the training set; of integers the whole one
            values *= histogram.high - histogram.low
            values += histogram.low
        else:
            values *= np.iinfo(dtype).max
            np.rint(values, out=values)
        return values.astype(dtype)


def _refuse_non_finite(pixels: PixelArray, where: str) -> None:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError(where, non_finite(pixels))
