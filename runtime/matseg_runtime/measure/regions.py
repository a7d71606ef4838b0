"""Connected regions and boundaries of one slice of labels, counted.

What the counts mean in lengths is decided in `stereology`: it depends on the voxel size, which may become known later.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
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
_ALL, _FIRST, _LAST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBOURS = (
    ((_ALL, _FIRST), (_ALL, _LAST)),
    ((_FIRST, _ALL), (_LAST, _ALL)),
    ((_FIRST, _FIRST), (_LAST, _LAST)),
    ((_FIRST, _LAST), (_LAST, _FIRST)),
)
"""Both partners of every pair of neighbours: along rows, columns, falling and rising diagonals."""


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
    from skimage import measure

    values, dense = _dense(labels, unlabelled)
    label: Any = measure.label  # untyped
    regions: NDArray[np.integer] = label(
        dense, background=UNLABELLED_NUMBER, connectivity=1 if connectivity == 4 else 2
    )
    areas = np.bincount(regions.ravel(), minlength=1)
    owner = np.full(areas.size, UNLABELLED_NUMBER, np.uint8)
    owner[regions] = dense  # all pixels of a region say the same
    at_edge = _goes_on(regions, areas)
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


def _goes_on(regions: NDArray[np.integer], areas: NDArray[np.integer]) -> NDArray[np.bool_]:
    """True for the numbers of the regions that touch the frame, or a pixel without a label (region 0)."""
    cut = [regions[0], regions[-1], regions[:, 0], regions[:, -1]]
    if areas[0]:
        for first, second in _NEIGHBOURS[:2]:
            one, other = regions[first], regions[second]
            cut += [one[other == 0], other[one == 0]]
    found = np.zeros(areas.size, np.bool_)
    found[np.concatenate(cut)] = True
    return found


def _boundaries(dense: NDArray[np.uint8], classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(4,) labelled pairs of neighbours along each direction; (classes, 4) those between a class and another."""
    labelled = dense != UNLABELLED_NUMBER
    known = [labelled[first] & labelled[second] for first, second in _NEIGHBOURS]
    crossings = np.zeros((classes, 4), np.int64)
    for number in range(classes):
        mask = dense == number
        for direction, (first, second) in enumerate(_NEIGHBOURS):
            crossings[number, direction] = np.count_nonzero((mask[first] != mask[second]) & known[direction])
    return np.array([np.count_nonzero(both) for both in known]), crossings
