"""Random square crops of a data set, as a data set of their own."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import StoredImage, read_stored, transparent_pixels
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset, Sample, load_array, shorten
from matseg_trainer.prepare.folders import new_folder

CROPPED = ("train", "validate")


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRequest:
    """Size and numbers of crops."""

    size: int
    """Edge in pixels."""
    n_train: int
    """Crops in total over the images of train."""
    n_validate: int
    """Crops in total over the images of validate."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One image, and the files that are cropped along with it."""

    pair: Sample
    array: Path
    shape: tuple[int, int]
    """(H, W) in pixels."""


def default_name(dataset: str, size: int, n_train: int) -> str:
    """The user guide's name for a cropped data set."""
    return f"{dataset}_{size}pix{n_train}num"


def crop_dataset(
    dataset: Dataset,
    target: Path,
    request: CropRequest,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Write the crops of train and validate as the data set `target`, all of it or nothing.

    Raises:
        DatasetError: an image is smaller than a crop, lacks its label or array, or has fewer places than asked for.
        UsageError: `target` exists and `overwrite` is not given, or is the data set itself.
        OutputError: it cannot be written.
    """
    if target.resolve() == dataset.root.resolve():
        raise UsageError(f"{target}: a data set cannot be cropped onto itself; choose another name with -r")
    n_class = len(dataset.classes)
    plans = {}
    for split, count in zip(CROPPED, (request.n_train, request.n_validate), strict=True):
        sources = _sources(dataset, split, n_class, request.size)
        rng = np.random.default_rng([request.seed, CROPPED.index(split)])
        plans[split] = list(zip(sources, place_crops(sources, request.size, count, rng), strict=True))
    with new_folder(target, overwrite=overwrite) as folder:
        for split, plan in plans.items():
            progress.stage(f"cropping {split}", sum(len(corners) for _, corners in plan), unit="crops")
            for source, corners in plan:
                if corners:
                    _write_crops(folder / split, source, corners, request.size, n_class)
                    progress.advance(len(corners))
        shutil.copyfile(dataset.classes_path, folder / dataset.classes_path.name)


def place_crops(
    sources: Sequence[Source], size: int, count: int, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Random upper-left corners (y, x) per image, images in turn, none twice.

    Raises:
        DatasetError: the images have fewer places than `count`.
    """
    places = [(s.shape[0] - size + 1) * (s.shape[1] - size + 1) for s in sources]
    if sum(places) < count:
        raise DatasetError(
            f"{sources[0].pair.image.parent}: expected room for {count} different crops of {size} x {size} pixels, "
            f"found {sum(places)}; ask for fewer or smaller ones"
        )
    used: list[dict[int, None]] = [{} for _ in sources]
    turns = itertools.cycle(range(len(sources)))
    for _ in range(count):
        index = next(turns)
        while len(used[index]) == places[index]:
            index = next(turns)
        place = int(rng.integers(places[index]))
        while place in used[index]:
            place = (place + 1) % places[index]
        used[index][place] = None
    return [
        [divmod(place, source.shape[1] - size + 1) for place in taken]
        for source, taken in zip(sources, used, strict=True)
    ]


def _sources(dataset: Dataset, split: str, n_class: int, size: int) -> list[Source]:
    samples = dataset.samples(split)
    pairing = dataset.pairing(split)
    if pairing.problems:
        raise DatasetError(
            f"{dataset.folder(split, 'labels')}: expected one label image for every image, found "
            f"{shorten(pairing.problems)}; correct that first"
        )
    sources = []
    for sample, pair in zip(samples, pairing.pairs, strict=True):
        shapes = [read_stored(path).pixels.shape[:2] for path in (pair.image, pair.labels)]
        shapes.append(load_array(sample.labels, n_class).shape)
        if len(set(shapes)) != 1:
            found = ", ".join(f"{height} x {width}" for height, width in shapes)
            raise DatasetError(
                f"{pair.image}: expected one size of image, label and array, found {found}; run matseg-prep check"
            )
        sources.append(Source(pair=pair, array=sample.labels, shape=(shapes[0][0], shapes[0][1])))
    smallest = min(sources, key=lambda source: min(source.shape))
    if min(smallest.shape) < size:
        height, width = smallest.shape
        raise DatasetError(
            f"{smallest.pair.image}: expected images of at least {size} x {size} pixels for crops of that size, found "
            f"{height} x {width}; use a SIZE of at most {min(smallest.shape)}"
        )
    return sources


def _write_crops(
    folder: Path, source: Source, corners: Sequence[tuple[int, int]], size: int, n_class: int
) -> None:
    """All crops of one source, read once."""
    stem = source.pair.image.stem
    array = load_array(source.array, n_class)
    image, label = (read_stored(path) for path in (source.pair.image, source.pair.labels))
    if image.transparent:
        raise transparent_pixels(source.pair.image)  # a crop would be opaque
    for y, x in corners:
        cut = (slice(y, y + size), slice(x, x + size))
        name = f"{stem}_x{x}_y{y}"
        mark = source.pair.labels.stem[len(stem) :]
        _write_image(folder / "images" / name, StoredImage(pixels=image.pixels[cut], palette=image.palette))
        _write_image(
            folder / "labels" / f"{name}{mark}", StoredImage(pixels=label.pixels[cut], palette=label.palette)
        )
        with atomic_write(folder / "labels_npy" / f"{name}.npy") as stream:
            np.save(stream, array[cut], allow_pickle=False)


def _write_image(stem: Path, stored: StoredImage) -> None:
    """Without loss and in the mode it came in: PNG, or TIFF for what a PNG or Pillow cannot hold."""
    from PIL import Image

    pixels = np.ascontiguousarray(stored.pixels)
    is_png = pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2)
    with atomic_write(stem.with_name(f"{stem.name}.{'png' if is_png else 'tif'}")) as stream:
        if not is_png:
            import tifffile

            tifffile.imwrite(stream, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
            return
        image = Image.fromarray(pixels)
        if stored.palette is not None:
            image.putpalette([channel for colour in stored.palette for channel in colour])
        image.save(stream, format="PNG", compress_level=1)
