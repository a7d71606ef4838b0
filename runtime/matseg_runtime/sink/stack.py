"""Uncompressed labels in one file, where each slice has its place from the start: a TIFF stack, a page per slice."""

from __future__ import annotations

import os
from abc import abstractmethod
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


class FileSink(VolumeSink):
    """One file of a header and the labels of one slice after another, one byte each."""

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:
        page = int(np.prod(self.volume.slice_shape))
        labels = self.labels(results)
        with output_errors(self.path), self.partial.open("r+b") as stream:
            stream.seek(self._data_offset(self.partial) + block.slices[0].index * page)
            stream.write(labels.data)
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.seek(0, os.SEEK_END)
        return (size,) * len(results)

    def _lost_in(self, place: Path, records: Sequence[SliceRecord]) -> Iterable[str]:
        """All slices have their place from the start, so a file of another size is not the one they were written to."""
        found = place.stat().st_size
        expected = {record.bytes for record in records if record.bytes}
        if expected - {found}:
            raise self.damaged(place, f"expected {max(expected)} bytes, found {found}")
        if not expected and (slices := self._slices_in(place)) != self.volume.depth:
            raise self.damaged(place, f"expected {self.volume.depth} slices, found {slices}")
        return ()

    @abstractmethod
    def _slices_in(self, place: Path) -> int:
        """So many are in the output or its unfinished form; 0 where it is something else."""

    @abstractmethod
    def _data_offset(self, place: Path) -> int:
        """Bytes before the first slice; the others follow without gaps."""


class StackSink(FileSink):
    """`<out>.tif`, BigTIFF from 4 GB on; class indices as pixel values, class colours as palette."""

    def _slices_in(self, place: Path) -> int:
        try:
            with tifffile.TiffFile(place) as tiff:
                return len(tiff.pages)
        except Exception:  # tifffile raises many kinds for what is no TIFF
            return 0

    def _data_offset(self, place: Path) -> int:
        with tifffile.TiffFile(place) as tiff:
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
