"""Connected regions and boundaries of one slice of labels, counted.

What the counts mean in lengths is decided in `stereology`: it depends on the voxel size, which may become known later.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.records import ClassRegions, Connectivity, SliceRegions
from matseg_shared.errors import MissingExtraError

MOST_CLASSES = 255
DEFAULT_CONNECTIVITY: Connectivity = 8
"""As Fiji's particle analysis and scikit-image have it."""
_UNLABELLED = 255
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

    Returns:
        Whole numbers in pixels.

    Raises:
        TooManyClassesError: more than 255 values.
    """
    from skimage import measure

    values, dense = _dense(labels, unlabelled)
    gaps = dense == _UNLABELLED if unlabelled is not None and (dense == _UNLABELLED).any() else None
    label: Any = measure.label  # untyped
    regions: NDArray[np.integer] = label(
        dense, background=_UNLABELLED, connectivity=1 if connectivity == 4 else 2
    )
    count = int(regions.max(initial=0))
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    owner = np.zeros(count + 1, np.uint8)
    owner[regions] = dense  # all pixels of a region say the same
    at_edge = np.zeros(count + 1, np.bool_)
    at_edge[_cut_off(regions, gaps)] = True
    return SliceRegions(
        connectivity=connectivity,
        pairs=_pairs(labels.shape, gaps),
        classes=tuple(
            _class_regions(value, dense == number, areas, owner[1:] == number, at_edge[1:], gaps)
            for number, value in enumerate(values)
        ),
    )


def _dense(labels: NDArray[np.integer], unlabelled: int | None) -> tuple[Sequence[int], NDArray[np.uint8]]:
    """The values that occur, and each pixel's position among them."""
    if labels.dtype.kind == "u" and labels.dtype.itemsize <= 2:
        found = np.flatnonzero(np.bincount(labels.ravel()))
    else:
        found = np.unique(labels)
    values = [value for value in found.tolist() if value != unlabelled]
    if len(values) > MOST_CLASSES:
        raise TooManyClassesError(f"{len(values)} values")
    if found.size == 0 or found[-1] <= _LARGEST_TABLE:
        table = np.full(int(found.max(initial=0)) + 1, _UNLABELLED, np.uint8)
        table[values] = np.arange(len(values))
        return values, table[labels]
    numbers = np.array(
        [_UNLABELLED if value == unlabelled else values.index(value) for value in found.tolist()]
    )
    return values, numbers.astype(np.uint8)[np.searchsorted(found, labels)]


def _cut_off(regions: NDArray[np.integer], gaps: NDArray[np.bool_] | None) -> NDArray[np.integer]:
    """Numbers of the regions that go on where nobody has looked."""
    frame = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    if gaps is None:
        return np.unique(frame)
    beside = [frame]
    for first, second in _NEIGHBOURS[:2]:
        one, other = regions[first], regions[second]
        beside += [one[other == 0], other[one == 0]]
    return np.unique(np.concatenate(beside))


def _pairs(shape: tuple[int, ...], gaps: NDArray[np.bool_] | None) -> tuple[int, int, int, int]:
    if gaps is None:
        height, width = shape
        diagonal = (height - 1) * (width - 1)
        return height * (width - 1), (height - 1) * width, diagonal, diagonal
    return _counted(lambda first, second: ~(gaps[first] | gaps[second]))


def _counted(
    found: Callable[[tuple[slice, slice], tuple[slice, slice]], NDArray[np.bool_]],
) -> tuple[int, int, int, int]:
    """Pairs of neighbours for which `found` is true, along each direction."""
    along, down, falling, rising = (int(np.count_nonzero(found(*pair))) for pair in _NEIGHBOURS)
    return along, down, falling, rising


def _class_regions(
    value: int,
    mask: NDArray[np.bool_],
    areas: NDArray[np.integer],
    mine: NDArray[np.bool_],
    at_edge: NDArray[np.bool_],
    gaps: NDArray[np.bool_] | None,
) -> ClassRegions:
    sizes, numbers = np.unique(areas[mine & ~at_edge], return_counts=True)
    return ClassRegions(
        value=value,
        pixels=int(areas[mine].sum()),
        regions=int(np.count_nonzero(mine)),
        at_edge=int(np.count_nonzero(mine & at_edge)),
        crossings=_crossings(mask, gaps),
        sizes=tuple(zip(sizes.tolist(), numbers.tolist(), strict=True)),
    )


def _crossings(mask: NDArray[np.bool_], gaps: NDArray[np.bool_] | None) -> tuple[int, int, int, int]:
    if gaps is None:
        return _counted(lambda first, second: mask[first] != mask[second])
    return _counted(lambda first, second: (mask[first] != mask[second]) & ~(gaps[first] | gaps[second]))
