"""A folder of images, in natural order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from matseg_runtime.source.base import (
    InputIdentity,
    Skipped,
    Slice,
    Source,
    SourceOptions,
    file_identity,
    file_state,
    no_neighbours,
    refuse_growing_file,
    require_output_name,
)
from matseg_runtime.source.order import around, by_place, consecutive_runs, numbering_gaps
from matseg_runtime.units import VoxelSize
from matseg_shared.errors import UsageError
from matseg_shared.images.channel_files import read_channel_files
from matseg_shared.images.channels import pick_channels
from matseg_shared.images.read import (
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    PixelArray,
    list_images,
    read_any_dtype,
    read_stored,
    scan_images,
)

PROBABILITIES_SUFFIX = "_probabilities.tif"
"""Ends the name of the file with a slice's class probabilities, beside its label image."""
_KEPT_BYTES = 64 << 20
"""Memory for images that a sample has read, for the run that reads them next."""
_GONE = "missing"
"""Identity of a file that is not there: reading it tells."""


class FolderSource(Source):
    """The images directly in a folder; everything else in it is skipped, and named."""

    def __init__(self, location: str, options: SourceOptions) -> None:
        """List the folder, once; a UsageError where it has no images, or two that would share an output name."""
        folder = Path(location)
        images, others = scan_images(folder)
        if options.as_labels:
            names = {Path(entry.name).stem + PROBABILITIES_SUFFIX for entry in images}
            others += [entry for entry in images if entry.name in names]
            images = [entry for entry in images if entry.name not in names]
        self._folder = folder
        self._as_labels, self._channels = options.as_labels, options.channels
        pictures: list[tuple[str, tuple[Path, ...]]]
        pictures = [(Path(entry.name).stem, (folder / entry.name,)) for entry in images]
        states = {folder / entry.name: file_state(entry) for entry in images}
        if options.channel_files is not None:
            pictures = list(options.channel_files.group(folder, [entry.name for entry in images]).items())
            used = {file for _, files in pictures for file in files}
            others += [entry for entry in images if folder / entry.name not in used]
            if images and not pictures:
                raise UsageError(
                    f"{folder}: expected files named {options.channel_files}, found none among {len(images)} images, "
                    f"such as {images[0].name}"
                )
        self._files = tuple(files for _, files in pictures)
        self.location = location
        self.beside = folder.absolute()
        self.identity = InputIdentity(kind="folder", name=self.beside.name, content="")
        rest = [folder / entry.name for entry in others]
        self.skipped = tuple(Skipped(path=path, reason=skip_reason(path)) for path in rest)
        if not images:
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            found = f"only {', '.join(path.name for path in rest[:3])}{more}" if rest else "nothing"
            raise UsageError(
                f"{folder}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found {found}; "
                "name the folder that holds the slices themselves, or the file of a volume"
            )
        stems: dict[str, Path] = {}
        for name, (path, *_) in pictures:
            require_output_name(str(path), name)
            # names that differ in case only are one file on Windows and macOS
            if (other := stems.setdefault(name.casefold(), path)) is not path:
                raise UsageError(
                    f"{folder}: {other.name} and {path.name} would both be written to {name}.png; rename one of "
                    "them or move it away"
                )
        self.slices = tuple(
            Slice(
                index=index,
                name=name,
                where=str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more channels",
                identity="; ".join(states[file].identity if file in states else _GONE for file in files),
            )
            for index, (name, files) in enumerate(pictures)
        )
        self._looked: dict[int, tuple[PixelArray, str]] = {}
        newest = max(states, key=lambda path: states[path].changed)
        refuse_growing_file(newest, states[newest])

    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        return [self._read(index) for index in range(start, min(stop, len(self.slices)))]

    def look(self, index: int) -> PixelArray:
        ((pixels, identity),) = self.read_unchanged([self.slices[index]])
        if sum(kept.nbytes for kept, _ in list(self._looked.values())) + pixels.nbytes <= _KEPT_BYTES:
            self._looked[index] = pixels, identity
        return pixels

    def keep_little(self) -> None:
        self._looked.clear()

    def _read(self, index: int) -> PixelArray:
        files, kept = self._files[index], self._looked.pop(index, None)
        if kept is not None and kept[1] == self.current_identity(index):
            return kept[0]
        if self._as_labels:
            return read_stored(files[0]).pixels
        if len(files) == 1:
            return read_any_dtype(files[0], self._channels)
        return pick_channels(read_channel_files(files), self._channels, files[0])

    def current_identity(self, index: int) -> str:
        return "; ".join(file_identity(file) for file in self._files[index])

    def data_bar(self, index: int) -> int | None:
        path = self._files[index][0]
        if path.suffix.lower() not in TIFF_SUFFIXES:  # tifffile need not be imported for others
            return None
        from matseg_runtime.source.sem_tags import picture_bar

        return picture_bar(path, self.slices[index].identity)

    def require_neighbours(self) -> None:
        if alone := [item.name for item in self.slices if item.index not in self._runs]:
            found = f"{alone[0]}, which has no number in its name"
        elif len(self.slices) == 1:
            found = "one image"
        elif all(len(run) == 1 for run, _ in self._runs.values()):
            found = f"{len(self.slices)} images of which none follows another by its number"
        else:
            return
        raise no_neighbours(self.location, found)

    def neighbours(self, index: int, context: int) -> tuple[Slice, ...]:
        return tuple(self.slices[place] for place in around(*self._runs[index], context))

    @cached_property
    def _runs(self) -> dict[int, tuple[list[int], int]]:
        """Run of consecutive images that each is in, and its position there."""
        return by_place(consecutive_runs([item.name for item in self.slices]))

    def voxel_size(self) -> VoxelSize | None:
        """The size in its TIFFs, when the first and the last agree."""
        ends = (self._files[0][0], self._files[-1][0])
        if not all(path.suffix.lower() in TIFF_SUFFIXES for path in ends):
            return None
        from matseg_runtime.source.tiff_scale import image_voxel_size

        first, last = (image_voxel_size(path) for path in ends)
        return None if first is None or last is None or not first.agrees_with(last) else first

    def warnings(self) -> tuple[str, ...]:
        if len(self.slices) == 1:
            return ()
        gaps = numbering_gaps([item.name for item in self.slices])
        return () if gaps is None else (gaps,)

    def new_files(self) -> tuple[Path, ...]:
        known = {file for files in self._files for file in files}
        known |= {entry.path for entry in self.skipped}
        return tuple(path for path in list_images(self._folder)[0] if path not in known)


def skip_reason(path: Path) -> str:
    """Reason for which an entry of a folder is no image of it."""
    if path.is_dir():
        return "a subfolder"
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return "not named as --channel-files has it"
    return f"not an image file ({path.suffix or 'no suffix'})" if path.is_file() else "not a file"
