"""The stored chunks of an HDF5 dataset: whether they were ever written, and what they would become when decoded."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.layout import chunk_ranges, require_few_chunks
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.limits import could_fill, require_bounded_stream

_DEFLATE = 1
"""Number of the filter in HDF5's registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCheck:
    """Looks at what is stored of a region before it is read: HDF5 makes up what is not there."""

    where: str
    """Named in errors."""
    dataset: Any
    fill_missing: bool
    """Take what was never written for the fill value."""
    stored: _StoredChunks | None
    """None for a dataset without chunks."""

    @classmethod
    def of(cls, where: str, dataset: Any, *, fill_missing: bool) -> WrittenCheck:
        """Read what there is to check against.

        Raises:
            UsageError: the index of the dataset's chunks is damaged.
        """
        stored = None if dataset.chunks is None else _StoredChunks.of(where, dataset)
        return cls(where=where, dataset=dataset, fill_missing=fill_missing, stored=stored)

    def __call__(self, index: tuple[slice | int, ...]) -> None:
        """Check every chunk that an index touches.

        Raises:
            ImageError: one was never written, or would become more than its pixels.
        """
        if self.dataset.is_virtual:
            return  # its sources were looked for when it was opened
        if self.stored is not None:
            self._check_chunks(self.stored, index)
        elif not (self.fill_missing or self.dataset.id.get_storage_size() or self.dataset.external):
            raise self._missing("it was reserved, but nothing was written into it")

    def _missing(self, what: str) -> ImageError:
        return ImageError(
            self.where,
            f"{what}, so that HDF5 would fill in {self.dataset.fillvalue}; run again when it is complete, or, if that "
            "value is meant, with --fill-missing-chunks",
        )

    def _check_chunks(self, stored: _StoredChunks, index: tuple[slice | int, ...]) -> None:
        ranges = chunk_ranges(index, self.dataset.shape, stored.chunk)
        require_few_chunks(self.where, ranges)
        wanted = np.ravel_multi_index(np.ix_(*ranges), stored.grid).ravel()
        sizes = stored.sizes_of(wanted)
        if not self.fill_missing and not sizes.all():
            first = stored.corner(int(wanted[sizes == 0][0]))
            raise self._missing(f"its chunk at {first} was never written")
        for number, size in zip(wanted, sizes, strict=True):
            if could_fill(int(size), "deflate"):
                self._check_stream(stored.corner(int(number)))

    def _check_stream(self, corner: tuple[int, ...]) -> None:
        properties = self.dataset.id.get_create_plist()
        filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
        if _DEFLATE not in filters or any(
            number not in (2, 3) for number in filters[filters.index(_DEFLATE) + 1 :]
        ):
            return
        mask, content = self.dataset.id.read_direct_chunk(corner)
        if not mask & 1 << filters.index(_DEFLATE):
            pixels = 2 * self.dataset.dtype.itemsize * math.prod(self.dataset.chunks)
            require_bounded_stream(self.where, content, "deflate", pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredChunks:
    """The chunks that are in the file, by their number in the grid of all.

    Read once: HDF5 looks for a single one by going through all, and its older indices carry no checksum, so that it
    crashes, or reads other bytes, where one is damaged.
    """

    chunk: tuple[int, ...]
    """Shape of one."""
    grid: tuple[int, ...]
    """How many there are along each axis."""
    numbers: NDArray[np.int64] = field(repr=False)
    """Sorted."""
    sizes: NDArray[np.int64] = field(repr=False)
    """Bytes of each."""

    @classmethod
    def of(cls, where: str, dataset: Any) -> _StoredChunks:
        """Read the index.

        Raises:
            UsageError: it cannot be that of this dataset.
        """
        chunk = tuple(dataset.chunks)
        grid = tuple(-(-length // step) for length, step in zip(dataset.shape, chunk, strict=True))
        if math.prod(grid) > np.iinfo(np.int64).max:
            raise _damaged(where, f"there are {math.prod(grid)}")
        end = dataset.file.id.get_filesize()
        corners, sizes = array("Q"), array("Q")

        def note(info: Any) -> None:
            if info.size == 0 or info.byte_offset + info.size > end:
                raise _damaged(where, f"one has {info.size} bytes from byte {info.byte_offset} of {end}")
            corners.extend(info.chunk_offset)
            sizes.append(info.size)

        dataset.id.chunk_iter(note)
        places, rest = np.divmod(
            np.array(corners, np.uint64).reshape(-1, len(chunk)), np.array(chunk, np.uint64)
        )
        misplaced = (rest > 0).any(axis=1) | (places >= np.array(grid, np.uint64)).any(axis=1)
        if misplaced.any():
            first = int(misplaced.argmax()) * len(chunk)
            raise _damaged(where, f"one begins at {tuple(corners[first : first + len(chunk)])}")
        numbers = np.ravel_multi_index(tuple(places.astype(np.int64).T), grid)
        order = np.argsort(numbers, kind="stable")
        if (np.diff(numbers[order]) == 0).any():
            raise _damaged(where, "one is there twice")
        return cls(chunk=chunk, grid=grid, numbers=numbers[order], sizes=np.array(sizes, np.int64)[order])

    def sizes_of(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each of these chunks, 0 where it was never written."""
        if not len(self.numbers):
            return np.zeros(len(wanted), np.int64)
        places = np.minimum(np.searchsorted(self.numbers, wanted), len(self.numbers) - 1)
        return np.where(self.numbers[places] == wanted, self.sizes[places], 0)

    def corner(self, number: int) -> tuple[int, ...]:
        """Where a chunk begins in the array."""
        place = np.unravel_index(number, self.grid)
        return tuple(int(part) * step for part, step in zip(place, self.chunk, strict=True))


def _damaged(where: str, what: str) -> UsageError:
    return UsageError(f"{where}: its index of chunks is damaged ({what}); copy or write the file again")
