"""Label values: slices of a scan, or pictures, that have labels from napari, ilastik or whatever saves an array."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.open import split_location
from matseg_shared.console.progress import Progress
from matseg_shared.contract.classes import UNLABELLED, LabelValue
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, ImageError, UsageError
from matseg_shared.images.channels import is_grey
from matseg_shared.images.read import IMAGE_SUFFIXES
from matseg_trainer.data.class_table import ClassTable
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.labels import LabelKind, LabelScan, packed, read_values, require_whole
from matseg_trainer.prepare.imports.base import (
    OUTSIDE,
    Export,
    ImportRequest,
    Indices,
    LabelledImage,
    Painted,
    Size,
)
from matseg_trainer.prepare.imports.slices import Slices
from matseg_trainer.prepare.imports.values import value_table
from matseg_trainer.prepare.label_request import as_kind, parse_value

_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LabelledSlice(LabelledImage):
    labels: Slices
    number: int
    """Position of its labels among those."""
    table: ClassTable

    def paint(self, size: Size, indices: Indices) -> Painted:
        found = self.table.encode(_values(self.labels, self.number, self.table.kind))
        values = {item.index: indices[item.name] for item in self.table.classes}
        return Painted.of_values(
            found, values | {UNLABELLED: indices[OUTSIDE]}, size, _where(self.labels, self.number)
        )


def read_volumes(
    pairs: Sequence[tuple[str, str]],
    request: ImportRequest,
    known: Sequence[ClassInfo],
    opened: ExitStack,
    progress: Progress,
) -> Export:
    """The labelled slices of some volumes: those that hold another value than 0, or than `request.unlabelled`.

    `pairs` has locations of images and labels, as `matseg-run` takes them; all else is as in `open_export`.

    Raises:
        DatasetError: images and labels do not fit, or hold no labels, or values that stand for no class.
    """
    blank = tuple(map(_parse_blank, request.unlabelled))
    kind: LabelKind = "grey"
    if any(isinstance(value, tuple) for value in (*blank, *(value for _, value in request.named))):
        kind = "colour"
    axes = [ilastik_axes(labels) for _, labels in pairs]
    from_ilastik = None not in axes
    if from_ilastik:
        blank = blank or (0,)
    for (_, labels_at), found_axes in zip(pairs, axes, strict=True):
        spatial = [axis for axis in found_axes or "" if axis in "xyz"]
        if spatial != sorted(spatial, reverse=True):
            raise DatasetError(
                f"{labels_at}: expected axes in the order zyx, found {found_axes}; export it again with Transpose to "
                "Axis Order zyxc, or yxc for a picture"
            )
    nothing = {packed(as_kind(value, kind)) for value in blank}
    scans: list[LabelScan] = []
    taken: list[Callable[..., LabelledImage]] = []
    notes: list[str] = []
    slices = 0
    for images_at, labels_at in pairs:
        pictures = Slices.open(images_at, request, opened)
        labels = Slices.open(labels_at, request, opened, labels_of=images_at)
        progress.stage("reading labels", len(labels.names), unit="slices")
        for picture, number in _matched(pictures, labels, notes):
            progress.advance()
            slices += 1
            values, counts = np.unique(_values(labels, number, kind), return_counts=True)
            if set(values.tolist()) <= (nothing or {0}):
                continue
            known_pixels = ~np.isin(values, list(nothing))
            scans.append(
                LabelScan(
                    path=Path(_where(labels, number)),
                    kind=kind,
                    shape=(1, int(counts[known_pixels].sum())),  # rarity is one among what is labelled
                    values=values[known_pixels],
                    counts=counts[known_pixels],
                )
            )
            name, image, voxel = pictures.names[picture], pictures.picture(picture), pictures.voxel
            taken.append(
                partial(_LabelledSlice, name=name, image=image, voxel=voxel, labels=labels, number=number)
            )
    if not taken:
        raise DatasetError(
            f"{pairs[0][1]}: expected labels, found {', '.join(map(str, blank or (0,)))} at every pixel of {slices} "
            "slice(s); save the labels layer, and not another one"
        )
    if len(taken) < slices:
        notes.append(f"{len(taken)} of {slices} slices have labels")
    table, doubts = value_table(scans, request, blank, known, pairs[0][1])
    return Export(
        tool="ilastik" if from_ilastik else "label values",
        images=[made(table=table) for made in taken],
        classes=tuple(item.name for item in table.classes),
        kind="values",
        notes=(*notes, *doubts),
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
    """The image that a label file is of.

    That of its name, or of the longest beginning of it that is a word; else the only one with its only number, as
    `0012_slice` is that of `mask_12`.
    """
    owners = [
        stem
        for stem in stems
        if stem and name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum()
    ]
    if not owners and len(number := _numbers(name)) == 1:
        same = [stem for stem in stems if _numbers(stem) == number]
        owners = same if len(same) == 1 else []
    return max(owners, key=len, default=None)


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall("[0-9]+", name)]


def _matched(pictures: Slices, labels: Slices, notes: list[str]) -> Iterator[tuple[int, int]]:
    """Numbers of slices and of their labels: by place, files of folders by name; what deserves a note is noted."""
    if None not in (pictures.shape, labels.shape) and _lengths(pictures) != _lengths(labels):
        raise DatasetError(
            f"{labels.location}: expected labels of the shape {pictures.shape} of {pictures.location}, found "
            f"{labels.shape}; save the labels of the whole volume, in the same order of axes"
        )
    position = {name: number for number, name in enumerate(pictures.names)}
    owners = [] if labels.paths is None else [_owner(name, position) for name in labels.names]
    if any(owners):
        files: dict[str | None, list[int]] = {}
        for number, owner in enumerate(owners):
            files.setdefault(owner, []).append(number)
        if alone := [labels.names[number] for number in files.pop(None, [])]:
            found = f"none for {shorten(alone)}"
        elif several := [same for same in files.values() if not _are_one(labels, same)]:
            found = f"several of one image: {shorten([labels.names[number] for number in several[0]])}"
        else:
            if twice := [labels.names[number] for same in files.values() for number in same[1:]]:
                notes.append(
                    f"{shorten(twice)}: say the same as another file of their image, and were left out"
                )
            other = [f"{labels.names[same[0]]} of {owner}" for owner, same in files.items()]
            other = [
                words for words, owner in zip(other, files, strict=True) if not words.startswith(str(owner))
            ]
            if other:
                notes.append(f"labels were matched with images by their numbers: {shorten(other)}")
            yield from sorted((position[owner or ""], same[0]) for owner, same in files.items())
            return
        raise DatasetError(
            f"{labels.location}: expected one label image each for images in {pictures.location}, found {found}; "
            "names of label images begin with the images', or have their numbers: rename or take out the others"
        )
    if len(labels.names) != len(pictures.names):
        raise DatasetError(
            f"{labels.location}: expected labels for the {len(pictures.names)} slice(s) of {pictures.location}, found "
            f"{len(labels.names)}; save the labels of the whole volume, or a folder of label images named as the slices"
        )
    if labels.paths is not None and pictures.paths is not None and len(labels.names) > 1:
        pairs = [f"{label} of {name}" for label, name in zip(labels.names, pictures.names, strict=True)]
        notes.append(f"labels were matched with images by their order: {shorten(pairs)}")
    yield from zip(range(len(pictures.names)), range(len(labels.names)), strict=True)


def _are_one(labels: Slices, numbers: Sequence[int]) -> bool:
    """True where files hold the same labels, as in two formats."""
    first, *others = (labels.read(number) for number in numbers)
    return all(np.array_equal(first, other) for other in others)


def _lengths(volume: Slices) -> list[int]:
    """Lengths of the axes that are longer than 1."""
    return [length for length in volume.shape or () if length != 1]


def _where(labels: Slices, number: int) -> str:
    """Name of a slice of labels in messages."""
    return f"{labels.location}: slice {number}" if labels.paths is None else str(labels.paths[number])


def _values(labels: Slices, number: int, kind: LabelKind) -> NDArray[np.int64]:
    """(H, W) label values of a slice, of colours 0xRRGGBB."""
    path = None if labels.paths is None else labels.paths[number]
    if kind == "colour" and path is not None and path.suffix.lower() in IMAGE_SUFFIXES:
        return read_values(path, kind)
    pixels, where = labels.read(number), _where(labels, number)
    if not is_grey(pixels):
        raise ImageError(
            where,
            "expected one label value per pixel, found colours; save labels, not a picture of them, or say with "
            "--class NAME=R,G,B what each of its colours stands for",
        )
    require_whole(pixels, where)
    return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.int64)


def _parse_blank(text: str) -> LabelValue:
    try:
        return parse_value(text)
    except UsageError as error:
        raise UsageError(f"--unlabelled {error}") from error
