"""Single slices of a volume whose chunks hold several: each chunk is decoded once, not once per slice."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence

import numpy as np

from matseg_runtime.source.base import Source
from matseg_shared.errors import ImageError
from matseg_shared.images.channels import PixelArray

_LAYER_BYTES = 64 << 20
_LAYERS = 2
"""As many as threads read slices at a time."""


class SliceReader:
    """Reads a source slice by slice, in any order, by several threads; fastest where neighbours follow each other.

    The slices of a layer of chunks are read together, and the last two layers are kept, 128 MiB at most. Where a layer
    is larger, it is read in parts, and its chunks once for each.
    """

    def __init__(self, source: Source) -> None:
        self.source, self._lock, volume = source, threading.Lock(), source.volume
        self._depth = 1 if volume is None else volume.slices_per_chunk
        if volume is not None and self._depth > 1:
            plane = math.prod(volume.shape) // volume.shape[volume.axis] * volume.channels
            largest = max(_LAYER_BYTES // (plane * np.dtype(volume.dtype).itemsize), 1)
            self._depth = math.ceil(self._depth / math.ceil(self._depth / largest))
        self._layer = functools.lru_cache(maxsize=_LAYERS)(self._read_layer)

    def read(self, number: int) -> PixelArray:
        """(H, W) or (H, W, C) pixels of the slice at a position, in its stored dtype; an ImageError as the source's."""
        if self._depth > 1:
            place = self.source.first + number
            try:
                with self._lock:
                    return self._layer(place // self._depth)[number - self._begin(place // self._depth)]
            except ImageError:  # of this slice or of another one of its layer
                pass
        return self.source.read(number, number + 1)[0]

    def _begin(self, layer: int) -> int:
        """Position of its first slice; layers begin where chunks do, wherever a range of slices begins."""
        return max(layer * self._depth - self.source.first, 0)

    def _read_layer(self, layer: int) -> Sequence[PixelArray]:
        stop = (layer + 1) * self._depth - self.source.first
        return self.source.read(self._begin(layer), min(stop, len(self.source.slices)))
