"""One label image per slice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matseg_runtime.inference.tiles import scaled_probabilities
from matseg_runtime.ledger import read_key
from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import Block, LabelInfo, Result, Sink
from matseg_runtime.sink.imagej import tiff_tags
from matseg_runtime.source.folder import PROBABILITIES_SUFFIX
from matseg_shared.errors import OutputError, UsageError
from matseg_shared.images.palette import full_palette
from matseg_shared.images.png import write_label_png
from matseg_shared.system.files import atomic_write, make_folder, output_errors, sweep
from matseg_shared.system.names import name_problem

LEDGER_NAME = ".matseg"

ImageFormat = Literal["png", "tiff"]
_SUFFIXES = {"png": ".png", "tiff": ".tif"}


@dataclass(eq=False)
class ImageSink(Sink):
    """`<folder>/<name>.png` or `.tif`: class indices as pixel values, class colours as palette."""

    path: Path
    info: LabelInfo
    image_format: ImageFormat = "png"
    probabilities: bool = False
    """Write `<name>_probabilities.tif` too, one uint8 page per class."""

    whole_units = False

    def __post_init__(self) -> None:
        self.report_folder, self.ledger_folder = self.path, self.path / LEDGER_NAME

    def file_of(self, name: str) -> Path:
        """Path of a slice's labels.

        Raises:
            OutputError: not into this folder, by its name.
        """
        if (problem := name_problem(name)) is not None:  # the sources see to it; this is the last door
            raise OutputError(f"{self.path}: {name!r} cannot be the name of labels there: {problem}")
        return self.path / f"{name}{_SUFFIXES[self.image_format]}"

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
        try:
            earlier = read_key(self.ledger_folder)
        except OutputError:  # damaged, which is one reason to start afresh
            earlier = None
        suffix = _SUFFIXES.get("" if earlier is None else earlier.output_format, _SUFFIXES[self.image_format])
        with output_errors(self.path):
            for name in names:
                if name_problem(name) is None:
                    (self.path / f"{name}{suffix}").unlink(missing_ok=True)
                    self._probability_file(name).unlink(missing_ok=True)

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
        """Bytes of all files of a slice; 0 when one is missing."""
        files = [self.file_of(name)] + ([self._probability_file(name)] if self.probabilities else [])
        try:
            return sum(file.stat().st_size for file in files)
        except OSError:
            return 0

    def withdraw(self, record: SliceRecord) -> None:
        with output_errors(self.path):
            self.file_of(record.name).unlink(missing_ok=True)
            self._probability_file(record.name).unlink(missing_ok=True)

    def write(self, block: Block, results: Sequence[Result]) -> tuple[int, ...]:  # noqa: ARG002 (a file per slice)
        return tuple(0 if result.segmentation is None else self._write(result) for result in results)

    def finish(self) -> None:
        """Each image has had its final name from the start."""

    def _write(self, result: Result) -> int:
        assert result.segmentation is not None
        labels, size, info = result.segmentation.labels, 0, self.info
        if self.probabilities or self.image_format == "tiff":
            import tifffile  # a tenth of what a short job of PNGs takes to start

        if self.probabilities:
            with atomic_write(self._probability_file(result.slice.name)) as stream:
                tifffile.imwrite(
                    stream,
                    scaled_probabilities(result.segmentation),
                    photometric="minisblack",
                    compression="zlib",
                    description=info.provenance,
                    metadata=None,
                )
                size = stream.seek(0, os.SEEK_END)
        with atomic_write(self.file_of(result.slice.name)) as stream:
            if self.image_format == "png":
                colours = info.metadata.colours
                if result.absent is not None:
                    colours = full_palette(colours)
                write_label_png(stream, labels, colours, text={"matseg": info.provenance})
            else:
                tifffile.imwrite(stream, labels, compression="zlib", **tiff_tags(info, slices=1))
            return size + stream.seek(0, os.SEEK_END)

    def _probability_file(self, name: str) -> Path:
        return self.path / f"{name}{PROBABILITIES_SUFFIX}"
