"""Images that show the same: copies, turned and mirrored copies, and neighbours in a stack.

Two measures, both normalised cross-correlations between -1 and 1. *Structure* compares images reduced to 32 x 32
pixels without their coarse shading, which is cheap enough for every pair. *Detail* compares what a Gaussian of 2 pixels
takes away at full size, noise included: it is near 1 only for copies of one picture, however structured the material.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_shared.images.context import of_slice
from matseg_shared.images.read import read_image
from matseg_shared.images.tiff import stored_context

COPY = 0.99
"""Detail from which two images are one picture, stored or scaled anew."""
NEAR_COPY = 0.8
"""Detail from which two images are pointed out; among neighbouring slices only those of a fine scan reach it."""
_COMPARED = 0.9
"""Structure from which the detail of two images of one split is compared."""
_EDGE = 32
_SMALLEST = 16
"""Images with a shorter edge show too little to be told apart, pixels."""
_BLOCK = 256
"""Images compared with all others at once; bounds the memory."""
TURNS = ("as it is", "turned by 90°", "turned by 180°", "turned by 270°")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thumbnail:
    """One image, reduced."""

    split: str
    path: Path
    reduced: NDArray[np.float32]
    """(32, 32), mean 0, norm 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The image most like another one."""

    split: str
    path: Path
    other_split: str
    other: Path
    turn: int
    """Quarter turns, counter-clockwise, of `path` that make it lie like `other`, after mirroring if `mirrored`."""
    mirrored: bool
    structure: float
    detail: float | None
    """None when the images' sizes differ too much to compare it."""

    @property
    def how(self) -> str:
        """Turn of one against the other, in words."""
        return ("mirrored, " if self.mirrored else "") + TURNS[self.turn]


def thumbnail(split: str, path: Path, pixels: NDArray[np.float32]) -> Thumbnail | None:
    """Reduce (H, W) grey pixels; None when they show nothing, or are fewer than 16 along an edge."""
    from scipy import ndimage

    if min(pixels.shape) < _SMALLEST:
        return None
    picture = _resized(pixels, (2 * _EDGE, 2 * _EDGE))
    picture = _resized(picture - ndimage.gaussian_filter(picture, 4.0), (_EDGE, _EDGE))
    normal = _normalised(picture)
    return None if normal is None else Thumbnail(split=split, path=path, reduced=normal)


def nearest_neighbours(thumbnails: Sequence[Thumbnail]) -> tuple[Neighbour, ...]:
    """For each image the most similar one of the other splits; of its own split only when it may be a copy.

    A pair of one split is given once. Every image is read again at most twice to compare details.

    Raises:
        ImageError: an image is gone or damaged by now.
    """
    if len(thumbnails) < 2:
        return ()
    splits = np.array([item.split for item in thumbnails])
    found: dict[tuple[int, int], Neighbour] = {}
    for row, (one, scores) in enumerate(zip(thumbnails, _structure_rows(thumbnails), strict=True)):
        best = scores.max(axis=1)
        best[row] = -2.0
        own = splits == one.split
        for among, least in ((~own, -1.0), (own, _COMPARED)):
            column = int(np.where(among, best, -2.0).argmax())
            pair = (min(row, column), max(row, column)) if own[column] else (row, column)
            if among[column] and best[column] >= least and pair not in found:
                other, way = thumbnails[column], int(scores[column].argmax())
                found[pair] = Neighbour(
                    split=one.split,
                    path=one.path,
                    other_split=other.split,
                    other=other.path,
                    turn=way % 4,
                    mirrored=way >= 4,
                    structure=float(best[column]),
                    detail=_detail(_turned(grey(one.path), way), grey(other.path)),
                )
    return tuple(found.values())


def grey(path: Path) -> NDArray[np.float32]:
    """(H, W) grey values of an image file (see `read_image`); the mean of the channels of a coloured one.

    Of a slice with its neighbours those of the slice.
    """
    return to_grey(of_slice(read_image(path), stored_context(path)))


def to_grey(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) to (H, W); pixels that are no data become the mean of the others."""
    values = pixels.astype(np.float32)
    grey = values if values.ndim == 2 else np.asarray(values.mean(axis=-1))
    known = np.isfinite(grey)
    return grey if known.all() else np.where(known, grey, grey[known].mean() if known.any() else 0)


def _structure_rows(thumbnails: Sequence[Thumbnail]) -> Iterator[NDArray[np.float32]]:
    """Per image (N, 8) the correlation of each of its 8 turned and mirrored forms with every image."""
    flat = np.stack([item.reduced.ravel() for item in thumbnails])
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK]
        ways = np.stack([[_turned(item.reduced, way).ravel() for way in range(8)] for item in block])
        yield from np.moveaxis(ways @ flat.T, 1, 2)


def _turned(picture: NDArray[np.float32], way: int) -> NDArray[np.float32]:
    mirrored: NDArray[np.float32] = picture[:, ::-1] if way >= 4 else picture
    return np.rot90(mirrored, way % 4)


def _detail(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    from scipy import ndimage

    if one.shape != other.shape:
        shape = (min(one.shape[0], other.shape[0]), min(one.shape[1], other.shape[1]))
        if min(shape) < _SMALLEST or max(one.size, other.size) > 16 * shape[0] * shape[1]:
            return None
        one, other = _resized(one, shape), _resized(other, shape)
    parts = [_normalised(picture - ndimage.gaussian_filter(picture, 2.0)) for picture in (one, other)]
    if parts[0] is None or parts[1] is None:
        return 0.0
    return float(np.vdot(parts[0], parts[1]))


def _resized(picture: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BOX))


def _normalised(picture: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Mean 0 and norm 1; None for a picture that is flat but for rounding."""
    centred: NDArray[np.float32] = picture - picture.mean()
    norm = float(np.linalg.norm(centred))
    flat = norm <= 1e-5 * float(np.abs(picture).max()) * np.sqrt(picture.size)
    return None if flat else centred / norm
