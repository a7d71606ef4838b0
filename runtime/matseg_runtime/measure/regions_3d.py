"""Connected regions of a whole volume of labels, block by block.

Memory depends on the size of a slice, not on how many there are: of the regions, those are kept that reach the last
slice so far, and of all others how many there are of each size.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.measure.blocks_3d import (
    BYTES_PER_VOXEL,
    BlockRegions,
    Crossings,
    Regions,
    measure_block,
)
from matseg_runtime.measure.label_input import as_labels
from matseg_runtime.measure.regions import UNLABELLED_NUMBER, class_numbers
from matseg_runtime.records import Connectivity
from matseg_runtime.source.base import Source
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import ImageError, UsageError

MEMORY = 3 << 29
"""Bytes that blocks may take while they are measured, all threads together."""
_SHALLOWEST, _DEEPEST = 4, 64
"""Slices of a block, the next one's first included: with fewer too much is done twice, more gain nothing."""
_Block = tuple[int, list[NDArray[np.uint8]], bool]
"""Place of the first slice, all that are measured together with the next block's first behind them, is it the last?"""


@dataclass(slots=True, kw_only=True)
class ClassTotals:
    """One class in the whole volume."""

    regions: int = 0
    at_border: int = 0
    voxels: int = 0
    largest: int = 0
    """Voxels of its largest region, wherever that lies."""
    sizes: Counter[int] = field(default_factory=Counter)
    """Voxels to number of regions, of those that are not at the border."""

    def add(self, regions: Regions) -> None:
        """Count regions of the class."""
        if not len(regions):
            return
        self.regions += len(regions)
        self.at_border += int(np.count_nonzero(regions.at_border))
        self.voxels += int(regions.voxels.sum())
        self.largest = max(self.largest, int(regions.voxels.max()))
        sizes, numbers = np.unique(regions.voxels[~regions.at_border], return_counts=True)
        self.sizes.update(dict(zip(sizes.tolist(), numbers.tolist(), strict=True)))


@dataclass(slots=True, kw_only=True, eq=False)
class VolumeTotals:
    """All classes of a volume."""

    classes: tuple[ClassTotals, ...]
    pairs: NDArray[np.int64]
    """See `BlockRegions`."""
    crossings: NDArray[np.int64]


def measure_volume(
    slices: Iterable[NDArray[np.uint8]],
    classes: int,
    *,
    depth: int,
    connectivity: Connectivity,
    crossings: Crossings,
    workers: int,
    finished: Callable[[Regions], None],
    progress: Progress = SILENT,
) -> VolumeTotals:
    """Measure slices, (H, W) class numbers below `classes` or `UNLABELLED_NUMBER` each, as one volume.

    Results do not depend on `depth`, the slices of a block, or on `workers`, the blocks that are measured at a time.
    `finished` gets the regions that end, in the order of their last slices, then of their first voxels.
    """
    totals = VolumeTotals(
        classes=tuple(ClassTotals() for _ in range(classes)),
        pairs=np.zeros(len(crossings.areas), np.int64),
        crossings=np.zeros((classes, len(crossings.areas)), np.int64),
    )

    def count(regions: Regions) -> None:
        for number, of_class in enumerate(totals.classes):
            of_class.add(regions.take(regions.owner == number))
        finished(regions)

    def measure(block: _Block) -> BlockRegions:
        start, together, is_last = block
        return measure_block(
            np.stack(together),
            start=start,
            is_last=is_last,
            classes=classes,
            connectivity=connectivity,
            areas=crossings.areas,
        )

    volume = _Volume(count)
    for found in _side_by_side(measure, _blocks(slices, depth), workers):
        totals.pairs += found.pairs
        totals.crossings += found.crossings
        volume.add(found)
        progress.advance(found.slices)
    return totals


