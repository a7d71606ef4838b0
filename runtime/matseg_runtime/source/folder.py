"""A folder of images, in natural order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from matseg_runtime.source.base import (
    InputIdentity,
    Skipped,
    Slice,
    Source,
    SourceOptions,
    file_identity,
    file_state,
    refuse_growing_file,
    require_output_name,
)
from matseg_runtime.units import VoxelSize
from matseg_shared.errors import UsageError
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
_NUMBERED = 5
_MOSTLY = 0.6
"""Images, and share of equal steps between their numbers, from which on a gap means something."""


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
        self._paths = tuple(folder / entry.name for entry in images)
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
        for path in self._paths:
            require_output_name(str(path), path.stem)
            # names that differ in case only are one file on Windows and macOS
            if (other := stems.setdefault(path.stem.casefold(), path)) is not path:
                raise UsageError(
                    f"{folder}: {other.name} and {path.name} would both be written to {path.stem}.png; rename one of "
                    "them or move it away"
                )
        states = [file_state(entry) for entry in images]
        self.slices = tuple(
            Slice(index=index, name=path.stem, where=str(path), identity=state.identity)
            for index, (path, state) in enumerate(zip(self._paths, states, strict=True))
        )
        newest = max(range(len(states)), key=lambda index: states[index].changed)
        refuse_growing_file(self._paths[newest], states[newest])

    def read(self, start: int, stop: int) -> Sequence[PixelArray]:
        if self._as_labels:
            return [read_stored(path).pixels for path in self._paths[start:stop]]
        return [read_any_dtype(path, self._channels) for path in self._paths[start:stop]]

    def current_identity(self, index: int) -> str:
        return file_identity(self._paths[index])

    def data_bar(self, index: int) -> int | None:
        path = self._paths[index]
        if path.suffix.lower() not in TIFF_SUFFIXES:  # tifffile need not be imported for others
            return None
        from matseg_runtime.source.sem_tags import picture_bar

        return picture_bar(path, self.slices[index].identity)

    def voxel_size(self) -> VoxelSize | None:
        """The size in its TIFFs, when the first and the last agree."""
        ends = (self._paths[0], self._paths[-1])
        if not all(path.suffix.lower() in TIFF_SUFFIXES for path in ends):
            return None
        from matseg_runtime.source.tiff_scale import image_voxel_size

        first, last = (image_voxel_size(path) for path in ends)
        return None if first is None or last is None or not first.agrees_with(last) else first

    def warnings(self) -> tuple[str, ...]:
        gaps = numbering_gaps([item.name for item in self.slices])
        return () if gaps is None else (gaps,)

    def new_files(self) -> tuple[Path, ...]:
        known = set(self._paths)
        return tuple(path for path in list_images(self._folder)[0] if path not in known)


def numbering_gaps(names: Sequence[str]) -> str | None:
    """Describe what is missing among images that are numbered evenly but for some, as when a slice was lost.

    Names, in natural order, count with those of the same text around their numbers, so that pictures without a number
    take no part, however many they are. None where nothing is missing, or the names do not tell.
    """
    series: dict[tuple[str, ...], list[tuple[str, list[str]]]] = {}
    for name in names:
        parts = re.split(r"([0-9]+)", name)  # text, number, text, number, ...
        series.setdefault(tuple(parts[::2]), []).append((name, parts[1::2]))
    found = (_gap(members) for members in series.values() if len(members) >= _NUMBERED)
    return next((text for text in found if text is not None), None)


def _gap(members: Sequence[tuple[str, list[str]]]) -> str | None:
    """As `numbering_gaps`, for names with their numbers."""
    columns = zip(*(numbers for _, numbers in members), strict=True)
    counting = [column for column in columns if len(set(column)) > 1]
    if len(counting) != 1:
        return None
    steps = [int(after) - int(before) for before, after in itertools.pairwise(counting[0])]
    usual = max(set(steps), key=steps.count)
    jumps = [place for place, step in enumerate(steps) if step != usual]
    if not jumps or steps.count(usual) < _MOSTLY * len(steps):
        return None
    first = jumps[0]
    return (
        f"the images are numbered in steps of {usual}, but for {len(jumps)} place(s), the first between "
        f"{members[first][0]} and {members[first + 1][0]}: were slices lost?"
    )


def skip_reason(path: Path) -> str:
    """Why an entry of a folder is no image of it."""
    if path.is_dir():
        return "a subfolder"
    return f"not an image file ({path.suffix or 'no suffix'})" if path.is_file() else "not a file"
