"""Pictures for the page, taken of slices while they pass through a run, so that few of them are read again.

The evenly spread slices are known from the start; which ones stand out is known at the end only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.measure.phase_fractions import binned
from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Result
from matseg_runtime.source.transform import Absent
from matseg_shared.errors import UsageError
from matseg_shared.images.channels import to_shown
from matseg_shared.images.read import PixelArray
from matseg_shared.pages.pictures import shrink, shrink_labels

if TYPE_CHECKING:
    from matseg_runtime.run.setup import Run

EDGES = (1024, 768, 560, 400, 280)
"""Longer edge of a picture in pixels; the first at which all pictures fit the page. The largest is for slices that
need not be shrunk for it."""
SPREAD = 24
"""Slices evenly spread from the first to the last."""
MOST = 40
"""Slices in all: what one looks at in a sitting, and what keeps a page light."""
_MEMORY = 64 << 20
"""Bytes that all pictures may take; those beyond are read again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thumbnail:
    """A slice at the largest size that a page may show."""

    image: PixelArray
    """(h, w) or (h, w, 3) of the stored pixels."""
    labels: NDArray[np.uint8] | None
    """(h, w) class indices; None: not labelled yet."""
    bins: NDArray[np.float64]
    """Pixels of the whole slice in each bin of the training histogram, as the model sees them."""
    pixels: int
    """Pixels of the whole slice with data."""
    identity: str
    """Identity of the slice's file when it was read."""


class Thumbnails:
    """The evenly spread slices of a run, as far as memory allows; several threads may use it at a time."""

    def __init__(self, run: Run, show: Sequence[int]) -> None:
        """Take none yet; `show` as `to_shown` has it."""
        self.edge = edges_for([run.plan.shape])[0]
        self._wanted = frozenset(evenly_spread(len(run.source.slices)))
        self._histogram = run.metadata.input.histogram
        self._show = show
        self._taken: dict[str, Thumbnail] = {}
        self._free = _MEMORY
        self._lock = threading.Lock()

    def take(self, result: Result, stored: PixelArray, image: PixelArray) -> None:
        """Keep a picture of a slice that has been read, if it is one of them.

        Args:
            result: of the slice, before inference.
            stored: (H, W) or (H, W, C) pixels as they are stored.
            image: (C, H, W) as the model sees them.
        """
        if result.slice.index not in self._wanted:
            return
        try:
            picture = np.array(picture_of(stored, result.absent, self._show, self.edge))
        except UsageError:  # of --show; the page says so
            return
        with self._lock:
            self._free -= picture.nbytes + picture.shape[0] * picture.shape[1]
            if self._free < 0:
                return
        data = image if result.absent is None else image[:, ~result.absent]
        self._taken[result.slice.name] = Thumbnail(
            image=picture,
            labels=None,
            bins=binned(data, self._histogram),
            pixels=data.size,
            identity=result.identity,
        )

    def add_labels(self, results: Iterable[Result]) -> None:
        """Keep the labels of those that were taken."""
        for result in results:
            taken = self._taken.get(result.slice.name)
            if taken is not None and result.segmentation is not None:
                labels = np.array(shrink_labels(result.segmentation.labels, self.edge))
                self._taken[result.slice.name] = replace(taken, labels=labels)

    def get(self, record: SliceRecord, edge: int) -> Thumbnail | None:
        """The picture of a labelled slice, with its labels, where it was taken at that size; else None."""
        taken = self._taken.get(record.name)
        fits = taken is not None and taken.labels is not None and taken.identity == record.identity
        return taken if fits and edge == self.edge else None


def edges_for(shapes: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Longer edges of pictures that may be tried for slices of these (H, W) shapes, the largest first."""
    return EDGES if all(max(shape) <= EDGES[0] for shape in shapes) else EDGES[1:]


def evenly_spread(count: int) -> list[int]:
    """Positions, of `count`, that a page shows whatever is in them."""
    free = min(count, MOST if count <= MOST else SPREAD)
    return [round(step * (count - 1) / max(1, free - 1)) for step in range(free)]


def picture_of(stored: PixelArray, absent: Absent | None, show: Sequence[int], edge: int) -> PixelArray:
    """(h, w) or (h, w, 3) picture, no larger than `edge`, of stored pixels.

    Args:
        stored: (H, W) or (H, W, C).
        absent: (H, W) where there are no data, shown as the darkest of the data; None: nowhere.
        show: see `to_shown`.
        edge: in pixels.

    Raises:
        UsageError: there is no channel that is to be shown.
    """
    shown = to_shown(stored, show)
    if absent is not None:
        data = shown[~absent]
        shown = np.array(shown)
        shown[absent] = data.min() if data.size else 0
    return shrink(shown, edge)
