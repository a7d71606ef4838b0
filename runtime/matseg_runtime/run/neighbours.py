"""Slices with their neighbours for a model with context, each read once: what was read last is kept for the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Result
from matseg_runtime.source.base import Slice, Source, neighbours_digest


class ReadSlice(NamedTuple):
    """One slice after reading."""

    result: Result
    image: NDArray[Any] | None
    """(C, H, W) in the model's dtype; None: it was excluded."""


Read = Callable[[Sequence[Slice]], list[ReadSlice]]
"""Reads consecutive slices together."""


class Neighbours:
    """The slices around each of a source; several threads may ask at a time.

    Slices are read in the blocks that they are labelled in, of which as many are kept as the neighbours of those at
    work lie in. Whoever asks for a block that another thread is reading waits for it, and so does who is further ahead
    of the last one than there are threads: what that one needs would be forgotten.
    """

    def __init__(self, source: Source, context: int, *, depth: int, readers: int) -> None:
        """See above; `depth` slices are a block, and `readers` threads read blocks one after the other."""
        self._source, self.context, self._depth = source, context, depth
        self._most, self._ahead = kept_blocks(context, depth, readers), (readers - 1) * depth
        self._blocks: dict[tuple[int, str], Future[dict[int, ReadSlice]]] = {}
        self._lock = threading.Condition()
        self._at_work: list[int] = []

    def around_each(self, items: Sequence[Slice], read: Read) -> list[list[ReadSlice]]:
        """Consecutive slices, each in the middle of its neighbours; see `around`."""
        first = items[0].index
        with self._lock:
            self._at_work.append(first)
            self._lock.wait_for(lambda: first - min(self._at_work) <= self._ahead)
        try:
            return [self.around(item, read) for item in items]
        finally:
            with self._lock:
                self._at_work.remove(first)
                self._lock.notify_all()

    def around(self, item: Slice, read: Read) -> list[ReadSlice]:
        """A slice in the middle of its neighbours; excluded itself where one of them cannot be seen with it."""
        around = self._source.neighbours(item.index, self.context)
        found = [self._slice(one, read) for one in around]
        result, image = found[self.context]
        for other in found:
            if result.reason or image is None:
                break
            if other.image is None:
                result = replace(
                    result, reason=f"{item.where}: has a neighbour that cannot be read: {other.result.reason}"
                )
            elif other.image.shape != image.shape:
                expected, has = (" x ".join(map(str, one.shape[1:])) for one in (image, other.image))
                where = other.result.slice.where
                result = replace(
                    result,
                    reason=f"{item.where}: expected neighbours of its {expected} pixels, found {where} of {has}",
                )
        if self._source.volume is None:
            seen = [replace(one.result.slice, identity=one.result.identity) for one in found]
            result = replace(result, neighbours=neighbours_digest(seen))
        found[self.context] = ReadSlice(result, image)
        return found

    def are_others(self, record: SliceRecord, item: Slice) -> bool:
        """True where a labelled image has other neighbours now than it was seen with."""
        if self._source.volume is not None:
            return False
        return record.neighbours != neighbours_digest(self._source.neighbours(item.index, self.context))

    def _slice(self, item: Slice, read: Read) -> ReadSlice:
        start, count = item.index // self._depth * self._depth, len(self._source.slices)
        block: Sequence[Slice] = [item]  # beyond the range that is labelled
        if 0 <= item.index < count:
            block = self._source.slices[start : start + self._depth]
        key = (block[0].index, block[0].identity)
        with self._lock:
            future = self._blocks.get(key)
            if is_first := future is None:
                future = self._blocks[key] = Future()
            assert future is not None
            while len(self._blocks) > self._most:
                del self._blocks[max(self._blocks, key=lambda other: abs(other[0] - key[0]))]
        if is_first:
            try:
                future.set_result({one.result.slice.index: one for one in read(block)})
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()[item.index]


def kept_blocks(context: int, depth: int, readers: int) -> int:
    """Blocks that hold the neighbours of `readers` blocks one after the other, with themselves."""
    return 2 * -(-context // depth) + readers
