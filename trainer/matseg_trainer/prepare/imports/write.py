"""An export as a data set: pictures, label images of class indices and `classes.toml`, all of it or nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.source.transform import Window
from matseg_runtime.units import VoxelSize
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import CLASSES_NAME, add_unlabelled, read_classes, write_classes
from matseg_shared.contract.metadata import MAX_CHANNELS
from matseg_shared.errors import DatasetError, ImageError, UsageError
from matseg_shared.images.context import context_names
from matseg_shared.images.palette import Colour
from matseg_shared.images.png import write_label_png
from matseg_shared.images.read import PIXEL_DTYPES, PixelArray, read_any_dtype
from matseg_shared.images.tiff import write_channels
from matseg_shared.system.files import atomic_write
from matseg_shared.system.names import portable_name_problem
from matseg_trainer.data.folder import SPLITS, shorten
from matseg_trainer.prepare.folders import new_folder, refuse_existing_folder
from matseg_trainer.prepare.imports.base import OUTSIDE, Export, ImportRequest, LabelledImage
from matseg_trainer.prepare.imports.find import open_export
from matseg_trainer.prepare.imports.table import ImportTable, import_table


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShare:
    """One class of an import."""

    index: int
    name: str
    colour: Colour
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """Result of an import."""

    dataset: Path
    split: str
    tool: str
    images: int
    classes: tuple[ClassShare, ...]
    unlabelled: int
    """Pixels that nobody labelled, in the pictures that were taken."""
    left_out: tuple[str, ...]
    """Pictures in which nothing is labelled."""
    notes: tuple[str, ...]


def import_labels(
    target: Path, request: ImportRequest, *, overwrite: bool, progress: Progress = SILENT
) -> ImportResult:
    """Make a data set of what another tool exported; where `target` has other splits, one more, of the same classes.

    Raises:
        UsageError: the split exists; the export is of no known tool, contradicts itself, or does not fit its pictures.
        MissingExtraError: an optional package is needed for it.
        OutputError: it cannot be written.
    """
    is_added = any((target / split).is_dir() for split in SPLITS if split != request.split)
    place, known = target / request.split if is_added else target, target / CLASSES_NAME
    refuse_existing_folder(place, overwrite=overwrite)
    with ExitStack() as opened:
        export = open_export(request, read_classes(known) if is_added else (), opened, progress)
        stems = _stems(export, request)
        if request.context and not all(callable(item.image) for item in export.images):
            raise UsageError(
                f"--context applies to volumes and folders of numbered slices, with --labels, not to pictures of "
                f"{export.tool}"
            )
        if not export.classes:
            raise _nothing_drawn(request, stems)
        table = import_table(export, request, known if is_added else None)
        written = _Written(export=export, request=request, table=table)
        with new_folder(place, overwrite=overwrite) as folder:
            written.write(stems, folder if is_added else folder / request.split, progress)
            if not is_added:
                known = folder / CLASSES_NAME
                write_classes(known, table.classes)
            if written.pixels[table.blank]:
                add_unlabelled(known, table.blank)
    return ImportResult(
        dataset=target,
        split=request.split,
        tool=export.tool,
        images=len(stems) - len(written.left_out),
        classes=tuple(
            ClassShare(index=item.index, name=item.name, colour=item.colour, pixels=written.count(item.name))
            for item in table.classes
        ),
        unlabelled=int(written.pixels[table.blank]),
        left_out=tuple(written.left_out),
        notes=tuple(written.notes()),
    )


def _stems(export: Export, request: ImportRequest) -> list[str]:
    """A name for each picture: its own, with those of its folders where several have it."""
    if not export.images:
        raise DatasetError(
            f"{request.source}: expected labelled pictures, found none; was anything drawn in it?"
        )
    missing = [item.name for item in export.images if item.image is None]
    if missing:
        place = "beside it" if request.images is None else f"in {request.images}"
        raise DatasetError(
            f"{request.source}: expected the {len(export.images)} picture(s) that it names {place}, found none for "
            f"{shorten(missing)}; name the folder that holds them with --images"
        )
    parts = [_parts(item) for item in export.images]
    stems = [names[-1] for names in parts]
    depth = 1
    while (repeated := _repeated(stems)) and depth < max(map(len, parts)):
        depth += 1
        stems = [
            "_".join(names[-depth:]) if stem in repeated else stem
            for stem, names in zip(stems, parts, strict=True)
        ]
    if repeated:
        raise DatasetError(
            f"{request.source}: expected pictures of different names, found several called {shorten(repeated)}; rename "
            "them, there and in the tool"
        )
    for stem in stems:
        if (problem := portable_name_problem(stem)) is not None:
            raise DatasetError(
                f"{request.source}: a picture cannot be called {stem!r}, because {problem}; rename it"
            )
    return stems


def _repeated(stems: Sequence[str]) -> list[str]:
    """Those that would be one file on Windows and macOS."""
    counts = Counter(stem.casefold() for stem in stems)
    return sorted({stem for stem in stems if counts[stem.casefold()] > 1})


def _parts(item: LabelledImage) -> tuple[str, ...]:
    """Folders and stem of a picture; a slice has a stem alone."""
    if isinstance(item.image, Path):
        return item.image.with_suffix("").parts[1:] or (item.image.stem,)
    return (item.name if callable(item.image) else PurePosixPath(item.name.replace("\\", "/")).stem,)


@dataclass(slots=True, kw_only=True, eq=False)
class _Written:
    """A data set that is being written, and notes on what came up meanwhile."""

    export: Export
    request: ImportRequest
    table: ImportTable
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """By value in the label images."""
    left_out: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    """To shapes, see `Painted`."""

    def count(self, name: str) -> int:
        """Pixels of a class, or of what lies outside."""
        return int(self.pixels[self.table.indices[name]])

    def write(self, stems: Sequence[str], folder: Path, progress: Progress) -> None:
        """Write all pictures and their label images, but for those without a label."""
        table = self.table
        progress.stage("writing labelled pictures", len(stems), unit="images")
        for item, stem in zip(self.export.images, stems, strict=True):
            image, size = _write_image(item, folder / "images" / stem, self.request)
            painted = item.paint(size, table.indices)
            progress.advance()
            if (painted.labels == table.blank).all():
                image.unlink()
                self.left_out.append(item.name)
                continue
            with atomic_write(folder / "labels" / f"{stem}.png") as stream:
                if table.in_colours:
                    write_label_png(stream, painted.labels, table.palette)
                else:
                    Image.fromarray(painted.labels).save(stream, format="PNG", compress_level=1)
            self.pixels += np.bincount(painted.labels.ravel(), minlength=256)
            self.happened.update(painted.happened)
        drawn = {item.name for item in table.classes} - {table.outside}
        if not any(map(self.count, drawn)):
            raise _nothing_drawn(self.request, stems)

    def notes(self) -> Iterator[str]:
        """Notes for the user, in words."""
        yield from self.export.notes
        happened, outside, classes = self.happened, self.table.outside, self.table.classes
        if self.export.kind == "shapes":
            covered = f"; at {happened['covered']} pixel(s) a later one covers another class"
            yield f"shapes were painted in the file's order{covered if happened['covered'] else ''}"
        if happened["clipped"]:
            yield f"{happened['clipped']} shape(s) reach beyond their picture and were cut off at its edge"
        if happened["too small"]:
            yield f"{happened['too small']} shape(s) are so small that they hold no pixel's centre"
        for name in (item.name for item in classes if not self.count(item.name)):
            if name == outside:
                yield f"nothing lies outside of shapes: class {name!r} has no pixel; --outside unlabelled leaves it out"
            else:
                yield (
                    f"class {name!r} is declared and found nowhere; to do without it, remove its table from "
                    f"{CLASSES_NAME}"
                )
        names = Counter(item.name.casefold() for item in classes)
        if alike := [item.name for item in classes if names[item.name.casefold()] > 1]:
            yield f"{', '.join(alike)} differ in capital letters alone: are they one class?"
        if self.left_out:
            yield f"{len(self.left_out)} picture(s) without a label were left out: {shorten(self.left_out)}"
        if outside is not None and self.request.outside is None:
            yield (
                f"what lies outside of all shapes is the class {outside!r} "
                f"({self.count(OUTSIDE) / self.pixels.sum():.1%} of the pixels); where not everything was drawn, say "
                "--outside unlabelled"
            )


def _nothing_drawn(request: ImportRequest, stems: Sequence[str]) -> DatasetError:
    return DatasetError(
        f"{request.source}: expected something drawn in its {len(stems)} picture(s), found nothing; export it again "
        "when they are labelled"
    )


def _write_image(item: LabelledImage, stem: Path, request: ImportRequest) -> tuple[Path, tuple[int, int]]:
    """Write a picture, as it is or through a window; its file, and its height and width."""
    where = str(item.image) if isinstance(item.image, Path) else f"{request.source}: {item.name}"
    if isinstance(item.image, bytes):
        suffix = next((suffix for suffix, mark in _MARKS.items() if item.image.startswith(mark)), ".png")
        path = stem.with_name(stem.name + suffix)
        with atomic_write(path) as stream:
            stream.write(item.image)
        try:
            pixels = read_any_dtype(path, request.channels)
        except ImageError as error:
            cause = str(error).removeprefix(f"{path}: ")
            raise ImageError(f"{where}, as the export carries it", cause) from error
    elif isinstance(item.image, Path):
        pixels = read_any_dtype(item.image, request.channels)
        path = stem.with_name(stem.name + item.image.suffix.lower())
        with item.image.open("rb") as source, atomic_write(path) as stream:
            shutil.copyfileobj(source, stream)
    else:
        assert item.image is not None  # missing pictures are told before
        path, pixels = stem.with_name(f"{stem.name}.tif"), item.image()
        if pixels.shape[2:] and pixels.shape[2] > MAX_CHANNELS:
            raise UsageError(
                f"{where}: expected at most {MAX_CHANNELS} channels, found {pixels.shape[2]} of "
                f"{2 * request.context + 1} slices; take fewer with --context or --channels"
            )
        pixels = pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels
    if request.window is not None or request.channels:
        path.unlink(missing_ok=True)
        path = stem.with_name(f"{stem.name}.tif")
    if request.window is not None:
        pixels = _windowed(pixels, request.window, where)
    if pixels.dtype.name not in PIXEL_DTYPES:
        raise ImageError(
            where,
            f"expected pixels of {', '.join(PIXEL_DTYPES)} to train on, found {pixels.dtype}; say with --window LO,HI "
            f"which intensities become black and white (here they are {pixels.min():g} to {pixels.max():g}), here and "
            "whenever the model is run",
        )
    if not path.exists():
        with atomic_write(path) as stream:
            _write_tiff(stream, pixels, item.voxel, request.context)
    height, width = pixels.shape[:2]
    if item.size is not None and item.size != (height, width):
        raise DatasetError(
            f"{where}: expected {item.size[0]} x {item.size[1]} pixels (rows x columns) as the export says, found "
            f"{height} x {width}; name the folder of the pictures that were labelled with --images"
        )
    return path, (height, width)


def _windowed(pixels: PixelArray, window: Window, where: str) -> PixelArray:
    """All values of uint16, as `matseg-run --window` gives them to a model of that dtype."""
    if np.isnan(pixels).any():
        raise ImageError(
            where,
            "holds NaN, which a picture of 16 bits cannot hold; save it as float32 and import it without --window",
        )
    values: PixelArray = np.rint(window.shares(pixels) * np.iinfo(np.uint16).max).astype(np.uint16)
    return values


_MARKS = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".bmp": b"BM"}


def _write_tiff(stream: BinaryIO, pixels: PixelArray, voxel: VoxelSize | None, context: int) -> None:
    import tifffile

    size = None if voxel is None else voxel.in_handy_unit()
    if context:
        place = None if size is None else (size.row, size.column, size.unit)
        write_channels(stream, pixels, context_names(pixels.shape[-1], context), place)
        return
    if size is None or pixels.ndim == 3:
        photometric = "rgb" if pixels.shape[2:] == (3,) else "minisblack"
        tifffile.imwrite(stream, pixels, photometric=photometric, planarconfig="contig")
        return
    resolution = (1 / size.column, 1 / size.row)
    tifffile.imwrite(stream, pixels, imagej=True, resolution=resolution, metadata={"unit": size.unit})
