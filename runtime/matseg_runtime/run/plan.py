"""Plan of how a job is cut up: blocks of slices, tiles, streams and threads, so that memory stays within its limit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.votes import TOGETHER
from matseg_runtime.run.neighbours import kept_blocks
from matseg_runtime.run.pipeline import WorkerCounts
from matseg_runtime.source.base import Source, Volume
from matseg_runtime.units import format_size
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.contract.tiling import padded_length, plan_tiles, smallest_tile
from matseg_shared.errors import UsageError
from matseg_shared.system.machine import available_memory, peak_memory, reset_peak_memory, used_memory

LARGEST_STREAMS = 4
"""Slices that are inferred at a time: more of them only take memory."""
_SHARE_OF_FREE_MEMORY = 0.6
_CHUNK_DEPTH = 16
_DEPTHS = range(8, 65)
"""Slices per output chunk that suit both readers of slices and readers of blocks."""
_DEEPEST_DECISION = 32
"""Slices of a block that is decided on: votes, and probabilities, take the memory that shallower blocks spare."""
_LEAST_EDGE = 512
"""Pixels of the tiles that slices larger than the first are cut into, at least."""
_TILE_ON_DEVICE = 1024
"""Edge in pixels of the largest tile on providers whose memory cannot be seen from here."""
_PROBE_EDGE = 512
"""Pixels: large enough for the cost per pixel to be that of larger tiles, small enough to take little time."""
_SMALL_PROBE_EDGE = 128
"""Pixels of a first try, which tells whether the larger one fits."""
_LEAST_BYTES_PER_PIXEL = 64
_SPARE = 1.25
"""The allocator rounds up, and does so differently for each shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The memory of one tile's pixels in one stream."""

    bytes_per_pixel: float
    base: int
    """Bytes this process holds apart from tiles: interpreter, libraries, weights."""

    def tile_bytes(self, pixels: int) -> int:
        """Memory that the network takes for so many pixels at a time."""
        return int(self.bytes_per_pixel * pixels * _SPARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is decided before the first slice is read."""

    shape: tuple[int, int]
    """(H, W) of the first slice."""
    tile: tuple[int, int] | None
    """(rows, columns) of the largest tile in pixels; None: slices like the first are taken whole."""
    largest_tile: tuple[int, int]
    """The same in numbers, for slices that are larger than the first."""
    batch: int
    """Tiles per call of the network."""
    depth: int
    """Slices of a block: they are read, written and recorded together."""
    piece: int
    """Slices of a block that a stream infers together."""
    workers: WorkerCounts
    tiles: int
    """Per slice."""
    overhead: float
    """Pixels that the network reads per pixel written, less one."""
    base_bytes: int
    block_bytes: int
    """Memory of all blocks in flight."""
    tile_bytes: int
    """Memory of all streams."""
    budget: int
    pixels_read: int
    """By the network, of a slice."""

    @property
    def memory(self) -> int:
        """The most bytes the job is expected to take."""
        return self.base_bytes + self.block_bytes + self.tile_bytes

    def lines(self, slices: int, seconds_per_pixel: float) -> list[str]:
        """For a person; `seconds_per_pixel` of one stream."""
        tile = "the whole slice" if self.tile is None else f"{self.tile[0]} x {self.tile[1]} pixels"
        workers, streams = self.workers, self.workers.inferrers
        busiest = min(-(-slices // (streams * self.piece)) * self.piece, slices)
        seconds = seconds_per_pixel * self.pixels_read
        return [
            f"slices: {slices} of {self.shape[0]} x {self.shape[1]} pixels, {self.depth} to a block; "
            f"{-(-slices // self.depth)} block(s)",
            f"tiles: {self.tiles} per slice, {tile}, {self.batch} to a batch; halo overhead {self.overhead:.1%}",
            f"threads: {workers.readers} reading, {streams} streams of inference that share the slices of a block, "
            f"{workers.writers} writing; at most {workers.blocks} blocks in memory",
            f"memory: {format_size(self.memory)} of {format_size(self.budget)} (program and weights "
            f"{format_size(self.base_bytes)}, blocks {format_size(self.block_bytes)}, network "
            f"{format_size(self.tile_bytes)})",
            f"inference: about {format_seconds(seconds * busiest)} for at most {busiest} slices in each stream "
            f"({seconds / streams * 1e3:.0f} ms a slice over all streams, from a short probe)",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConstraints:
    """Choices that the user or an earlier run of the same job has fixed; None: free."""

    tile: tuple[int, int] | None = None
    whole_slices: bool = False
    """The earlier run took whole slices."""
    depth: int | None = None
    batch: int = 1
    memory: int | None = None
    probabilities: bool = False
    votes: int | None = None
    """Passes whose votes a run decides on, 0 where it is such a pass; None: there is no consensus."""
    chunked_output: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Takes the largest tile, the preferred depth of a block and as many streams as memory allows."""

    source: Source
    metadata: ModelMetadata
    shape: tuple[int, int]
    """(H, W) of the first slice."""
    probe: Probe
    constraints: PlanConstraints
    streams: int
    """The most calls of the network at a time."""
    on_cpu: bool
    """True where the network's memory is this process's."""
    mask: Volume | None = None
    """A mask that is read beside the source, slice by slice; None: there is no such volume."""

    def plan(self) -> Plan:
        """Decide.

        Raises:
            UsageError: memory does not suffice for the smallest tile, or a fixed tile is too small for the halo.
        """
        budget = self.constraints.memory or default_budget()
        for workers, depth in self._choices(budget - self.probe.base):
            left = (budget - self.probe.base - self._blocks_bytes(workers, depth)) // workers.inferrers
            tile = self._tile(left if self.on_cpu else None)
            if tile is not None:
                return self._plan(workers, depth, tile, budget)
        fixed = self._fixed_tile()
        least = (
            self.probe.base
            + self._blocks_bytes(workers, depth)
            + self._tile_bytes(fixed or self._smallest_tile())
        )
        cut = "" if fixed is None else f" in tiles of {fixed[0]} x {fixed[1]}, as asked for or begun with"
        raise UsageError(
            f"{self.source.location}: {format_size(budget)} of memory do not suffice for this model and slices of "
            f"{self.shape[0]} x {self.shape[1]} pixels{cut}; give at least --memory {math.ceil(least / 1e6)}MB"
        )

    def _plan(self, workers: WorkerCounts, depth: int, tile: tuple[int, int], budget: int) -> Plan:
        tiling = self.metadata.tiling
        tiles = plan_tiles(self.shape, tile, halo=tiling.halo, stride=tiling.stride)
        read = sum(item.read.shape[0] * item.read.shape[1] for item in tiles)
        largest = self.constraints.tile or tile
        whole = len(tiles) == 1 and self.constraints.tile is None
        if whole:  # slices that are larger are cut
            least = max(_LEAST_EDGE, self._least_edge())
            largest = max(tile[0], least), max(tile[1], least)
        return Plan(
            shape=self.shape,
            tile=None if whole else largest,
            largest_tile=largest,
            batch=self.constraints.batch,
            depth=depth,
            piece=self._piece,
            workers=workers,
            tiles=len(tiles),
            overhead=read / (self.shape[0] * self.shape[1]) - 1,
            base_bytes=self.probe.base,
            block_bytes=self._blocks_bytes(workers, depth),
            tile_bytes=workers.inferrers * self._tile_bytes(tile),
            budget=budget,
            pixels_read=read,
        )

    def _choices(self, free: int) -> Iterator[tuple[WorkerCounts, int]]:
        """Worker counts and depth of a block, from the fastest to those that take least memory."""
        preferred, is_free = self.constraints.depth or self._preferred_depth(), self.constraints.depth is None
        streams = min(self.streams, -(-len(self.source.slices) // self._piece))
        hands = 2 if preferred == 1 else 1
        counts = []
        while streams >= 1:  # blocks that are inferred, and for each hand one at work and one that waits
            blocks = -(-streams * self._piece // preferred) + 4 * hands
            counts.append(WorkerCounts(readers=hands, inferrers=streams, writers=hands, blocks=blocks))
            streams //= 2
        for workers in (*counts, WorkerCounts()):
            depth = preferred
            # all blocks in flight are to take no more than half of what is free beside the decoders
            while (
                is_free
                and depth > 1
                and (2 * self._blocks_bytes(workers, depth) > free + self._decoding_bytes(workers, depth))
            ):
                depth = math.ceil(depth / 2)
            yield workers, depth
        while is_free and depth > 1:
            depth = math.ceil(depth / 2)
            yield workers, depth

    @property
    def _piece(self) -> int:
        return self.constraints.batch if self.constraints.votes is None else TOGETHER

    def _preferred_depth(self) -> int:
        """Input chunks are best read as a whole; output chunks must be written as a whole."""
        chunk = 1 if self.source.volume is None else self.source.volume.slices_per_chunk
        if self.constraints.chunked_output:
            chunk = chunk if chunk in _DEPTHS else _CHUNK_DEPTH
        if (
            self.constraints.votes and chunk > _DEEPEST_DECISION
        ):  # in halves, so that chunks are read twice at most
            chunk = math.ceil(chunk / 2)
        return max(1, min(max(chunk, self.constraints.batch), len(self.source.slices)))

    def _blocks_bytes(self, workers: WorkerCounts, depth: int) -> int:
        """Bytes of all blocks in memory; of what is read also as it is stored and decoded, and the network's input."""
        itemsize = np.dtype(self.metadata.input.dtype).itemsize
        volume = self.source.volume
        stored = itemsize if volume is None else np.dtype(volume.dtype).itemsize
        given = self.metadata.input
        own, taken = given.of_slice.channels, given.channels
        # a grey image may be stored as RGB; decoders and encoders work on copies
        read = max(3, own if volume is None else volume.channels)
        per_pixel = own * itemsize + 3
        in_work = workers.readers * depth * read * stored + workers.inferrers * self._piece * taken * itemsize
        if self.constraints.probabilities:
            per_pixel += 6 * len(self.metadata.classes)
        if self.constraints.votes is not None:  # probabilities of a slice, and votes of a block
            classes = len(self.metadata.classes)
            in_work += workers.inferrers * (6 * classes + TOGETHER * (classes - 1) * self.constraints.votes)
            per_pixel += 2 * (classes - 1) if self.constraints.votes == 0 else 1
        if given.context:
            in_work += kept_blocks(given.context, depth, workers.readers) * depth * (own * itemsize + 1)
        pixels = self.shape[0] * self.shape[1]
        return (workers.blocks * depth * per_pixel + in_work) * pixels + self._decoding_bytes(workers, depth)

    def _decoding_bytes(self, workers: WorkerCounts, depth: int) -> int:
        """Bytes that readers take besides their blocks: chunks at work, and slices that a thinner block leaves."""
        taken, volume, mask = 0, self.source.volume, self.mask
        if volume is not None:
            is_thinner = depth < min(volume.slices_per_chunk, len(self.source.slices))
            taken += workers.readers * volume.decoding_bytes + is_thinner * volume.kept_bytes
        if mask is not None:
            plane = math.prod(self.shape) * mask.channels * np.dtype(mask.dtype).itemsize
            taken += workers.readers * (mask.decoding_bytes + plane) + mask.kept_bytes
        return taken

    def _tile_bytes(self, tile: tuple[int, int]) -> int:
        return self.probe.tile_bytes(tile[0] * tile[1] * self.constraints.batch)

    def _evened(self, tile: tuple[int, int]) -> tuple[int, int]:
        """The smallest tile that cuts a slice into as many pieces: the last one overlaps less with its neighbour."""
        tiling = self.metadata.tiling
        edges = []
        for length, edge in zip(self._whole(), tile, strict=True):
            halo = padded_length(tiling.halo, tiling.stride) if tiling.halo else 0
            count = 1 if edge >= length else -(-(length - 2 * halo) // (edge - 2 * halo))
            edges.append(padded_length(-(-(length + 2 * halo * (count - 1)) // count), tiling.stride))
        return edges[0], edges[1]

    def _whole(self) -> tuple[int, int]:
        stride = self.metadata.tiling.stride
        return padded_length(self.shape[0], stride), padded_length(self.shape[1], stride)

    def _least_edge(self) -> int:
        return smallest_tile(self.metadata.tiling.halo, self.metadata.tiling.stride)

    def _smallest_tile(self) -> tuple[int, int]:
        rows, columns = self._whole()
        return min(self._least_edge(), rows), min(self._least_edge(), columns)

    def _fixed_tile(self) -> tuple[int, int] | None:
        """(rows, columns) that the user or an earlier run has decided; None: free."""
        whole = self._whole()
        if self.constraints.tile is not None:
            # refuse a small one also where this slice would fit into it: the next may not
            tiling, least = self.metadata.tiling, self._least_edge()
            plan_tiles((least + 1, least + 1), self.constraints.tile, halo=tiling.halo, stride=tiling.stride)
            return min(self.constraints.tile[0], whole[0]), min(self.constraints.tile[1], whole[1])
        return whole if self.constraints.whole_slices else None

    def _tile(self, left: int | None) -> tuple[int, int] | None:
        """(rows, columns) to read at a time with so many bytes `left` for a stream (None: not ours to count).

        None: memory does not suffice for the smallest.
        """
        tiling, whole = self.metadata.tiling, self._whole()
        fixed = self._fixed_tile()
        if fixed is not None:
            fits = left is None or self._tile_bytes(fixed) <= left
            # only a limit that somebody has set goes before the tile that is asked for
            return fixed if fits or self.constraints.memory is None else None
        least = self._smallest_tile()
        edge = max(whole) if left is not None else max(_TILE_ON_DEVICE, *least)
        while True:
            tile = (min(edge, whole[0]), min(edge, whole[1]))
            if left is None or self._tile_bytes(tile) <= left:
                return self._evened(tile)
            if edge <= max(least):
                return None
            # in steps of an eighth: fine enough to use the memory, coarse enough to end soon
            step = min(edge - tiling.stride, edge * 7 // 8 // tiling.stride * tiling.stride)
            edge = max(step, *least)


def times_decoded(slices_per_chunk: int) -> int:
    """Times that each chunk of an input is read where blocks go into a chunked output."""
    return 1 if slices_per_chunk <= max(_DEPTHS) else math.ceil(slices_per_chunk / _CHUNK_DEPTH)


def format_seconds(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def default_budget() -> int:
    """Bytes a job takes when the user does not say: a share of what is free."""
    return int(available_memory() * _SHARE_OF_FREE_MEMORY)


def probe(session: Session, shape: tuple[int, int], budget: int) -> Probe:
    """Run the network on pieces of the self-test's image, repeated to the size of a tile.

    Args:
        session: its allocator keeps what it has taken, as in a job.
        shape: (H, W) of the slices in pixels; no more than that is tried.
        budget: bytes that the job may take; the probe keeps to it too.
    """
    session.predict(session.model.self_test.image[:1])
    base = used_memory()
    found = _measure(session, _sample_tile(session, shape, _SMALL_PROBE_EDGE), base)
    large = _sample_tile(session, shape, _PROBE_EDGE)
    return _measure(session, large, base) if base + found.tile_bytes(_pixels(large)) < budget else found


def _measure(session: Session, tile: NDArray[Any], base: int) -> Probe:
    before = base if reset_peak_memory() else peak_memory()
    session.predict(tile)
    growth = peak_memory() - before
    return Probe(bytes_per_pixel=max(growth / _pixels(tile), _LEAST_BYTES_PER_PIXEL), base=base)


def seconds_per_pixel(session: Session, shape: tuple[int, int]) -> float:
    """Seconds of the network in one stream, on a tile of slices of that (H, W) shape."""
    tile = _sample_tile(session, shape, _PROBE_EDGE)
    session.predict(tile)
    started = time.perf_counter()
    session.predict(tile)
    return (time.perf_counter() - started) / _pixels(tile)


def _sample_tile(session: Session, shape: tuple[int, int], edge: int) -> NDArray[Any]:
    """(1, C, rows, columns) of the self-test's image, again and again."""
    stride, sample = session.model.metadata.tiling.stride, session.model.self_test.image[:1]
    rows, columns = (padded_length(min(length, edge), stride) for length in shape)
    repeats = (1, 1, -(-rows // sample.shape[2]), -(-columns // sample.shape[3]))
    return np.ascontiguousarray(np.tile(sample, repeats)[:, :, :rows, :columns])


def _pixels(tile: NDArray[Any]) -> int:
    return int(tile.shape[2] * tile.shape[3])
