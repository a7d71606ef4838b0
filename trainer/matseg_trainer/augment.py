"""Random views of a labelled image: crops, flips, quarter turns, small rotations and scalings.

Image and labels always get the same transformation; labels are never interpolated.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from matseg_shared.images import PixelArray

MAX_ROTATION = np.deg2rad(15.0)
MAX_SCALING = 1.2
"""Scalings are drawn between 1/this and this, uniformly in the logarithm."""
WARP_SHARE = 0.5
"""Share of the views that are rotated and scaled by interpolation; the others keep their pixels as they are."""


def random_view(
    pixels: PixelArray,
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    crop: int | None,
    augment: bool,
) -> tuple[PixelArray, NDArray[np.uint8]]:
    """One random view.

    Args:
        pixels: (C, H, W), any dtype.
        labels: (H, W).
        rng: the only source of randomness.
        crop: edge of a square crop in pixels, cut at a random place; None: the whole image.
        augment: whether to flip, turn, rotate and scale.

    Returns:
        (C, h, w) pixels (float32 when augmented, else their own dtype) and (h, w) labels; h and w are `crop`, or
        the image's where that is smaller.
    """
    height, width = (min(length, crop or length) for length in labels.shape)
    top, left = (
        int(rng.integers(0, full - part + 1))
        for full, part in zip(labels.shape, (height, width), strict=True)
    )
    if augment and rng.random() < WARP_SHARE:
        pixels, labels = _warp(pixels, labels, rng, (top, left, height, width))
    else:
        window = slice(top, top + height), slice(left, left + width)
        pixels, labels = pixels[:, window[0], window[1]], labels[window]
    if not augment:
        return pixels, labels
    # Only a square stays the same size when turned by 90 degrees, and a batch needs one size
    turns = int(rng.integers(0, 4)) if height == width else 2 * int(rng.integers(0, 2))
    pixels, labels = np.rot90(pixels, turns, axes=(1, 2)), np.rot90(labels, turns)
    if rng.random() < 0.5:
        pixels, labels = pixels[:, :, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(pixels, dtype=np.float32), np.ascontiguousarray(labels)


def _warp(
    pixels: PixelArray,
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
    window: tuple[int, int, int, int],
) -> tuple[PixelArray, NDArray[np.uint8]]:
    """Rotate and scale about the window's centre while cutting it; what lies outside the image is reflected."""
    top, left, height, width = window
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    zoom = MAX_SCALING ** rng.uniform(-1, 1)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = (y - (height - 1) / 2) / zoom, (x - (width - 1) / 2) / zoom
    source_y = np.cos(angle) * y - np.sin(angle) * x + top + (height - 1) / 2
    source_x = np.sin(angle) * y + np.cos(angle) * x + left + (width - 1) / 2
    full_height, full_width = labels.shape
    grid = np.stack([(source_x + 0.5) / full_width * 2 - 1, (source_y + 0.5) / full_height * 2 - 1], axis=-1)
    grid_tensor = torch.from_numpy(grid.astype(np.float32)).unsqueeze(0)

    def sample(array: NDArray[np.generic], mode: str) -> NDArray[np.float32]:
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).unsqueeze(0)
        warped = F.grid_sample(tensor, grid_tensor, mode=mode, padding_mode="reflection", align_corners=False)
        result: NDArray[np.float32] = warped.squeeze(0).numpy()
        return result

    return sample(pixels, "bilinear"), sample(labels[np.newaxis], "nearest")[0].astype(np.uint8)
