"""Pictures inside a page: small, as data URIs; label pictures keep whole class indices."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_shared.images.palette import Colour, default_colours
from matseg_shared.images.png import write_label_png

_JPEG_QUALITY = 85
_WINDOW_PERCENTILES = (0.2, 99.8)
_TELLING = 1_000_000
"""Pixels that are enough to know the percentiles of all."""
_LEAST_CHROMA = 40
"""Between the largest and the smallest of R, G and B; less looks grey over a grey image."""


@dataclass(frozen=True, slots=True)
class GreyWindow:
    """Intensities that a page shows as black and as white; the same for all pictures that are compared."""

    low: float
    high: float

    @classmethod
    def of(cls, pictures: Sequence[NDArray[Any]]) -> GreyWindow:
        """The window from the 0.2 to the 99.8 percentile of some pictures, by evenly spread pixels that are numbers."""
        step = math.ceil((sum(picture.shape[0] * picture.shape[1] for picture in pictures) / _TELLING) ** 0.5)
        pixels = np.concatenate([picture[::step, ::step].ravel() for picture in pictures])
        pixels = pixels[np.isfinite(pixels)]
        low, high = np.percentile(pixels, _WINDOW_PERCENTILES) if pixels.size else (0, 1)
        return cls(float(low), float(high) if high > low else float(low) + 1)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def apply(self, picture: NDArray[Any]) -> NDArray[np.uint8]:
        """Intensities to 0 ... 255, clipped; 0 for what is no number."""
        if picture.dtype == np.uint8:  # each value once
            shades = self.apply(np.arange(256, dtype=np.uint16)).tolist()
            bands = picture.size // (picture.shape[0] * picture.shape[1])
            return np.asarray(Image.fromarray(picture).point(shades * bands))
        scaled = (picture.astype(np.float32) - self.low) * (255 / (self.high - self.low))
        shown: NDArray[np.uint8] = np.nan_to_num(np.clip(np.rint(scaled), 0, 255)).astype(np.uint8)
        return shown


def fit(shape: tuple[int, int], edge: int) -> tuple[int, int]:
    """(H, W) of a picture whose longer edge is at most `edge` pixels; never larger than it was."""
    scale = min(1.0, edge / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def shrink(pixels: NDArray[Any], edge: int) -> NDArray[Any]:
    """Average (H, W) or (H, W, 3) pixels of any real dtype down; uint8 stays uint8, others become float32."""
    height, width = fit((pixels.shape[0], pixels.shape[1]), edge)
    if (height, width) == pixels.shape[:2]:
        return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    if pixels.ndim == 3:
        return np.stack(
            [shrink(plane, edge) for plane in np.moveaxis(pixels.astype(np.float32), -1, 0)], axis=-1
        )
    plane = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    return np.asarray(plane.resize((width, height), Image.Resampling.BOX))


def shrink_labels(labels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """Give each pixel of a smaller picture the class that covers most of it; ties go to the lower index."""
    height, width = fit((labels.shape[0], labels.shape[1]), edge)
    if (height, width) == labels.shape:
        return labels
    picture = Image.fromarray(labels)
    result, best = np.zeros((2, height, width), np.uint8)
    left = ~best
    *others, last = (value for value, pixels in enumerate(picture.histogram()) if pixels)
    for index in (*others, last):
        share = left
        if index != last:
            mask = picture.point([255 * (value == index) for value in range(256)])
            share = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
        np.copyto(result, np.uint8(index), where=share > best)
        best, left = np.maximum(best, share), left - np.minimum(left, share)
    return result


def hatch(picture: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB with grey stripes on white in the pixels `where` nobody said what they are."""
    row, column = np.ogrid[: where.shape[0], : where.shape[1]]
    stripes = np.where((row + column) % 8 < 2, np.uint8(144), np.uint8(240))
    return np.where(where[..., np.newaxis], stripes[..., np.newaxis], picture)


def jpeg_uri(pixels: NDArray[np.uint8]) -> str:
    """(H, W) or (H, W, 3) as a JPEG."""
    return _uri(Image.fromarray(pixels), "JPEG", quality=_JPEG_QUALITY)


def label_uri(labels: NDArray[np.uint8], colours: Sequence[Colour]) -> str:
    """(H, W) class indices as a palette PNG; `colours` must differ, so that a script can read the indices back."""
    buffer = io.BytesIO()
    write_label_png(buffer, labels, colours[: int(labels.max()) + 1])
    return _data_uri("png", buffer)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """(H, W) or (H, W, 3) as a PNG."""
    return _uri(Image.fromarray(pixels), "PNG")


def distinct(colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """The same colours, those that repeat moved by as little as makes all differ."""
    found: dict[Colour, None] = {}
    for red, green, blue in colours:
        candidate, step = (red, green, blue), 0
        while candidate in found:
            step += 1
            candidate = (red, green, (blue + step) % 256)
        found[candidate] = None
    return tuple(found)


def visible_colours(colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """Class colours that can be seen over grey images: the classes' own, or the default where several are grey."""
    grey = sum(max(colour) - min(colour) < _LEAST_CHROMA for colour in colours)
    return tuple(colours) if grey <= 1 else default_colours(len(colours))


def _uri(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return _data_uri(kind.lower(), buffer)


def _data_uri(kind: str, content: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
