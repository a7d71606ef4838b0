"""Pixels behind a stream of gzip or zlib, read slice by slice in any order and never unpacked as a whole."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.base import SourceOptions
from matseg_shared.errors import UsageError
from matseg_shared.images.limits import DENSEST

GZIP = b"\x1f\x8b"
"""Its first bytes."""
_PIECE = 1 << 14
"""Bytes that are read from the file at a time; each kept place holds as many."""
_STEP = 16 << 20
_MOST_PLACES = 256
"""A place, of about 60 kB, is kept every `_STEP` unpacked bytes, in long streams at so many of them."""
_HEADER_OF_EITHER = 47
"""Tells zlib to find out whether a stream is one of gzip or of zlib."""


@dataclass(slots=True, kw_only=True)
class _Place:
    """A decoder on its way through the stream."""

    decoder: Any
    read: int
    """Place in the file of the next byte that it is to get."""
    made: int
    """Bytes that it has unpacked."""

    def copy(self) -> _Place:
        return _Place(decoder=self.decoder.copy(), read=self.read, made=self.made)

    def advance(self, file: BinaryIO, most: int) -> bytes:
        """The next unpacked bytes, at most so many; b"" at the end."""
        while True:
            waiting = self.decoder.unconsumed_tail
            if self.decoder.eof:
                after = self.read - len(self.decoder.unused_data)
                file.seek(after)
                if file.read(len(GZIP)) != GZIP:  # what follows is no second stream of gzip, but padding
                    return b""
                self.read, self.decoder = after, zlib.decompressobj(_HEADER_OF_EITHER)
            if not waiting:
                file.seek(self.read)
                waiting = file.read(_PIECE)
                self.read += len(waiting)
            if not waiting:
                return b""
            try:
                piece: bytes = self.decoder.decompress(waiting, most)
            except zlib.error as error:  # a checksum, which ends the stream, tells of all that was before
                raise ValueError(f"its compressed data are damaged, here or before ({error})") from error
            if piece:
                self.made += len(piece)
                return piece


class DeflatedPixels:
    """An array whose bytes are a deflate stream.

    It is cheap along the axis of slices if nothing but channels, or volumes of which some are taken, comes before it.

    Reading on where the last read ended costs the unpacking of what is read; reading elsewhere at most the unpacking
    from the last kept place before.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, offset: int = 0, skip: int = 0
    ) -> None:
        """Describe the array: the stream begins at byte `offset` of the file, and the first pixel `skip` bytes into it.

        Raises:
            UsageError: the stream is too short to become so many pixels, whatever is in it.
        """
        self.shape, self.dtype = shape, dtype
        self._path, self._skip = path, skip
        self._end = skip + math.prod(shape) * dtype.itemsize
        stored = path.stat().st_size - offset
        if min(shape) < 1 or self._end > stored * DENSEST["deflate"]:
            raise UsageError(
                f"{path}: promises {' x '.join(map(str, shape))} pixels of {dtype.name}, {self._end} bytes, which its "
                f"{stored} compressed bytes cannot become; check its sizes, and whether the file is whole"
            )
        self._step = max(_STEP, self._end // _MOST_PLACES)
        self._lock = Lock()
        self._now = _Place(decoder=zlib.decompressobj(_HEADER_OF_EITHER), read=offset, made=0)
        self._kept = [self._now.copy()]

    def __getitem__(self, index: tuple[slice | int, ...]) -> NDArray[Any]:
        return self._part(index, self._skip)

    def _part(self, index: tuple[slice | int, ...], start: int) -> NDArray[Any]:
        """The part at an index of the last axes, which begin at a byte; read in one piece where it is one."""
        first, *others = index
        length, *inner = self.shape[-len(index) :]
        layer = math.prod(inner) * self.dtype.itemsize
        numbers = range(length)[first] if isinstance(first, slice) else range(first, first + 1)
        if others and np.size(np.arange(inner[0])[others[0]]) < inner[0]:
            part = np.stack([self._part(tuple(others), start + number * layer) for number in numbers])
        else:
            content = self.read(start + numbers.start * layer, start + numbers.stop * layer)
            part = np.frombuffer(content, self.dtype).reshape(len(numbers), *inner)[:, *others]
        return part if isinstance(first, slice) else part[0]

    def read(self, start: int, stop: int) -> bytearray:
        """Unpacked bytes `start` to `stop` (exclusive).

        Raises:
            ValueError: the stream is damaged, ends before, or is longer than the pixels.
        """
        content = bytearray()
        with self._lock, self._path.open("rb") as file:
            # the last place before, where the one of now is no nearer
            kept = max((place for place in self._kept if place.made <= start), key=lambda place: place.made)
            if not kept.made <= self._now.made <= start:
                self._now = kept.copy()
            while (missing := stop - self._now.made) > 0:
                at = self._now.made
                until = start if at < start else stop
                piece = self._now.advance(file, min(until - at, 1 << 20))
                if not piece:
                    raise ValueError(f"its compressed data end {missing} bytes too early")
                if at >= start:
                    content += piece
                if self._now.made >= self._kept[-1].made + self._step:
                    self._kept.append(self._now.copy())
            if stop == self._end and self._now.copy().advance(file, 1):
                raise ValueError("its compressed data become more than its header promises")
        return content


def require_first_axis(path: Path, options: SourceOptions) -> None:
    """Refuse to cut compressed pixels along another axis than they are stored along.

    Raises:
        UsageError: that is asked for.
    """
    if options.axis:
        raise UsageError(
            f"{path}: only an uncompressed file can be cut along another axis than 0, because each slice would mean "
            "unpacking the whole file; save it without compression"
        )
