"""Slices of whatever `matseg-run` reads, single pictures, and label files of one picture each, by their number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from matseg_runtime.source.base import SourceOptions, no_neighbours
from matseg_runtime.source.open import open_source
from matseg_runtime.units import VoxelSize
from matseg_shared.errors import ImageError
from matseg_shared.images.channels import is_grey
from matseg_shared.images.read import (
    IMAGE_SUFFIXES,
    TIFF_SUFFIXES,
    PixelArray,
    natural_key,
    read_any_dtype,
    read_stored,
)
from matseg_trainer.prepare.imports.base import ImportRequest, Picture

_ARRAY_SUFFIX = ".npy"
_NUMBERS = re.compile(
    rb"(\xef\xbb\xbf)?(\s*#[^\n]*\n)*\s*[-+.\deE]+[ \t,;]+[-+.\deE]+[-+.\deE \t,;]*(\r?\n|$)"
)
"""Comments, then a line of at least two numbers, or the beginning of one."""
_HEAD = 4096
"""Bytes of a file that are looked at."""


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
    around: Callable[[int], Sequence[int]] | None = None
    """Numbers of the slices that a slice is stored with, in their order; None: of itself alone."""

    @classmethod
    def open(
        cls, location: str, request: ImportRequest, opened: ExitStack, *, labels_of: str | None = None
    ) -> Slices:
        """Open an image, a folder or a volume, which `opened` closes.

        Args:
            location: as `matseg-run` takes it, or of label files.
            request: names axes and channels.
            opened: closes the files.
            labels_of: location of the pictures, for labels of them; None: these are the pictures.

        Raises:
            UsageError: as `open_source`; or slices are to be stored with their neighbours, and have none.
        """
        path, as_labels = Path(location), labels_of is not None
        is_image = path.suffix.lower() in IMAGE_SUFFIXES - TIFF_SUFFIXES and path.is_file()
        files = [path] if is_image else _label_files(path, labels_of) if labels_of is not None else []
        context = 0 if as_labels else request.context
        if files:
            if context:
                raise no_neighbours(location, "one image")
            read = _read_labels if as_labels else partial(read_any_dtype, choice=request.channels)
            names = [file.stem for file in files]
            return cls(location=location, names=names, paths=files, shape=None, read=lambda n: read(files[n]))
        options = SourceOptions(axis=request.axis, axes=request.axes, channels=request.channels)
        if as_labels:  # which have no channels; chunks of nothing but 0 are not stored
            axes = request.axes and request.axes.replace("c", "")
            options = SourceOptions(axis=request.axis, axes=axes, as_labels=True, fill_missing_chunks=True)
        source = open_source(location, options)
        opened.callback(source.close)
        if context:
            source.require_neighbours()
        names, paths = [item.name for item in source.slices], None
        if source.volume is None:
            paths = [Path(item.where) for item in source.slices]
        elif len(names) == 1 and path.suffix.lower() in TIFF_SUFFIXES and not request.axes:
            paths = [path]
        return cls(
            location=location,
            names=names,
            paths=paths,
            shape=None if source.volume is None else source.volume.shape,
            read=lambda n: source.read(n, n + 1)[0],
            voxel=None if source.volume is None else source.voxel_size(),
            around=(lambda n: [item.index for item in source.neighbours(n, context)]) if context else None,
        )

    def picture(self, number: int) -> Picture:
        """The slice's file, or a function that reads it, with its neighbours as channels where they are asked for."""
        if self.around is not None:
            return partial(self._with_neighbours, self.around(number))
        return self.paths[number] if self.paths is not None else partial(self.read, number)

    def _with_neighbours(self, numbers: Sequence[int]) -> PixelArray:
        """(H, W, C) pixels of several slices."""
        read = [self.read(number) for number in numbers]
        if all(map(is_grey, read)):  # also such as are stored as RGB
            read = [pixels if pixels.ndim == 2 else pixels[..., 0] for pixels in read]
        slices = [np.atleast_3d(pixels) for pixels in read]
        own = slices[len(slices) // 2]
        for number, pixels in zip(numbers, slices, strict=True):
            if (pixels.shape, pixels.dtype) != (own.shape, own.dtype):
                expected, found = (f"{one.shape} {one.dtype}" for one in (own, pixels))
                raise ImageError(
                    f"{self.location}: {self.names[number]}",
                    f"expected pixels like those of the slice beside it, {expected}, found {found}",
                )
        return np.concatenate(slices, axis=-1)


def is_label_array(path: Path) -> bool:
    """True for a file of numbers: an array of numpy, or rows of numbers as text, whatever its name."""
    if path.suffix.lower() in IMAGE_SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as stream:
        return path.suffix.lower() == _ARRAY_SUFFIX or _NUMBERS.match(stream.read(_HEAD)) is not None


def _label_files(path: Path, labels_of: str) -> list[Path]:
    """Label files of which some are no images; none where `open_source` reads them all, or a volume.

    Images in the folder of the pictures are these, and no labels.
    """
    if not path.is_dir():
        return [path] if path.suffix.lower() != _ARRAY_SUFFIX and is_label_array(path) else []
    files = [file for file in path.iterdir() if not file.name.startswith(".")]
    found = [file for file in files if is_label_array(file)]
    if found and path.resolve() != Path(labels_of).resolve():
        found += [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    return sorted(found, key=lambda file: natural_key(file.name))


def _read_labels(path: Path) -> PixelArray:
    """(H, W) labels of one picture, or (H, W, 3) as an image may have them."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return read_stored(path).pixels
    if suffix == _ARRAY_SUFFIX:
        with closing(open_source(str(path), SourceOptions(as_labels=True))) as source:
            if len(source.slices) == 1:
                return source.read(0, 1)[0]
            found = f"an array of the shape {source.volume and source.volume.shape}"
            raise ImageError(path, f"expected the labels of one picture, found {found}")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            rows: PixelArray = np.loadtxt((line.translate(_SPACES) for line in lines), ndmin=2)
    except (OSError, ValueError) as error:
        raise ImageError(
            path, f"expected rows of as many whole numbers each, found something else ({error})"
        ) from error
    return rows


_SPACES = str.maketrans(",;", "  ")
