"""What one tile costs on this machine, measured before a job is planned."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from matseg_runtime.inference.session import Session
from matseg_shared.contract.tiling import padded_length
from matseg_shared.system.machine import peak_memory, reset_peak_memory, used_memory

_EDGE = 512
"""Pixels: large enough for the cost per pixel to be that of larger tiles, small enough to take little time."""
_SMALL_EDGE = 128
"""Pixels of a first try, which tells whether the larger one fits."""
_LEAST_BYTES_PER_PIXEL = 64
_SPARE = 1.25
"""The allocator rounds up, and does so differently for each shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The cost of one tile's pixels in one stream."""

    bytes_per_pixel: float
    seconds_per_pixel: float
    base: int
    """Bytes this process holds apart from tiles: interpreter, libraries, weights."""

    def tile_bytes(self, pixels: int) -> int:
        """Memory that the network takes for so many pixels at a time."""
        return int(self.bytes_per_pixel * pixels * _SPARE)


def probe(session: Session, shape: tuple[int, int], budget: int) -> Probe:
    """Run the network on pieces of the self-test's image, repeated to the size of a tile.

    Args:
        session: its allocator keeps what it has taken, as in a job.
        shape: (H, W) of the slices in pixels; no more than that is tried.
        budget: bytes that the job may take; the probe keeps to it too.
    """
    session.predict(session.model.self_test.image[:1])
    base = used_memory()
    found = _measure(session, shape, _SMALL_EDGE, base)
    large = _padded(session, shape, _EDGE)
    if base + found.tile_bytes(large[0] * large[1]) < budget:
        found = _measure(session, shape, _EDGE, base)
    return found


def _measure(session: Session, shape: tuple[int, int], edge: int, base: int) -> Probe:
    rows, columns = _padded(session, shape, edge)
    sample = session.model.self_test.image[:1]
    repeats = (1, 1, -(-rows // sample.shape[2]), -(-columns // sample.shape[3]))
    tile = np.ascontiguousarray(np.tile(sample, repeats)[:, :, :rows, :columns])
    before = base if reset_peak_memory() else peak_memory()
    session.predict(tile)
    growth = peak_memory() - before
    started = time.perf_counter()
    session.predict(tile)
    seconds = time.perf_counter() - started
    pixels = rows * columns
    return Probe(
        bytes_per_pixel=max(growth / pixels, _LEAST_BYTES_PER_PIXEL),
        seconds_per_pixel=seconds / pixels,
        base=base,
    )


def _padded(session: Session, shape: tuple[int, int], edge: int) -> tuple[int, int]:
    stride = session.model.metadata.tiling.stride
    rows, columns = (padded_length(min(length, edge), stride) for length in shape)
    return rows, columns
