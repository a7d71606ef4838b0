"""Uncertainty of a model on a slice: where a person's label would teach it most.

A network is unsure of the pixels along every boundary, right or wrong: of a sharp boundary two or three pixels wide, a
person could not say better. What is worth a label is a *place* of which it is unsure. So the confidence (probability of
the best class) is averaged over 9 x 9 pixels, in which a boundary drowns and a doubtful grain does not; a pixel whose
average is below 0.8 lies in a doubtful place. The **score** of a slice is the share of its pixels that do. Where scores
are equal, as among slices without any such place, the **unsureness** decides, the mean of one minus the confidence.

Confidence is taken in 255ths, as `--probabilities` stores it, and everything after that is counted in whole numbers:
scores are the same with any tiles, and an int8 model, whose probabilities have no more than 256 levels anyhow, is
ranked as finely as another, since a score counts many pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.records import CropScore, SliceUncertainty

LEAST_CONFIDENCE = 0.8
"""On average over a neighbourhood; below it is a doubtful place."""
NEIGHBOURHOOD = 9
"""Its edge in pixels."""
FULL = 255
"""Stands for the probability 1."""
_STEPS_PER_EDGE = 8
"""Crops begin at multiples of an eighth of their edge."""
Counts = NDArray[np.int64]


def unsureness(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W) one minus the probability of the best class, in 255ths; of (K, H, W) probabilities, 0 to 1."""
    confidence: NDArray[np.floating] = np.rint(probabilities.max(axis=0) * FULL)
    return (FULL - confidence).astype(np.uint8)


def doubtful_places(unsure: NDArray[np.uint8], absent: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """(H, W) whether the confidence around a pixel is below `LEAST_CONFIDENCE` on average.

    `unsure` is 0 where there are no data, which is where `absent` is true.
    """
    limit, reach = round((1 - LEAST_CONFIDENCE) * FULL), NEIGHBOURHOOD // 2
    sums = _around(unsure)
    if absent is not None:
        return (sums > limit * _around(~absent)) & ~absent
    # at the edges a neighbourhood has fewer rows and columns
    rows, columns = (_sums_of_nine(np.pad(np.ones(length, np.uint16), reach)) for length in unsure.shape)
    return sums > limit * rows[:, np.newaxis] * columns


def _around(values: NDArray[np.generic]) -> NDArray[np.uint16]:
    """(H, W) sums over the neighbourhood of each pixel."""
    padded = np.pad(values.astype(np.uint16), NEIGHBOURHOOD // 2)
    return _sums_of_nine(_sums_of_nine(padded).T).T


def _sums_of_nine(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Sums of nine consecutive rows each, in four additions; 81 times 255 is well within 16 bits."""
    two = values[:-1] + values[1:]
    four = two[:-2] + two[2:]
    eight = four[:-4] + four[4:]
    result: NDArray[np.uint16] = eight[:-1] + values[NEIGHBOURHOOD - 1 :]
    return result


def measure_uncertainty(
    probabilities: NDArray[np.floating],
    absent: NDArray[np.bool_] | None = None,
    *,
    edge: int | None = None,
    most: int = 0,
) -> SliceUncertainty:
    """Score a slice, and its most uncertain crops when they are asked for.

    Args:
        probabilities: (K, H, W), 0 to 1.
        absent: (H, W) where there are no data, of which nobody can be unsure; None: nowhere.
        edge: of a crop in pixels; one that is longer than the slice is cut to it; None: no crops.
        most: crops to find.
    """
    unsure = unsureness(probabilities)
    if absent is not None:
        unsure[absent] = 0
    doubtful = doubtful_places(unsure, absent)
    return SliceUncertainty(
        doubtful=int(np.count_nonzero(doubtful)),
        unsureness=int(unsure.sum(dtype=np.int64)),
        edge=edge,
        most=most,
        crops=() if edge is None else _crops(doubtful, unsure, edge, most),
    )


def _crops(
    doubtful: NDArray[np.bool_], unsure: NDArray[np.uint8], edge: int, most: int
) -> tuple[CropScore, ...]:
    """The best square, then the best of those that do not overlap it, and so on."""
    height, width = (min(edge, length) for length in unsure.shape)
    y, x = _starts(unsure.shape[0], height, edge), _starts(unsure.shape[1], width, edge)
    places, levels = (
        _sums_of_rows(_sums_of_rows(values, y, height).T, x, width).T for values in (doubtful, unsure)
    )
    key = places * (FULL * height * width + 1) + levels  # by places first, then by levels
    found: list[CropScore] = []
    while len(found) < most and key.max() >= 0:
        row, column = np.unravel_index(int(key.argmax()), key.shape)
        found.append(
            CropScore(
                y=int(y[row]),
                x=int(x[column]),
                doubtful=int(places[row, column]),
                unsureness=int(levels[row, column]),
            )
        )
        near = (np.abs(y - y[row]) < height)[:, np.newaxis] & (np.abs(x - x[column]) < width)
        key[near] = -1
    return tuple(found)


def _starts(length: int, crop: int, edge: int) -> Counts:
    """Starts of crops: on a grid, and flush with the far end."""
    step = max(1, edge // _STEPS_PER_EDGE)
    return np.unique(np.append(np.arange(0, length - crop + 1, step), length - crop)).astype(np.int64)


def _sums_of_rows(values: NDArray[np.generic], starts: Counts, length: int) -> Counts:
    """(M, W) sums of `length` rows of (H, W) from each of (M,) ascending `starts`, from 0 to H - `length`."""
    edges = np.union1d(starts, starts + length)
    parts = np.add.reduceat(values, edges[:-1], axis=0, dtype=np.int64)  # few rows, so few 64-bit numbers
    sums = np.concatenate([np.zeros_like(parts[:1]), parts.cumsum(axis=0)])
    result: Counts = sums[np.searchsorted(edges, starts + length)] - sums[np.searchsorted(edges, starts)]
    return result
