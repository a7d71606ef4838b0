"""Labelled volumes: the slices of a scan that have labels, from napari, ilastik or whatever saves an array."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.open import split_location
from matseg_shared.console.progress import Progress
from matseg_shared.errors import DatasetError, ImageError, UsageError
from matseg_shared.images.channels import is_grey
from matseg_trainer.data.folder import shorten
from matseg_trainer.prepare.imports.base import Export, ImportRequest, Indices, LabelledImage, Painted, Size
from matseg_trainer.prepare.imports.slices import Slices

_MOST_VALUES = 255
_BRIGHT = 128
"""Classes with values below it are numbered, and 255 is no number among them."""
_LARGEST = 2**53
"""Up to which a real number holds every whole one."""
_HDF5 = b"\x89HDF\r\n\x1a\n"
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LabelledSlice(LabelledImage):
    labels: Slices
    number: int
    """Position of its labels among those."""

    def paint(self, size: Size, indices: Indices) -> Painted:
        found = _whole(self.labels, self.number)
        table = {value: indices[_name(value)] for value in np.unique(found).tolist()}
        return Painted.of_values(found, table, size, f"{self.labels.location}: slice {self.number}")


def read_volumes(
    pairs: Sequence[tuple[str, str]], request: ImportRequest, opened: ExitStack, progress: Progress
) -> Export:
    """The labelled slices of some volumes: those that hold another value than 0, or than `request.unlabelled`.

    Args:
        pairs: locations of images and labels, each as `matseg-run` takes them.
        request: names the axis, and the values that are no class.
        opened: closes the files.
        progress: told of each slice of labels.

    Raises:
        DatasetError: images and labels do not fit, or hold no labels.
    """
    blank = {_number(text) for text in request.unlabelled}
    axes = [ilastik_axes(labels) for _, labels in pairs]
    from_ilastik = None not in axes
    if from_ilastik:
        blank = blank or {0}
    for (_, labels_at), found_axes in zip(pairs, axes, strict=True):
        spatial = [axis for axis in found_axes or "" if axis in "xyz"]
        if spatial != sorted(spatial, reverse=True):
            raise DatasetError(
                f"{labels_at}: expected axes in the order zyx, found {found_axes}; export it again with Transpose to "
                "Axis Order zyxc, or yxc for a picture"
            )
    counts: dict[int, int] = {}
    images: list[LabelledImage] = []
    slices = 0
    for images_at, labels_at in pairs:
        pictures = Slices.open(images_at, request.axis, opened)
        labels = Slices.open(labels_at, request.axis, opened, as_labels=True)
        progress.stage("reading labels", len(labels.names), unit="slices")
        slices += len(labels.names)
        for picture, number in _matched(pictures, labels):
            progress.advance()
            values, found = np.unique(_whole(labels, number), return_counts=True)
            if set(values.tolist()) <= (blank or {0}):
                continue
            for value, count in zip(values.tolist(), found.tolist(), strict=True):
                counts[value] = counts.get(value, 0) + count
            if len(counts) > _MOST_VALUES:
                raise DatasetError(
                    f"{labels_at}: expected at most {_MOST_VALUES} values, one per class, found more; are they numbers "
                    "of single particles? Label phases instead"
                )
            images.append(
                _LabelledSlice(
                    name=pictures.names[picture],
                    image=pictures.picture(picture),
                    labels=labels,
                    number=number,
                    voxel=pictures.voxel,
                )
            )
    if not images:
        shown = ", ".join(map(str, sorted(blank or {0})))
        raise DatasetError(
            f"{pairs[0][1]}: expected labels, found {shown} at every pixel of {slices} slice(s); save the labels "
            "layer, and not another one"
        )
    notes = [f"{len(images)} of {slices} slices have labels"] if len(images) < slices else []
    return Export(
        tool="ilastik" if from_ilastik else "label values",
        images=images,
        classes=tuple(_name(value) for value in sorted(counts) if value not in blank),
        unlabelled=frozenset(map(_name, blank)),
        kind="values",
        notes=(*notes, *_doubts(counts, blank)),
    )


def ilastik_pairs(files: Sequence[Path], images: str | None) -> list[tuple[str, str]]:
    """Images for what ilastik exported as `<name>_<source>.h5`.

    Raises:
        DatasetError: there is none of that name, or nobody said where images are.
    """
    if images is None:
        raise DatasetError(
            f"{files[0]}: holds labels of ilastik alone; name the folder or file with the images that were labelled "
            "with --images"
        )
    folder = Path(images)
    if len(files) == 1 and not (folder.is_dir() and folder.suffix != ".zarr"):
        return [(images, str(files[0]))]
    by_stem = {path.stem: path for path in sorted(folder.iterdir()) if path not in files}
    owners = [_owner(path.stem, by_stem) for path in files]
    if None in owners:
        alone = shorten([path.name for path, owner in zip(files, owners, strict=True) if owner is None])
        raise DatasetError(
            f"{folder}: expected images whose names the exports begin with, found none for {alone}"
        )
    return [(str(by_stem[owner or ""]), str(path)) for path, owner in zip(files, owners, strict=True)]


def ilastik_axes(location: str) -> str | None:
    """The axes of HDF5 as ilastik exports it, such as `yxc`, where 0 is not labelled; None for any other file.

    The text of the attribute is looked for in the file, because HDF5 never returns from reading a damaged one.
    """
    path = Path(split_location(location)[0])
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(len(_HDF5)) != _HDF5:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            tags = re.search(rb'"axes":\s*\[.*?\]', content, re.DOTALL)
            return b"".join(re.findall(rb'"key":\s*"([a-z])"', tags[0])).decode() if tags else None


def _owner(name: str, stems: Collection[str]) -> str | None:
    """The image that a label file is of: the one of its name, or of the longest beginning of it that is a word."""
    owners = [
        stem
        for stem in stems
        if stem and name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum()
    ]
    return max(owners, key=len, default=None)


def _matched(pictures: Slices, labels: Slices) -> Iterator[tuple[int, int]]:
    """Numbers of slices and of their labels: by place, files of folders by name."""
    if None not in (pictures.shape, labels.shape) and _lengths(pictures) != _lengths(labels):
        raise DatasetError(
            f"{labels.location}: expected labels of the shape {pictures.shape} of {pictures.location}, found "
            f"{labels.shape}; save the labels of the whole volume, in the same order of axes"
        )
    known = {name: number for number, name in enumerate(pictures.names)}
    owners = [] if labels.paths is None else [_owner(name, known) for name in labels.names]
    if any(owners):
        alone = [name for name, owner in zip(labels.names, owners, strict=True) if owner is None]
        several = [name for name, owner in zip(labels.names, owners, strict=True) if owners.count(owner) > 1]
        if alone or several:
            found = f"none for {shorten(alone)}" if alone else f"several of one image: {shorten(several)}"
            raise DatasetError(
                f"{labels.location}: expected one label image each for images in {pictures.location}, found {found}; "
                "their names begin with the images'"
            )
        yield from ((known[owner or ""], number) for number, owner in enumerate(owners))
        return
    if len(labels.names) != len(pictures.names):
        raise DatasetError(
            f"{labels.location}: expected labels for the {len(pictures.names)} slice(s) of {pictures.location}, found "
            f"{len(labels.names)}; save the labels of the whole volume, or a folder of label images named as the slices"
        )
    yield from zip(range(len(pictures.names)), range(len(labels.names)), strict=True)


def _lengths(volume: Slices) -> list[int]:
    """Lengths of the axes that are longer than 1."""
    return [length for length in volume.shape or () if length != 1]


def _whole(labels: Slices, number: int) -> Labels:
    """(H, W) label values of a slice.

    Raises:
        ImageError: they are no whole numbers.
    """
    pixels = labels.read(number)
    where = f"{labels.location}: slice {number}"
    if pixels.ndim == 3:
        if not is_grey(pixels):
            raise ImageError(
                where, "expected one label value per pixel, found colours; save labels, not a picture of them"
            )
        pixels = pixels[..., 0]
    if pixels.dtype.kind == "f" and not ((np.abs(pixels) < _LARGEST) & (pixels == np.rint(pixels))).all():
        raise ImageError(
            where, f"expected whole numbers as labels, found {pixels.dtype} with fractions or NaN"
        )
    return pixels.astype(np.int64)


def _name(value: int) -> str:
    return f"label {value}"


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"--unlabelled {text}: expected a label value of a volume, a whole number"
        ) from error


def _doubts(counts: dict[int, int], blank: set[int]) -> list[str]:
    """Values that became classes and look as if they meant that nobody labelled a pixel."""
    rest = {value for value in counts if value not in blank}
    looks_blank = []
    if 0 in rest and len(rest) > 2 and rest - {0, 255} == set(range(1, len(rest - {0, 255}) + 1)):
        looks_blank.append(0)
    if 255 in rest and len(rest) > 2 and max(rest - {255}) < _BRIGHT:
        looks_blank.append(255)
    return [
        f"value {value} ({counts[value] / sum(counts.values()):.1%} of the pixels of these slices) became the class "
        f"{_name(value)!r}; where it means that nobody labelled a pixel, add --unlabelled {value}"
        for value in looks_blank
    ]
