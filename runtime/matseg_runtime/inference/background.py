"""A constant background needs no network: where all that it can see is one value, a constant tile has its output.

```
 +- tile, constant outside the content ---+     content  all that differs from the value in the tile's corner
 |  +- read ---------------------------+  |     write    the content grown by the halo: labels that can depend on it
 |  |  +- write --------------------+  |  |     read     grown by the halo again: what those labels depend on
 |  |  |        +- content -+       |  |  |
 |  |  |        +-----------+       |  |  |     Outside `write` the labels are those of a constant tile of the same
 |  |  +----------------------------+  |  |     shape, which the network is asked for once. A tile that is all
 |  +----------------------------------+  |     constant needs nothing else.
 +----------------------------------------+
```

So it is exact for the reason that tiling is: the halo is measured, and cuts lie on the stride grid.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.session import Segmentation
from matseg_shared.contract.metadata import TilingInfo
from matseg_shared.contract.tiling import Box, Tile, padded_length
from matseg_shared.images.read import PixelArray

_TILES_KEPT = 2
"""A scan has one background, and its tiles have few shapes; each takes the memory of a tile's labels."""
_WORTH = 0.75
"""Share of a tile's pixels, or less, for which reading only the content pays."""
_STEPS = 8
"""Lengths of what is read are multiples of this fraction of a tile's: each shape costs onnxruntime a memory plan."""


class ConstantTileCache:
    """The network's outputs for constant tiles, each computed when it is first needed; for several threads."""

    def __init__(self, predict: Callable[[PixelArray], Sequence[Segmentation]]) -> None:
        """Remember the network, which gives the outputs of (N, C, H, W) pixels."""

        @functools.lru_cache(maxsize=_TILES_KEPT)
        def output(value: bytes, shape: tuple[int, ...], dtype: str) -> Segmentation:
            constant = np.broadcast_to(np.frombuffer(value, dtype)[:, None, None], shape)
            return predict(np.ascontiguousarray(constant)[np.newaxis])[0]

        self._output = output
        self._lock = threading.Lock()

    def get(self, value: PixelArray, tile: PixelArray) -> Segmentation:
        """The output for a tile of (C,) `value`, with the shape and dtype of a (C, H, W) `tile`."""
        with self._lock:  # nobody asks the network for what another thread is asking it for
            return self._output(value.tobytes(), tile.shape, tile.dtype.str)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Background:
    """The constant part of a tile."""

    value: PixelArray
    """(C,) raw pixel."""
    foreground: Tile | None
    """The part that the network must still read and label, within the tile; None: nothing."""


def find_background(tile: PixelArray, tiling: TilingInfo, *, whole_only: bool) -> Background | None:
    """Look for a constant background that spares the network work.

    Args:
        tile: (C, H, W) raw pixels, H and W multiples of the stride.
        tiling: stride and halo of the model.
        whole_only: take wholly constant tiles only, since each new shape costs the provider much.

    Returns:
        None where the network should read the whole tile.
    """
    for value in _edge_values(tile):
        differs = (tile != value[:, np.newaxis, np.newaxis]).any(axis=0)
        if not differs.any():
            return Background(value=value, foreground=None)
        if whole_only:
            continue
        rows, columns = (_ranges(differs.any(axis=axis), tiling) for axis in (1, 0))
        read, write = (Box(y[0], x[0], y[1], x[1]) for y, x in zip(rows, columns, strict=True))
        if read.area <= _WORTH * differs.size:
            return Background(value=value, foreground=Tile(read=read, write=write))
    return None


def _edge_values(tile: PixelArray) -> list[PixelArray]:
    """Values that fill a whole edge of the tile; a quick look that ends the search for most tiles."""
    return [
        tile[:, end, end]
        for end in (0, -1)
        if any((edge == tile[:, end, end, np.newaxis]).all() for edge in (tile[:, end], tile[:, :, end]))
    ]


def _ranges(differs: NDArray[np.bool_], tiling: TilingInfo) -> tuple[tuple[int, int], tuple[int, int]]:
    """(read, write) along one axis, around all that differs; what is read has one of few lengths."""
    length, stride = len(differs), tiling.stride
    places = np.flatnonzero(differs)
    start, stop = int(places[0]) // stride * stride, padded_length(int(places[-1]) + 1, stride)
    write = max(start - tiling.halo, 0), min(stop + tiling.halo, length)
    start, stop = max(write[0] - tiling.halo, 0), min(write[1] + tiling.halo, length)
    step = padded_length(-(-length // _STEPS), stride)
    wide = min(-(-(stop - start) // step) * step, length)
    start = min(start, length - wide)
    return (start, start + wide), write
