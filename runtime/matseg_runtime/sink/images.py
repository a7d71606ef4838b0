"""One label image per slice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from matseg_runtime.ledger import SliceRecord
from matseg_runtime.segment import Segmentation
from matseg_runtime.sink.base import Result, Sink, Unit, Written
from matseg_shared.files import atomic_write, output_errors
from matseg_shared.metadata import ModelMetadata
from matseg_shared.palette import write_label_png

LEDGER_NAME = ".matseg"
PROBABILITIES_SUFFIX = "_probabilities.tif"

ImageFormat = Literal["png", "tiff"]
_SUFFIXES = {"png": ".png", "tiff": ".tif"}


class ImageSink(Sink):
    """`<folder>/<name>.png` or `.tif`: class indices as pixel values, class colours as palette."""

    whole_units = False

    def __init__(
        self,
        folder: Path,
        metadata: ModelMetadata,
        provenance: str,
        *,
        image_format: ImageFormat = "png",
        probabilities: bool = False,
    ) -> None:
        """Describe the output; nothing is written yet.

        Args:
            folder: made when it is missing.
            metadata: for the palette.
            provenance: JSON that each file carries.
            image_format: `png` or `tiff`.
            probabilities: also write `<name>_probabilities.tif`, one uint8 page per class.
        """
        self.path = folder
        self.ledger_folder = folder / LEDGER_NAME
        self._metadata = metadata
        self._provenance = provenance
        self._format = image_format
        self._probabilities = probabilities

    def file_of(self, name: str) -> Path:
        """Where the labels of a slice go."""
        return self.path / f"{name}{_SUFFIXES[self._format]}"

    def start(self) -> None:
        with output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def holds(self, record: SliceRecord) -> bool:
        try:
            same = self.file_of(record.name).stat().st_size == record.bytes
        except OSError:
            return False
        return same and (not self._probabilities or self._probability_file(record.name).is_file())

    def write(self, unit: Unit, results: Sequence[Result]) -> Written:
        sizes = [0 if result.segmentation is None else self._write(result) for result in results]
        return Written(unit=unit, bytes=tuple(sizes))

    def finish(self) -> None:
        """Each image has had its final name from the start."""

    def _write(self, result: Result) -> int:
        assert result.segmentation is not None
        path = self.file_of(result.slice.name)
        if result.segmentation.probabilities is not None:
            with atomic_write(self._probability_file(result.slice.name)) as stream:
                self._write_probabilities(stream, result.segmentation)
        with atomic_write(path) as stream:
            if self._format == "png":
                write_label_png(
                    stream,
                    result.segmentation.labels,
                    self._metadata.colours,
                    text={"matseg": self._provenance},
                )
            else:
                self._write_tiff(stream, result.segmentation)
            return stream.seek(0, os.SEEK_END)

    def _write_tiff(self, stream: BinaryIO, segmentation: Segmentation) -> None:
        import tifffile

        table = np.zeros((3, 256), np.uint16)
        table[:, : len(self._metadata.classes)] = np.asarray(self._metadata.colours, np.uint16).T * 257
        tifffile.imwrite(
            stream,
            segmentation.labels,
            photometric="palette",
            colormap=table,
            compression="zlib",
            description=self._provenance,
            metadata=None,
        )

    def _write_probabilities(self, stream: BinaryIO, segmentation: Segmentation) -> None:
        import tifffile

        tifffile.imwrite(
            stream,
            scaled(segmentation),
            photometric="minisblack",
            compression="zlib",
            description=self._provenance,
            metadata=None,
        )

    def _probability_file(self, name: str) -> Path:
        return self.path / f"{name}{PROBABILITIES_SUFFIX}"


def scaled(segmentation: Segmentation) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(K, H, W) probabilities from 0..1 to 0..255."""
    assert segmentation.probabilities is not None
    return np.rint(segmentation.probabilities * 255).astype(np.uint8)
