"""Random crops of labelled images: flips, turns, scalings, elastic warps, and changes of the grey values.

Image and labels always get the same transformation; labels are never interpolated. Crops of an image of which only a
part is labelled are drawn where its labels are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # of the extra `train`
from torch.nn import functional as F

from matseg_trainer.data.class_positions import ClassPositions
from matseg_trainer.data.examples import IGNORED, Example

MAX_ROTATION = np.deg2rad(15.0)
MAX_SCALING = 1.2
"""Scalings are drawn between 1/this and this, uniformly in the logarithm."""
WARP_SHARE = 0.5
"""Share of the crops that are warped by interpolation; the others keep their pixels where they are."""
ELASTIC_MESH = 32
"""Pixels between the points whose displacements are drawn; between them a cubic spline is laid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Ways in which random crops are drawn."""

    crop: int | None = None
    """Edge of a square crop in pixels; None: the whole image."""
    turn: bool = False
    """Flip and turn by quarters: every pixel stays as it is."""
    warp: bool = False
    """Rotate and scale some of the crops a little."""
    elastic: float = 0.0
    """Largest displacement, in pixels, of an elastic warp of some of the crops."""
    intensity: float = 0.0
    """Largest change of contrast, as a factor's logarithm, and of brightness, in standard deviations of the crop."""
    blur: float = 0.0
    """Largest standard deviation, in pixels, of a Gaussian blur."""
    noise: float = 0.0
    """Largest standard deviation of added noise, in those of the crop."""
    oversample_classes: float = 0.0
    """Share of the crops that are placed on a random pixel of a random class of the image, instead of anywhere."""


def augment(
    example: Example,
    rng: np.random.Generator,
    options: Augmentation,
    positions: ClassPositions | None = None,
) -> Example:
    """One random crop of an image; the positions of its labels, where they are known, spare counting them.

    Returns:
        `crop` pixels square, or as large as the image where that is smaller; the pixels are float32 when they were
        interpolated or changed, else of their own dtype.
    """
    positions = positions or ClassPositions(example.labels)
    height, width = (min(length, options.crop or length) for length in example.labels.shape)
    top, left = _corner(example.labels, (height, width), rng, options.oversample_classes, positions)
    view = _cut(example, top, left, top + height, left + width)
    if (options.warp or options.elastic) and rng.random() < WARP_SHARE:
        warped = _warp(example, rng, (top, left, height, width), options, is_partial=positions.is_partial)
        # the only labels may have been turned out of the crop, and nothing is learned where there are none
        view = warped if (warped.labels != IGNORED).any() else view
    if options.turn:
        view = _turn(view, rng)
    if options.intensity or options.blur or options.noise:
        view = Example(pixels=_change_values(view.pixels, rng, options), labels=view.labels)
    return view.map(np.ascontiguousarray)


def _cut(example: Example, top: int, left: int, bottom: int, right: int) -> Example:
    return example.map(lambda array: array[..., top:bottom, left:right])


def _corner(
    labels: NDArray[np.uint8],
    size: tuple[int, int],
    rng: np.random.Generator,
    share: float,
    positions: ClassPositions,
) -> tuple[int, int]:
    """Upper-left corner of a crop: anywhere, or so that a pixel of a class drawn at random lies in it.

    Of a partly labelled image, "anywhere" is wherever a labelled pixel drawn at random lies in it.
    """
    most = [full - part for full, part in zip(labels.shape, size, strict=True)]
    by_class = bool(share and max(most) and rng.random() < share)
    if by_class or (positions.is_partial and max(most)):
        place = positions.draw(labels, rng, by_class=by_class)
        if place is not None:
            corner = [p - int(rng.integers(0, s)) for p, s in zip(place, size, strict=True)]
            top, left = (min(max(start, 0), end) for start, end in zip(corner, most, strict=True))
            return top, left
    top, left = (int(rng.integers(0, end + 1)) for end in most)
    return top, left


def _turn(example: Example, rng: np.random.Generator) -> Example:
    """A random element of the symmetry group of the square, or of the rectangle."""
    height, width = example.labels.shape
    # Only a square stays the same size when turned by 90 degrees, and a batch needs one size
    turns = int(rng.integers(0, 4)) if height == width else 2 * int(rng.integers(0, 2))
    flip = -1 if rng.random() < 0.5 else 1
    return example.map(lambda array: np.rot90(array, turns, axes=(-2, -1))[..., ::flip])


