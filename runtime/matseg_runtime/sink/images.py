"""One label image per slice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from matseg_runtime.inference.tiles import Segmentation, scaled_probabilities
from matseg_runtime.ledger import read_key
from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Block, Result, Sink
from matseg_runtime.sink.imagej import tiff_tags
from matseg_runtime.source.folder import PROBABILITIES_SUFFIX
from matseg_runtime.units import VoxelSize
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import OutputError, UsageError
from matseg_shared.images.png import write_label_png
from matseg_shared.system.files import atomic_write, make_folder, output_errors, sweep
from matseg_shared.system.names import name_problem

LEDGER_NAME = ".matseg"

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
        voxel: VoxelSize | None = None,
        *,
        image_format: ImageFormat = "png",
        probabilities: bool = False,
    ) -> None:
        """Describe the output; nothing is written yet.

        Args:
            folder: made when it is missing.
            metadata: for the palette.
            provenance: JSON that each file carries.
            voxel: None where nobody knows how large a pixel is.
            image_format: `png` or `tiff`.
            probabilities: also write `<name>_probabilities.tif`, one uint8 page per class.
        """
        self.path = self.report_folder = folder
        self.ledger_folder = folder / LEDGER_NAME
        self._metadata = metadata
        self._provenance = provenance
        self._voxel = voxel
        self._format = image_format
        self._probabilities = probabilities

    def file_of(self, name: str) -> Path:
        """Where the labels of a slice go.

        Raises:
            OutputError: not into this folder, by its name.
        """
        if (problem := name_problem(name)) is not None:  # the sources see to it; this is the last door
            raise OutputError(f"{self.path}: {name!r} cannot be the name of labels there: {problem}")
        return self.path / f"{name}{_SUFFIXES[self._format]}"

    def check_place(self, *, overwrite: bool) -> None:
        folder = self.path
        with output_errors(folder):
            if folder.exists() and not folder.is_dir():
                raise UsageError(
                    f"{folder}: expected a folder for the label images, found a file; choose another output with -o"
                )
            is_filled = folder.exists() and any(folder.iterdir())
            # looked at last: a part that starts at this moment puts its ledger there before anything else
            ours = self.ledger_folder.exists()
            if is_filled and not ours and not overwrite:
                raise UsageError(
                    f"{folder}: is not empty and holds no earlier results of matseg-run; choose another output with "
                    "-o, or add to it (replacing files of the same name) with --overwrite"
                )

    def remove_earlier(self, names: Sequence[str]) -> None:
        suffix = self._suffix_before()
        with output_errors(self.path):
            for name in names:
                if name_problem(name) is None:
                    (self.path / f"{name}{suffix}").unlink(missing_ok=True)
                    self._probability_file(name).unlink(missing_ok=True)

    def _suffix_before(self) -> str:
        """Of the earlier job's label images; where nobody knows, those that are about to be replaced."""
        try:
            earlier = read_key(self.ledger_folder)
        except OutputError:  # damaged, which is one reason to start afresh
            earlier = None
        found = None if earlier is None else _SUFFIXES.get(earlier.output_format)
        return found or _SUFFIXES[self._format]

    def clean(self, *, is_new: bool) -> None:  # noqa: ARG002 (label images of earlier jobs stay until replaced)
        with output_errors(self.path):
            sweep(self.path)
            sweep(self.ledger_folder)

    def start(self) -> None:
        with output_errors(self.path):
            make_folder(self.path)

    def lost(self, records: Iterable[SliceRecord]) -> tuple[str, ...]:
        return tuple(record.name for record in records if self._bytes_of(record.name) != record.bytes)

    def _bytes_of(self, name: str) -> int:
        """Of all files of a slice; 0 when one is missing."""
        files = [self.file_of(name)] + ([self._probability_file(name)] if self._probabilities else [])
        try:
            return sum(file.stat().st_size for file in files)
        except OSError:
            return 0

    def withdraw(self, record: SliceRecord) -> None:
        with output_errors(self.path):
            self.file_of(record.name).unlink(missing_ok=True)
            self._probability_file(record.name).unlink(missing_ok=True)

    def write(self, unit: Block, results: Sequence[Result]) -> tuple[int, ...]:  # noqa: ARG002 (a file per slice)
        return tuple(0 if result.segmentation is None else self._write(result) for result in results)

    def finish(self) -> None:
        """Each image has had its final name from the start."""

    def _write(self, result: Result) -> int:
        assert result.segmentation is not None
        path, size = self.file_of(result.slice.name), 0
        if self._probabilities:
            with atomic_write(self._probability_file(result.slice.name)) as stream:
                self._write_probabilities(stream, result.segmentation)
                size = stream.seek(0, os.SEEK_END)
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
            return size + stream.seek(0, os.SEEK_END)

    def _write_tiff(self, stream: BinaryIO, segmentation: Segmentation) -> None:
        import tifffile

        tifffile.imwrite(
            stream,
            segmentation.labels,
            compression="zlib",
            **tiff_tags(self._metadata, self._provenance, self._voxel, slices=1),
        )

    def _write_probabilities(self, stream: BinaryIO, segmentation: Segmentation) -> None:
        import tifffile

        tifffile.imwrite(
            stream,
            scaled_probabilities(segmentation),
            photometric="minisblack",
            compression="zlib",
            description=self._provenance,
            metadata=None,
        )

    def _probability_file(self, name: str) -> Path:
        return self.path / f"{name}{PROBABILITIES_SUFFIX}"
