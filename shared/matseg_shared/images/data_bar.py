"""The bar of data below a micrograph, recognised by its looks where the file does not tell of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.images.channels import PixelArray, is_grey

_SHARES = 0.02, 0.25
"""Share of a picture's rows that a bar takes, at least and at most."""
_LEAST_ROWS = 10
_FLAT = 0.97
"""Share of the bar's ground in its first row, and in rows between lines of text."""
_TEXTURED = 0.6
"""Share of that grey in as many rows above; more is an even background."""
_INK = 0.01, 0.6
"""Share of text, lines and logo in a bar."""
_CONTRAST = 0.4
"""Distance of ink from ground, as a share of the picture's range."""
_NEAR = 0.03
"""The same, of what counts as ground."""
_BLOCKS = 3
"""Pieces of text along a bar, with ground from top to bottom between them, at least."""


def data_bar_rows(pixels: PixelArray) -> int:
    """Rows at the foot of a picture that plainly are a bar of data: text on an even ground; 0 where there is none.

    Args:
        pixels: (H, W) or (H, W, C).
    """
    grey = _grey(pixels)
    height = len(grey)
    low, high = float(grey.min(initial=0)), float(grey.max(initial=0))
    least, most = max(_LEAST_ROWS, int(_SHARES[0] * height)), int(_SHARES[1] * height)
    if not high > low or most <= least:
        return 0
    ground = float(np.median(grey[-least:]))
    span = _NEAR * (high - low)
    foot = grey[-2 * most :].astype(np.float32)
    if (np.abs(foot[-3:] - ground) <= span).mean(axis=1).max() < _FLAT:  # as in nearly all pictures
        return 0
    shares = (np.abs(foot - ground) <= span).mean(axis=1)
    flat = np.flatnonzero(shares[::-1][: most + 1] >= _FLAT)
    rows = int(flat[-1]) + 1  # up to the last row of nothing but ground
    while rows < min(height, most) and np.ptp(foot[-rows - 1]) <= span:  # and the line above it
        rows += 1
    if not least <= rows <= most:
        return 0
    bar, above = foot[-rows:], shares[-2 * rows : -rows]
    ink = np.abs(bar - ground) > span
    strong = np.abs(bar - ground) > _CONTRAST * (high - low)
    is_written = _INK[0] <= ink.mean() <= _INK[1] and strong.sum() >= ink.sum() / 2
    if not is_written or above.mean() > _TEXTURED or _blocks(ink) < _BLOCKS:
        return 0
    return rows


def _blocks(ink: NDArray[np.bool_]) -> int:
    """Pieces of ink that columns of ground divide, apart from a frame."""
    inner = ink[ink.mean(axis=1) < _FLAT]
    columns = np.concatenate([[False], inner.any(axis=0)])
    return int(np.count_nonzero(columns[1:] & ~columns[:-1]))


def _grey(pixels: PixelArray) -> NDArray[Any]:
    """(H, W), of more than three channels the first; integers that are grey as they are, which is ten times faster."""
    if pixels.ndim == 3 and pixels.shape[-1] > 3:
        pixels = pixels[..., 0]
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels.astype(np.float32))
    if pixels.ndim == 3:
        return pixels[..., 0] if is_grey(pixels) else pixels.mean(axis=-1, dtype=np.float32)
    return pixels