def _change_values(
    pixels: NDArray[np.generic], rng: np.random.Generator, options: Augmentation
) -> NDArray[np.float32]:
    """(C, H, W) with another contrast, brightness, sharpness and noise, in the range of the dtype that it had."""
    values: NDArray[np.float32] = pixels.astype(np.float32)
    spread = values.std(axis=(1, 2), keepdims=True)
    sigma = rng.uniform(0, options.blur)
    if sigma > 0:
        values = ndimage.gaussian_filter(values, (0, sigma, sigma), mode="reflect")
    mean = values.mean(axis=(1, 2), keepdims=True)
    contrast, brightness = rng.uniform(-1, 1, 2) * options.intensity
    values = mean + (values - mean) * np.float32(np.exp(contrast)) + spread * np.float32(brightness)
    if options.noise:
        strength = np.float32(rng.uniform(0, options.noise))
        values += rng.standard_normal(values.shape, np.float32) * spread * strength
    if pixels.dtype.kind in "iu":
        limits = np.iinfo(str(pixels.dtype))
        np.clip(values, limits.min, limits.max, out=values)
    return values


def _warp(
    example: Example,
    rng: np.random.Generator,
    window: tuple[int, int, int, int],
    options: Augmentation,
    *,
    is_partial: bool,
) -> Example:
    """Rotate, scale and bend about the window's centre while cutting it; what lies outside the image is reflected.

    Outside of a partly labelled image there are no labels.
    """
    top, left, height, width = window
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION) if options.warp else 0.0
    zoom = MAX_SCALING ** rng.uniform(-1, 1) if options.warp else 1.0
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = (y - (height - 1) / 2) / zoom, (x - (width - 1) / 2) / zoom
    source_y = np.cos(angle) * y - np.sin(angle) * x + top + (height - 1) / 2
    source_x = np.sin(angle) * y + np.cos(angle) * x + left + (width - 1) / 2
    if options.elastic:
        source_y, source_x = (
            source + _displacements(height, width, rng, options.elastic) for source in (source_y, source_x)
        )
    # only what the crop is interpolated from; where that ends at the image's border, both reflect alike
    first_y, first_x = (max(0, math.floor(source.min()) - 1) for source in (source_y, source_x))
    part = _cut(example, first_y, first_x, math.ceil(source_y.max()) + 2, math.ceil(source_x.max()) + 2)
    axes = ((source_x, first_x, part.labels.shape[1]), (source_y, first_y, part.labels.shape[0]))
    grid = np.stack([(source - first + 0.5) / length * 2 - 1 for source, first, length in axes], axis=-1)
    grid_tensor = torch.from_numpy(grid.astype(np.float32)).unsqueeze(0)

    def sample(array: NDArray[np.generic], mode: str) -> NDArray[np.float32]:
        values = np.require(array, dtype=np.float32, requirements=("C", "W"))
        tensor = torch.from_numpy(values).unsqueeze(0)
        warped = F.grid_sample(tensor, grid_tensor, mode=mode, padding_mode="reflection", align_corners=False)
        return warped.squeeze(0).numpy()

    labels = sample(part.labels[np.newaxis], "nearest")[0].astype(np.uint8)
    if is_partial:
        rows, columns = example.labels.shape
        row, column = np.rint(source_y), np.rint(source_x)
        labels[(row < 0) | (row >= rows) | (column < 0) | (column >= columns)] = IGNORED
    return Example(pixels=sample(part.pixels, "bilinear"), labels=labels)


def _displacements(height: int, width: int, rng: np.random.Generator, most: float) -> NDArray[np.float64]:
    """(H, W) smooth displacements in pixels, none above `most` but by the spline's overshoot.

    As in Simard et al. 2003 (doi 10.1109/ICDAR.2003.1227801), on a mesh, as Ronneberger et al. 2015 have it.
    """
    mesh = [math.ceil(length / ELASTIC_MESH) + 3 for length in (height, width)]
    points = torch.from_numpy(rng.uniform(-most, most, mesh))[None, None]
    full = [(points - 1) * ELASTIC_MESH + 1 for points in mesh]
    field = F.interpolate(points, size=full, mode="bicubic", align_corners=True)[0, 0]
    start = ELASTIC_MESH
    return field[start : start + height, start : start + width].numpy()
