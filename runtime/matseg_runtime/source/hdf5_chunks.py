"""The stored chunks of an HDF5 dataset: whether they were ever written, and what they would become when decoded."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.layout import chunk_ranges, require_few_chunks
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.limits import could_fill, require_bounded_stream

_DEFLATE = 1
_SAME_LENGTH = {2, 3}
"""Numbers of filters in HDF5's registry; shuffling and a checksum change no lengths to speak of."""


class WrittenCheck:
    """Looks at what is stored of a region before it is read: HDF5 makes up what is not there."""

    def __init__(self, where: str, dataset: Any, *, fill_missing: bool, may_end: bool) -> None:
        """Read what there is to check against.

        Args:
            where: the dataset, named in errors.
            dataset: an open one.
            fill_missing: take what was never written for the fill value.
            may_end: the file was not closed, and may end before what its index tells of.

        Raises:
            UsageError: the index of the dataset's chunks is damaged.
        """
        self._where = where
        self._dataset = dataset
        self._fill_missing = fill_missing
        self._stored = None if dataset.chunks is None else _StoredChunks(where, dataset, may_end=may_end)

    def __call__(self, index: tuple[slice | int, ...]) -> None:
        """Refuse with an ImageError an index that touches a chunk never written, or larger than its pixels."""
        dataset = self._dataset
        if dataset.is_virtual:
            return  # its sources were looked for when it was opened
        if self._stored is not None:
            self._check_chunks(self._stored, index)
        elif not (self._fill_missing or dataset.id.get_storage_size() or dataset.external):
            raise self._missing("it was reserved, but nothing was written into it")
        elif dataset.id.get_offset() is not None and self._end(index) > dataset.file.id.get_filesize():
            raise ImageError(self._where, "the file ends before it")

    def _end(self, index: tuple[slice | int, ...]) -> int:
        """Byte of the file that a part of a dataset without chunks ends before."""
        shape = self._dataset.shape
        ranges = chunk_ranges(index, shape, (1,) * len(shape))
        last = int(np.ravel_multi_index([taken[-1] for taken in ranges], shape))
        return int(self._dataset.id.get_offset() + (last + 1) * self._dataset.dtype.itemsize)

    def _missing(self, what: str) -> ImageError:
        return ImageError(
            self._where,
            f"{what}, so that HDF5 would fill in {self._dataset.fillvalue}; run again when it is complete, or, if that "
            "value is meant, with --fill-missing-chunks",
        )

    def _check_chunks(self, stored: _StoredChunks, index: tuple[slice | int, ...]) -> None:
        ranges = chunk_ranges(index, self._dataset.shape, stored.chunk)
        require_few_chunks(self._where, ranges)
        wanted = np.ravel_multi_index(np.ix_(*ranges), stored.grid).ravel()
        sizes = stored.sizes_of(wanted)
        if not self._fill_missing and not sizes.all():
            first = stored.corner(int(wanted[sizes == 0][0]))
            raise self._missing(f"its chunk at {first} was never written")
        for number, size in zip(wanted, sizes, strict=True):
            if could_fill(int(size), "deflate"):
                self._check_stream(stored.corner(int(number)))

    def _check_stream(self, corner: tuple[int, ...]) -> None:
        dataset = self._dataset
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
        if _DEFLATE not in filters:
            return
        place = filters.index(_DEFLATE)
        if not set(filters[place + 1 :]) <= _SAME_LENGTH:
            return
        mask, content = dataset.id.read_direct_chunk(corner)
        if not mask & 1 << place:
            pixels = 2 * dataset.dtype.itemsize * math.prod(dataset.chunks)
            require_bounded_stream(self._where, content, "deflate", pixels)


class _StoredChunks:
    """The chunks that are in the file, by their number in the grid of all.

    Read once: HDF5 looks for a single one by going through all, and its older indices carry no checksum, so that it
    crashes, or reads other bytes, where one is damaged.
    """

    def __init__(self, where: str, dataset: Any, *, may_end: bool) -> None:
        """Read the index, or raise a UsageError where it cannot be that of this dataset."""
        self.chunk = tuple(dataset.chunks)
        self.grid = tuple(-(-length // step) for length, step in zip(dataset.shape, self.chunk, strict=True))
        if math.prod(self.grid) > np.iinfo(np.int64).max:
            raise _damaged(where, f"there are {math.prod(self.grid)}")
        end = dataset.file.id.get_filesize()
        corners, sizes = array("Q"), array("Q")

        def note(info: Any) -> None:
            if may_end and info.byte_offset + info.size > end:
                return
            if info.size == 0 or info.byte_offset + info.size > end:
                raise _damaged(where, f"one has {info.size} bytes from byte {info.byte_offset} of {end}")
            corners.extend(info.chunk_offset)
            sizes.append(info.size)

        dataset.id.chunk_iter(note)
        starts = np.array(corners, np.uint64).reshape(-1, len(self.chunk))
        places, rest = np.divmod(starts, np.array(self.chunk, np.uint64))
        misplaced = (rest > 0).any(axis=1) | (places >= np.array(self.grid, np.uint64)).any(axis=1)
        if misplaced.any():
            raise _damaged(where, f"one begins at {tuple(starts[misplaced.argmax()].tolist())}")
        numbers = np.ravel_multi_index(tuple(places.astype(np.int64).T), self.grid)
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._sizes = numbers[order], np.array(sizes, np.int64)[order]
        if (np.diff(self._numbers) == 0).any():
            raise _damaged(where, "one is there twice")

    def sizes_of(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each of these chunks, 0 where it was never written."""
        if not len(self._numbers):
            return np.zeros(len(wanted), np.int64)
        places = np.minimum(np.searchsorted(self._numbers, wanted), len(self._numbers) - 1)
        return np.where(self._numbers[places] == wanted, self._sizes[places], 0)

    def corner(self, number: int) -> tuple[int, ...]:
        """Start of a chunk in the array."""
        place = np.unravel_index(number, self.grid)
        return tuple(int(part) * step for part, step in zip(place, self.chunk, strict=True))


def _damaged(where: str, what: str) -> UsageError:
    return UsageError(f"{where}: its index of chunks is damaged ({what}); copy or write the file again")
