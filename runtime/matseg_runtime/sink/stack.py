"""One uncompressed TIFF stack, a page per slice; each page has its place in the file from the start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tifffile

from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Block, Result
from matseg_runtime.sink.imagej import tiff_tags
from matseg_runtime.sink.volume import VolumeSink, sync_file
from matseg_shared.system.files import output_errors

_BIG = (1 << 32) - (1 << 25)
"""Bytes of pixels beyond which offsets of 32 bits may not do; ImageJ alone reads no BigTIFF, so not a byte earlier."""


class StackSink(VolumeSink):
    """`<out>.tif`, BigTIFF from 4 GB on; class indices as pixel values, class colours as palette."""

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        page = int(np.prod(self.volume.slice_shape))
        labels = self.labels(results)
        with output_errors(self.path), self.partial.open("r+b") as stream:
            stream.seek(self._data_offset() + block.slices[0].index * page)
            stream.write(labels.data)
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.seek(0, os.SEEK_END)
        return (size,) * len(results)

    def _lost_in(self, place: Path, records: Sequence[SliceRecord]) -> Iterable[str]:
        """All pages have their place from the start, so a file of another size is not the one they were written to."""
        found = place.stat().st_size
        expected = {record.bytes for record in records if record.bytes}
        if expected - {found}:
            raise self.damaged(place, f"expected {max(expected)} bytes, found {found}")
        if not expected and self._pages(place) != self.volume.depth:
            raise self.damaged(place, f"expected {self.volume.depth} pages, found {self._pages(place)}")
        return ()

    def _pages(self, place: Path) -> int:
        try:
            with tifffile.TiffFile(place) as tiff:
                return len(tiff.pages)
        except Exception:  # tifffile raises many kinds for what is no TIFF
            return 0

    def _data_offset(self) -> int:
        """Where the first page's pixels start; the others follow without gaps."""
        with tifffile.TiffFile(self.partial) as tiff:
            return int(tiff.pages.first.dataoffsets[0])

    def _create(self, path: Path) -> None:
        shape = (self.volume.depth, *self.volume.slice_shape)
        pages = tifffile.memmap(
            path,
            shape=shape,
            dtype=np.uint8,
            bigtiff=int(np.prod(shape)) >= _BIG,
            **tiff_tags(self.info, slices=self.volume.depth),
        )
        pages.flush()
        del pages
        sync_file(path)
