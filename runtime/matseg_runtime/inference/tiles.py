"""Whole images through a session: pad, cut into tiles, predict in batches, stitch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.background import ConstantTileCache, find_background
from matseg_runtime.inference.session import Segmentation, Session
from matseg_runtime.inference.votes import put_votes
from matseg_shared.contract.tiling import Tile, pad_to_stride, plan_tiles
from matseg_shared.images.read import PixelArray


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """One tile of one of several images."""

    image: int
    tile: Tile


def segment_image(session: Session, image: PixelArray, **options: Any) -> Segmentation:
    """Label one image; options as of `segment_images`."""
    return segment_images(session, [image], **options)[0]


def segment_images(
    session: Session,
    images: Sequence[PixelArray],
    *,
    tile: tuple[int, int] | None = None,
    batch: int = 1,
    probabilities: bool = False,
    votes: bool = False,
    constant_tiles: ConstantTileCache | None = None,
) -> list[Segmentation]:
    """Label images of any size; the result does not depend on `tile` and `batch`.

    Args:
        session: an open model.
        images: (C, H, W) raw pixels in the model's dtype; their tiles share batches where their shapes are equal.
        tile: (rows, columns) of the largest tile in pixels; None: the whole image at once.
        batch: tiles per call of the network.
        probabilities: give class probabilities too.
        votes: give them in 8 bits, for all classes but the last.
        constant_tiles: of `constant_tile_cache`, to spare the network what is constant; None: it reads everything.

    Raises:
        UsageError: the tile is too small for the model's halo.
    """
    tiling = session.model.metadata.tiling
    padded = [_pad(image, tiling.stride) for image in images]
    n_class, asks = len(session.model.metadata.classes), probabilities or votes
    results = [
        Segmentation(
            labels=np.empty(image.shape[1:], np.uint8),
            probabilities=np.empty((n_class, *image.shape[1:]), np.float32) if probabilities else None,
            votes=np.empty((n_class - 1, *image.shape[1:]), np.uint8) if votes else None,
        )
        for image in images
    ]
    pieces: list[_Piece] = []
    for number, (image, whole) in enumerate(zip(images, padded, strict=True)):
        shape, most = (image.shape[1], image.shape[2]), tile or (whole.shape[1], whole.shape[2])
        tiles = plan_tiles(shape, most, halo=tiling.halo, stride=tiling.stride)
        pieces += [_Piece(number, part) for part in tiles]
    spared = [0] * len(images)
    if constant_tiles is not None:
        pieces = _without_background(pieces, session, padded, results, spared, constant_tiles)
    for group in _batches(pieces, batch):
        crops = np.stack([padded[piece.image][:, *piece.tile.read.slices()] for piece in group])
        for piece, output in zip(group, _predict(session, crops, batch, asks), strict=True):
            _paste(output, piece.tile, results[piece.image])
    return [replace(result, constant=count) for result, count in zip(results, spared, strict=True)]


def constant_tile_cache(session: Session, *, batch: int, probabilities: bool) -> ConstantTileCache:
    """A cache for `segment_images` called with the same arguments; for several threads."""
    return ConstantTileCache(lambda crops: _predict(session, crops, batch, probabilities))


def _without_background(
    pieces: Sequence[_Piece],
    session: Session,
    padded: Sequence[PixelArray],
    results: Sequence[Segmentation],
    spared: list[int],
    constant_tiles: ConstantTileCache,
) -> list[_Piece]:
    """Fill in what is constant, count its pixels, and return what is left to read."""
    left = []
    for piece in pieces:
        read, write = piece.tile.read, piece.tile.write
        crop = padded[piece.image][:, *read.slices()]
        found = find_background(crop, session.model.metadata.tiling, whole_only=session.fixed_shapes)
        if found is None:
            left.append(piece)
            continue
        _paste(constant_tiles.get(found.value, crop), piece.tile, results[piece.image])
        spared[piece.image] += write.area
        if found.foreground is None:
            continue
        rest = found.foreground.write.moved(read.y0, read.x0).common(write)
        if rest is not None:
            spared[piece.image] -= rest.area
            left.append(_Piece(piece.image, Tile(found.foreground.read.moved(read.y0, read.x0), rest)))
    return left


def _paste(output: Segmentation, tile: Tile, result: Segmentation) -> None:
    """Keep what counts of a tile's output."""
    inner = tile.write.relative_to(tile.read).slices()
    result.labels[tile.write.slices()] = output.labels[inner]
    if result.probabilities is not None and output.probabilities is not None:
        result.probabilities[:, *tile.write.slices()] = output.probabilities[:, *inner]
    if result.votes is not None and output.probabilities is not None:
        put_votes(result.votes[:, *tile.write.slices()], output.probabilities[:, *inner])


def _pad(image: PixelArray, stride: int) -> PixelArray:
    """(C, H, W), padded to multiples of the stride."""
    return np.moveaxis(pad_to_stride(np.moveaxis(image, 0, -1), stride), -1, 0)


def _batches(pieces: Sequence[_Piece], batch: int) -> Iterator[Sequence[_Piece]]:
    """Consecutive pieces whose tiles have one shape, at most `batch` of them."""
    for _, alike in itertools.groupby(pieces, key=lambda piece: piece.tile.read.shape):
        same = list(alike)
        for start in range(0, len(same), batch):
            yield same[start : start + batch]


def _predict(session: Session, crops: PixelArray, batch: int, probabilities: bool) -> list[Segmentation]:
    """The network's output for each crop; a short batch is filled up where shapes must stay the same."""
    count = len(crops)
    if session.fixed_shapes and count < batch:
        crops = np.concatenate([crops, np.repeat(crops[-1:], batch - count, axis=0)])
    if not probabilities:
        return [Segmentation(labels=labels) for labels in session.predict(crops)[:count]]
    labels, likelihoods = session.predict_with_probabilities(crops)
    pairs = zip(labels[:count], likelihoods[:count], strict=True)
    return [Segmentation(labels=each, probabilities=likely) for each, likely in pairs]


def scaled_probabilities(segmentation: Segmentation) -> NDArray[np.uint8]:
    """(K, H, W) probabilities from 0..1 to 0..255."""
    assert segmentation.probabilities is not None, "they were not asked for"
    return np.rint(segmentation.probabilities * 255).astype(np.uint8)
