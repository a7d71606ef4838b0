"""The stored chunks of an HDF5 dataset: whether they were ever written, and what they would become when decoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from matseg_shared.errors import ImageError
from matseg_shared.room import could_fill, require_honest_stream

_DEFLATE = 1
"""Number of the filter in HDF5's registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCheck:
    """Looks at what is stored of a region before it is read: HDF5 makes up what is not there."""

    where: str
    """Named in errors."""
    dataset: Any
    fill_missing: bool
    """Whether what was never written counts as the fill value."""

    def __call__(self, index: tuple[slice | int, ...]) -> None:
        """Check every chunk that an index touches.

        Raises:
            ImageError: one was never written, or would become more than its pixels.
        """
        if self.dataset.is_virtual:
            return  # its sources were looked for when it was opened
        if self.dataset.chunks is not None:
            self._check_chunks(index)
        elif self._is_missing(self.dataset.id.get_storage_size() == 0 and not self.dataset.external):
            raise self._missing("it was reserved, but nothing was written into it")

    def _is_missing(self, found: bool) -> bool:
        return found and not self.fill_missing

    def _missing(self, what: str) -> ImageError:
        return ImageError(
            self.where,
            f"{what}, so that HDF5 would fill in {self.dataset.fillvalue}; run again when it is complete, or, if that "
            "value is meant, with --fill-missing-chunks",
        )

    def _check_chunks(self, index: tuple[slice | int, ...]) -> None:
        stored = self.dataset.id.get_storage_size()
        is_whole = self.dataset.id.get_space_status() == _allocated()
        if is_whole and not could_fill(stored, "deflate"):
            return
        for corner in _corners(index, self.dataset.shape, self.dataset.chunks):
            info = self.dataset.id.get_chunk_info_by_coord(corner)
            if self._is_missing(info.byte_offset is None):
                raise self._missing(f"its chunk at {corner} was never written")
            if info.byte_offset is not None and could_fill(info.size, "deflate"):
                self._check_stream(corner)

    def _check_stream(self, corner: tuple[int, ...]) -> None:
        properties = self.dataset.id.get_create_plist()
        filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
        if _DEFLATE not in filters or any(
            number not in (2, 3) for number in filters[filters.index(_DEFLATE) + 1 :]
        ):
            return
        mask, content = self.dataset.id.read_direct_chunk(corner)
        if not mask & 1 << filters.index(_DEFLATE):
            pixels = 2 * self.dataset.dtype.itemsize
            for length in self.dataset.chunks:
                pixels *= length
            require_honest_stream(self.where, content, "deflate", pixels)


def _allocated() -> int:
    from h5py import h5d

    return int(h5d.SPACE_STATUS_ALLOCATED)


def _corners(
    index: tuple[slice | int, ...], shape: tuple[int, ...], chunks: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    """Where the chunks begin that an index touches."""
    ranges = []
    for part, length, chunk in zip(index, shape, chunks, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
        ranges.append(range(start // chunk * chunk, stop, chunk))
    return itertools.product(*ranges)
