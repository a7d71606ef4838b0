"""Connected regions and boundaries of one slice of labels, counted.

What the counts mean in lengths is decided in `stereology`: it depends on the voxel size, which may become known later.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.records import ClassRegions, Connectivity, SliceRegions
from matseg_shared.errors import MissingExtraError

MOST_CLASSES = 255
DEFAULT_CONNECTIVITY: Connectivity = 8
"""As Fiji's particle analysis and scikit-image have it."""
UNLABELLED_NUMBER = 255
"""Among the dense class numbers in this module; 0 to 254 are classes."""
_LARGEST_TABLE = 65535
_OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(row, column) steps to neighbours: along rows, columns, falling and rising diagonals."""


class TooManyClassesError(ValueError):
    """An array with more values than there can be classes."""


def require_scikit_image(purpose: str) -> None:
    """Find out before any work whether regions can be measured.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise MissingExtraError("quantify", purpose)


def measure_regions(
    labels: NDArray[np.integer], *, connectivity: Connectivity, unlabelled: int | None = None
) -> SliceRegions:
    """Count the regions and boundaries of every class of a slice.

    Args:
        labels: (H, W) class values, none of them negative.
        connectivity: which pixels belong together.
        unlabelled: value of pixels that have no class; None: there are none.

    Raises:
        TooManyClassesError: more than 255 values.
    """
    values, dense = _dense(labels, unlabelled)
    regions = numbered(dense, connectivity)
    areas = np.bincount(regions.ravel(), minlength=1)
    owner = np.full(areas.size, UNLABELLED_NUMBER, np.uint8)
    owner[regions] = dense  # all pixels of a region say the same
    at_edge = cut_off(regions, areas.size)
    pairs, crossings = _boundaries(dense, len(values))
    classes = []
    for number, value in enumerate(values):
        mine = owner == number
        sizes, numbers = np.unique(areas[mine & ~at_edge], return_counts=True)
        classes.append(
            ClassRegions(
                value=value,
                pixels=int(areas[mine].sum()),
                regions=int(np.count_nonzero(mine)),
                at_edge=int(np.count_nonzero(mine & at_edge)),
                crossings=tuple(crossings[number].tolist()),
                sizes=tuple(zip(sizes.tolist(), numbers.tolist(), strict=True)),
            )
        )
    return SliceRegions(connectivity=connectivity, pairs=tuple(pairs.tolist()), classes=tuple(classes))


def numbered(dense: NDArray[np.uint8], connectivity: Connectivity) -> NDArray[np.integer]:
    """The region of each pixel or voxel of class numbers, from 1; 0 where there is no label."""
    from skimage import measure

    label: Any = measure.label  # untyped
    numbers: NDArray[np.integer] = label(
        dense, background=UNLABELLED_NUMBER, connectivity=1 if connectivity == 4 else dense.ndim
    )
    return numbers


def _dense(labels: NDArray[np.integer], unlabelled: int | None) -> tuple[Sequence[int], NDArray[np.uint8]]:
    """The values that occur, and each pixel's position among them."""
    if labels.dtype.kind == "u" and labels.dtype.itemsize <= 2:
        found = np.flatnonzero(np.bincount(labels.ravel()))
    else:
        found = np.unique(labels)
    values = [value for value in found.tolist() if value != unlabelled]
    if len(values) > MOST_CLASSES:
        raise TooManyClassesError(f"{len(values)} values")
    return values, class_numbers(labels, values)


def class_numbers(labels: NDArray[np.integer], values: Sequence[int]) -> NDArray[np.uint8]:
    """The position of each pixel's value among ascending values, or `UNLABELLED_NUMBER`."""
    largest = int(labels.max(initial=0))
    values = [value for value in values if value <= largest]
    if not values:
        return np.full(labels.shape, UNLABELLED_NUMBER, np.uint8)
    if largest <= _LARGEST_TABLE:
        table = np.full(largest + 1, UNLABELLED_NUMBER, np.uint8)
        table[values] = np.arange(len(values))
        numbers: NDArray[np.uint8] = table[labels]
    else:
        known = np.array(values, labels.dtype)
        place = np.minimum(np.searchsorted(known, labels), len(values) - 1)
        numbers = np.where(known[place] == labels, place, UNLABELLED_NUMBER).astype(np.uint8)
    return numbers


def partners(offset: Iterable[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Both partners of every pair of neighbours at an offset of -1, 0 or 1 along each axis."""
    sides = {0: (slice(None), slice(None)), 1: (slice(None, -1), slice(1, None))}
    sides[-1] = sides[1][::-1]
    first, second = zip(*(sides[step] for step in offset), strict=True)
    return first, second


def cut_off(regions: NDArray[np.integer], count: int, ends: Sequence[int] = (0, -1)) -> NDArray[np.bool_]:
    """True for the numbers, below `count`, of the regions that touch the frame, or what has no label (region 0).

    Of the first axis only `ends`, 0 for the first layer and -1 for the last, belong to the frame.
    """
    found = np.zeros(count, np.bool_)
    has_gaps = not regions.all()
    for axis, step in enumerate(np.eye(regions.ndim, dtype=int)):
        for end in (0, -1) if axis else ends:
            found[np.take(regions, end, axis)] = True
        if has_gaps:
            one, other = (regions[side] for side in partners(step))
            found[one[other == 0]] = found[other[one == 0]] = True
    return found


def _boundaries(dense: NDArray[np.uint8], classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(4,) labelled pairs of neighbours along each direction; (classes, 4) those between a class and another."""
    labelled = dense != UNLABELLED_NUMBER
    sides = [partners(offset) for offset in _OFFSETS]
    known = [labelled[first] & labelled[second] for first, second in sides]
    crossings = np.zeros((classes, 4), np.int64)
    for number in range(classes):
        mask = dense == number
        for direction, (first, second) in enumerate(sides):
            crossings[number, direction] = np.count_nonzero((mask[first] != mask[second]) & known[direction])
    return np.array([np.count_nonzero(both) for both in known]), crossings
