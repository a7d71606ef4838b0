"""Slices of whatever `matseg-run` reads, or a single picture, by their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.open import open_source
from matseg_runtime.source.slice_reader import SliceReader
from matseg_runtime.units import VoxelSize
from matseg_shared.images.read import IMAGE_SUFFIXES, TIFF_SUFFIXES, PixelArray, read_any_dtype, read_stored
from matseg_trainer.prepare.imports.base import Picture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slices:
    """Pictures in an order."""

    location: str
    names: Sequence[str]
    paths: Sequence[Path] | None
    """Their files; None: parts of a volume."""
    shape: tuple[int, ...] | None
    """Shape of the volume, where there is one."""
    read: Callable[[int], PixelArray]
    """(H, W) or (H, W, C) pixels of the slice of that number."""
    voxel: VoxelSize | None = None

    @classmethod
    def open(cls, location: str, axis: int | None, opened: ExitStack, *, as_labels: bool = False) -> Slices:
        """Open an image, a folder or a volume, which `opened` closes.

        Raises:
            UsageError: as `open_source`.
        """
        path = Path(location)
        if path.suffix.lower() in IMAGE_SUFFIXES - TIFF_SUFFIXES and path.is_file():
            return cls(
                location=location,
                names=[path.stem],
                paths=[path],
                shape=None,
                read=lambda _: read_stored(path).pixels if as_labels else read_any_dtype(path),
            )
        # chunks of nothing but 0 are not stored where labels are
        options = SourceOptions(axis=axis, as_labels=as_labels, fill_missing_chunks=as_labels)
        source = open_source(location, options)
        opened.callback(source.close)
        names = [item.name for item in source.slices]
        is_folder = source.volume is None
        return cls(
            location=location,
            names=names,
            paths=[Path(item.where) for item in source.slices]
            if is_folder
            else [path]
            if len(names) == 1 and path.suffix.lower() in TIFF_SUFFIXES
            else None,
            shape=None if source.volume is None else source.volume.shape,
            read=SliceReader(source).read,
            voxel=None if is_folder else source.voxel_size(),
        )

    def picture(self, number: int) -> Picture:
        """The slice's file, or a function that reads it."""
        return self.paths[number] if self.paths is not None else partial(self.read, number)
