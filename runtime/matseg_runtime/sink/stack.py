"""One uncompressed TIFF stack, a page per slice; each page has its place in the file from the start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.sink.base import LabelVolume, Result, Unit
from matseg_runtime.sink.volume import VolumeSink, sync_file
from matseg_shared.files import output_errors
from matseg_shared.metadata import ModelMetadata

_BIG = 1 << 31


class StackSink(VolumeSink):
    """`<out>.tif`, BigTIFF from 2 GB on; class indices as pixel values, class colours as palette."""

    def __init__(self, path: Path, volume: LabelVolume, metadata: ModelMetadata, provenance: str) -> None:
        super().__init__(path, volume)
        self._metadata = metadata
        self._provenance = provenance

    def write(self, unit: Unit, results: Sequence[Result]) -> tuple[int, ...]:
        page = int(np.prod(self.volume.slice_shape))
        block = self.block(results)
        with output_errors(self.path), self.partial.open("r+b") as stream:
            stream.seek(self._data_offset() + unit.slices[0].index * page)
            stream.write(block.data)
            stream.flush()
            os.fsync(stream.fileno())
        return (0,) * len(results)

    def _data_offset(self) -> int:
        """Where the first page's pixels start; the others follow without gaps."""
        import tifffile

        with tifffile.TiffFile(self.partial) as tiff:
            return int(tiff.pages.first.dataoffsets[0])

    def _create(self, path: Path) -> None:
        import tifffile

        shape = (self.volume.depth, *self.volume.slice_shape)
        pages = tifffile.memmap(
            path,
            shape=shape,
            dtype=np.uint8,
            photometric="palette",
            colormap=palette_table(self._metadata),
            description=self._provenance,
            metadata=None,
            bigtiff=int(np.prod(shape)) >= _BIG,
        )
        pages.flush()
        del pages
        sync_file(path)

    def _complete(self) -> None:
        """Nothing: every page is in its place."""


def palette_table(metadata: ModelMetadata) -> NDArray[np.uint16]:
    """(3, 256) 16-bit RGB, as TIFF stores palettes."""
    table = np.zeros((3, 256), np.uint16)
    table[:, : len(metadata.classes)] = np.asarray(metadata.colours, np.uint16).T * 257
    return table
