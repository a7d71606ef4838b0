"""Random views of a labelled image: crops, flips, quarter turns, small rotations and scalings.

Image and labels always get the same transformation; labels are never interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from matseg_shared.images.read import PixelArray

MAX_ROTATION = np.deg2rad(15.0)
MAX_SCALING = 1.2
"""Scalings are drawn between 1/this and this, uniformly in the logarithm."""
WARP_SHARE = 0.5
"""Share of the views that are rotated and scaled by interpolation; the others keep their pixels as they are."""
IGNORED = 255
"""Label of pixels that count neither in the loss nor in a metric: padding, and what nobody has labelled."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """An image, or a part of it, with what is known of its pixels."""

    pixels: PixelArray
    """(C, H, W), any dtype."""
    labels: NDArray[np.uint8]
    """(H, W) class indices, `IGNORED` where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """Which views are drawn."""

    crop: int | None = None
    """Edge of a square crop in pixels; None: the whole image."""
    turn: bool = False
    """Flip and turn by quarters: every pixel stays as it is."""
    warp: bool = False
    """Rotate and scale some of the views a little."""
    focus: float = 0.0
    """Share of the crops that are placed on a random pixel of a random class of the image, instead of anywhere."""


def random_view(view: View, rng: np.random.Generator, options: ViewOptions) -> View:
    """One random view of an image.

    Args:
        view: the whole image.
        rng: the only source of randomness.
        options: what may change.

    Returns:
        `crop` pixels square, or as large as the image where that is smaller; the pixels are float32 when they were
        interpolated, else of their own dtype.
    """
    shape = view.labels.shape
    height, width = (min(length, options.crop or length) for length in shape)
    top, left = _corner(view.labels, (height, width), rng, options.focus)
    if options.warp and rng.random() < WARP_SHARE:
        view = _warp(view, rng, (top, left, height, width))
    else:
        window = (slice(top, top + height), slice(left, left + width))
        view = _each(view, lambda array: array[..., window[0], window[1]])
    if options.turn:
        view = _turn(view, rng)
    return _each(view, np.ascontiguousarray)


def _each(view: View, change: Callable[[NDArray[Any]], NDArray[Any]]) -> View:
    """The same for pixels and labels."""
    return View(pixels=change(view.pixels), labels=change(view.labels))


def _corner(
    labels: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator, focus: float
) -> tuple[int, int]:
    """Upper-left corner of a crop: anywhere, or so that a pixel of a class drawn at random lies in it."""
    room = [full - part for full, part in zip(labels.shape, size, strict=True)]
    if focus and max(room) and rng.random() < focus:
        classes = np.flatnonzero(np.bincount(labels.ravel(), minlength=IGNORED)[:IGNORED])
        if len(classes):
            places = np.flatnonzero(labels == rng.choice(classes))
            place = np.unravel_index(int(rng.choice(places)), labels.shape)
            corner = (int(p) - int(rng.integers(0, s)) for p, s in zip(place, size, strict=True))
            top, left = (min(max(start, 0), most) for start, most in zip(corner, room, strict=True))
            return top, left
    top, left = (int(rng.integers(0, most + 1)) for most in room)
    return top, left


def _turn(view: View, rng: np.random.Generator) -> View:
    """A random element of the symmetry group of the square, or of the rectangle."""
    height, width = view.labels.shape
    # Only a square stays the same size when turned by 90 degrees, and a batch needs one size
    turns = int(rng.integers(0, 4)) if height == width else 2 * int(rng.integers(0, 2))
    view = _each(view, lambda array: np.rot90(array, turns, axes=(-2, -1)))
    return _each(view, lambda array: array[..., ::-1]) if rng.random() < 0.5 else view


def _warp(view: View, rng: np.random.Generator, window: tuple[int, int, int, int]) -> View:
    """Rotate and scale about the window's centre while cutting it; what lies outside the image is reflected."""
    top, left, height, width = window
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    zoom = MAX_SCALING ** rng.uniform(-1, 1)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = (y - (height - 1) / 2) / zoom, (x - (width - 1) / 2) / zoom
    source_y = np.cos(angle) * y - np.sin(angle) * x + top + (height - 1) / 2
    source_x = np.sin(angle) * y + np.cos(angle) * x + left + (width - 1) / 2
    full_height, full_width = view.labels.shape
    grid = np.stack([(source_x + 0.5) / full_width * 2 - 1, (source_y + 0.5) / full_height * 2 - 1], axis=-1)
    grid_tensor = torch.from_numpy(grid.astype(np.float32)).unsqueeze(0)

    def sample(array: NDArray[np.generic], mode: str) -> NDArray[np.float32]:
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).unsqueeze(0)
        warped = F.grid_sample(tensor, grid_tensor, mode=mode, padding_mode="reflection", align_corners=False)
        result: NDArray[np.float32] = warped.squeeze(0).numpy()
        return result

    return View(
        pixels=sample(view.pixels, "bilinear"),
        labels=sample(view.labels[np.newaxis], "nearest")[0].astype(np.uint8),
    )