def plan_blocks(size: int, workers: int) -> tuple[int, int]:
    """Slices of a block, of so many pixels each, and how many blocks `MEMORY` allows to be measured at a time."""
    most = MEMORY // (BYTES_PER_VOXEL * size)
    workers = max(1, min(workers, most // _SHALLOWEST))
    return max(1, min(_DEEPEST, most // workers - 1)), workers


def _blocks(slices: Iterable[NDArray[np.uint8]], depth: int) -> Iterator[_Block]:
    """Blocks of `depth` slices; the last has what is left."""
    start, held = 0, list[NDArray[np.uint8]]()
    for item in slices:
        held.append(item)
        if len(held) > depth:
            yield start, held, False
            start, held = start + depth, [item]
    yield start, held, True


def _side_by_side(
    work: Callable[[_Block], BlockRegions], blocks: Iterable[_Block], workers: int
) -> Iterator[BlockRegions]:
    """Results in order; so many at work, and one waiting."""
    waiting: deque[Future[BlockRegions]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Volume:
    """The regions of a volume that go on in the next block."""

    def __init__(self, finished: Callable[[Regions], None]) -> None:
        self._finished = finished
        self._open: Regions | None = None
        self._bottom: NDArray[np.int32] | None = None
        """(H, W) region of each pixel of the slice that the next block begins with, from 1; 0 where it has no label."""

    def add(self, block: BlockRegions) -> None:
        """Join the next block's regions to those that go on, and hand out those that end."""
        regions = block.regions if self._open is None else self._open.with_others(block.regions)
        before = len(regions) - len(block.regions)
        group = np.arange(len(regions))
        if self._bottom is not None:
            labelled = np.flatnonzero(block.top)
            above = self._bottom.ravel()[labelled].astype(np.int64) - 1
            below = block.top.ravel()[labelled].astype(np.int64) + (before - 1)
            changes = np.ones(labelled.size, np.bool_)  # pairs that are not the same as the last
            changes[1:] = (np.diff(above) != 0) | (np.diff(below) != 0)
            group = _connected(len(regions), above[changes], below[changes])
        roots = group == np.arange(len(regions))
        group = (np.cumsum(roots) - 1)[group]
        regions = regions.merged(group, int(np.count_nonzero(roots)))
        goes_on = np.zeros(len(regions), np.bool_)
        if block.bottom is not None:
            number = np.zeros(len(block.regions) + 1, np.int64)
            number[1:] = group[before:] + 1
            bottom = number[block.bottom]
            goes_on[bottom[bottom > 0] - 1] = True
            among_open = np.zeros(len(regions) + 1, np.int32)
            among_open[1:] = np.cumsum(goes_on)
            self._bottom = among_open[bottom]
        self._open = regions.take(goes_on)
        ended = regions.take(~goes_on)
        self._finished(ended.take(np.lexsort((ended.first, ended.last))))


def _connected(count: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count,) the smallest number that each number is connected with, over pairs of one and another number."""
    parent = np.arange(count)
    while True:
        first, second = parent[one], parent[other]
        if not (apart := first != second).any():
            return parent
        one, other = one[apart], other[apart]
        low, high = np.minimum(first[apart], second[apart]), np.maximum(first[apart], second[apart])
        np.minimum.at(parent, high, low)
        while not np.array_equal(up := parent[parent], parent):
            parent = up


def dense_slices(
    source: Source, values: Sequence[int], excluded: frozenset[int]
) -> Iterator[NDArray[np.uint8]]:
    """(H, W) class numbers of each slice.

    Args:
        source: labels.
        values: those that are classes, ascending; all others have no label.
        excluded: places of slices that have none.

    Raises:
        UsageError: slices differ in shape, or can no longer be read.
    """
    shape: tuple[int, ...] | None = None
    missing = 0
    for item in source.slices:
        if item.index in excluded:
            missing += 1
            continue
        try:
            stored = source.read(item.index, item.index + 1)[0]
        except ImageError as error:
            raise UsageError(f"{error}; it could be read before") from error
        dense = class_numbers(as_labels(stored, item.where), values)
        shape = shape or dense.shape
        if dense.shape != shape:
            raise UsageError(
                f"{item.where}: expected a slice of {shape[0]} x {shape[1]} pixels, as those before, found "
                f"{dense.shape[0]} x {dense.shape[1]}; regions in three dimensions need slices of one shape"
            )
        yield from (np.full(shape, UNLABELLED_NUMBER, np.uint8) for _ in range(missing))
        missing = 0
        yield dense
    assert shape is not None, "some slices can be read"
    yield from (np.full(shape, UNLABELLED_NUMBER, np.uint8) for _ in range(missing))
