"""What needs no network: where all that it can see is one value, its answer is known from a constant tile.

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

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.session import Labels, Probabilities
from matseg_shared.contract.metadata import TilingInfo
from matseg_shared.contract.tiling import Box, Tile, padded_length

PixelArray = NDArray[Any]
_ANSWERS_KEPT = 2
"""A scan has one background, and its tiles have few shapes; each answer takes the memory of a tile's labels."""
_WORTH = 0.75
"""Share of a tile's pixels, or less, for which reading only the content pays."""
_STEPS = 8
"""Lengths of what is read are multiples of this fraction of a tile's: each shape costs onnxruntime a memory plan."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConstantTile:
    """The network's output for a tile of one value."""

    labels: Labels
    """(H, W) uint8."""
    probabilities: Probabilities | None
    """(K, H, W) float32, when asked for."""


class ConstantTileCache:
    """The network's outputs for constant tiles, each computed when it is first needed; for several threads."""

    def __init__(self, predict: Callable[[PixelArray], tuple[Labels, Probabilities | None]]) -> None:
        """Remember how to ask.

        Args:
            predict: gives (N, H, W) labels and, when asked for, (N, K, H, W) probabilities of (N, C, H, W) pixels.
        """
        self._predict = predict
        self._known: OrderedDict[tuple[bytes, tuple[int, ...]], ConstantTile] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, value: PixelArray, tile: PixelArray) -> ConstantTile:
        """For a tile of one value.

        Args:
            value: (C,) raw pixel.
            tile: (C, H, W), of which only shape and dtype are taken.
        """
        key = (value.tobytes(), tile.shape)
        with self._lock:
            if key not in self._known:
                constant = np.ascontiguousarray(np.broadcast_to(value[:, None, None], tile.shape))
                labels, probabilities = self._predict(constant[np.newaxis])
                self._known[key] = ConstantTile(
                    labels=labels[0], probabilities=None if probabilities is None else probabilities[0]
                )
                if len(self._known) > _ANSWERS_KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surrounded:
    """A tile with little or nothing on a constant ground."""

    value: PixelArray
    """(C,) of the ground."""
    rest: Tile | None
    """What the network must read and label yet, within the tile; None: nothing."""


def surrounded(tile: PixelArray, tiling: TilingInfo, *, whole_only: bool) -> Surrounded | None:
    """Look for a constant ground that spares the network work.

    Args:
        tile: (C, H, W) raw pixels, H and W multiples of the stride.
        tiling: stride and halo of the model.
        whole_only: take wholly constant tiles only, since each new shape costs the provider much.

    Returns:
        None where the network should read the whole tile.
    """
    for value in _grounds(tile):
        content = _content(tile, value, tiling.stride)
        if content is None:
            return Surrounded(value=value, rest=None)
        if whole_only:
            continue
        halo = padded_length(tiling.halo, tiling.stride) if tiling.halo else 0
        write = _grown(content, halo, tile)
        read = _rounded(_grown(write, halo, tile), tiling.stride, tile)
        if read.shape[0] * read.shape[1] <= _WORTH * tile.shape[1] * tile.shape[2]:
            return Surrounded(value=value, rest=Tile(read=read, write=write))
    return None


def _grounds(tile: PixelArray) -> list[PixelArray]:
    """Values that fill a whole edge of the tile; a quick look that ends the search for most tiles."""
    found = []
    for corner, edges in (
        (tile[:, 0, 0], (tile[:, 0], tile[:, :, 0])),
        (tile[:, -1, -1], (tile[:, -1], tile[:, :, -1])),
    ):
        if any((edge == corner[:, np.newaxis]).all() for edge in edges):
            found.append(corner)
    return found


def _content(tile: PixelArray, value: PixelArray, stride: int) -> Box | None:
    """The smallest box on the stride grid with everything that differs from a value; None where nothing does."""
    differs = (tile != value[:, np.newaxis, np.newaxis]).any(axis=0)
    rows = np.flatnonzero(differs.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(differs.any(axis=0))
    y0, x0 = (int(places[0]) // stride * stride for places in (rows, columns))
    y1, x1 = (padded_length(int(places[-1]) + 1, stride) for places in (rows, columns))
    return Box(y0, x0, y1, x1)


def _grown(box: Box, margin: int, tile: PixelArray) -> Box:
    """Wider by a margin on all sides, within the tile."""
    height, width = tile.shape[1:]
    return Box(
        max(box.y0 - margin, 0),
        max(box.x0 - margin, 0),
        min(box.y1 + margin, height),
        min(box.x1 + margin, width),
    )


def _rounded(box: Box, stride: int, tile: PixelArray) -> Box:
    """Wider, to one of few shapes; a box on the stride grid stays on it."""
    y0, y1 = _rounded_range(box.y0, box.y1, stride, tile.shape[1])
    x0, x1 = _rounded_range(box.x0, box.x1, stride, tile.shape[2])
    return Box(y0, x0, y1, x1)


def _rounded_range(start: int, stop: int, stride: int, length: int) -> tuple[int, int]:
    step = padded_length(-(-length // _STEPS), stride)
    wide = min(-(-(stop - start) // step) * step, length)
    start = min(start, length - wide)
    return start, start + wide
