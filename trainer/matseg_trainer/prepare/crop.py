"""Random square crops of a data set, as a data set of their own."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import read_picture, read_stored
from matseg_shared.images.stored import StoredImage, transparent_pixels
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset, Sample, load_array, shorten
from matseg_trainer.prepare.folders import new_folder


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
    n_class, size, unlabelled = len(dataset.classes), request.size, dataset.has_unlabelled
    plans = {}
    for number, (split, count) in enumerate((("train", request.n_train), ("validate", request.n_validate))):
        shapes = _shapes(dataset, split, n_class, size)
        rng = np.random.default_rng([request.seed, number])
        plans[split] = _place_crops(shapes, size, count, rng)
    with new_folder(target, overwrite=overwrite) as folder:
        for split, plan in plans.items():
            progress.stage(f"cropping {split}", sum(map(len, plan.values())), unit="crops")
            for pair, corners in plan.items():
                if corners:
                    array = load_array(dataset.array_path(pair.image), n_class, unlabelled=unlabelled)
                    _write_crops(folder / split, pair, array, corners, size)
                    progress.advance(len(corners))
        shutil.copyfile(dataset.classes_path, folder / dataset.classes_path.name)


def _place_crops(
    shapes: Mapping[Sample, tuple[int, int]], size: int, count: int, rng: np.random.Generator
) -> dict[Sample, list[tuple[int, int]]]:
    """Random upper-left corners (y, x) per image, images in turn, none twice."""
    places = {pair: (height - size + 1) * (width - size + 1) for pair, (height, width) in shapes.items()}
    total = sum(places.values())
    if total < count:
        raise DatasetError(
            f"{next(iter(shapes)).image.parent}: expected room for {count} different crops of {size} x {size} pixels, "
            f"found {total}; ask for fewer or smaller ones"
        )
    used: dict[Sample, dict[int, None]] = {pair: {} for pair in shapes}
    turns = itertools.cycle(shapes)
    for _ in range(count):
        pair = next(turns)
        while len(used[pair]) == places[pair]:
            pair = next(turns)
        place = int(rng.integers(places[pair]))
        while place in used[pair]:
            place = (place + 1) % places[pair]
        used[pair][place] = None
    return {
        pair: [divmod(place, shapes[pair][1] - size + 1) for place in taken] for pair, taken in used.items()
    }


def _shapes(dataset: Dataset, split: str, n_class: int, size: int) -> dict[Sample, tuple[int, int]]:
    """(H, W) of each image, which its label image and its array share."""
    samples, pairing = dataset.samples(split), dataset.pairing(split)
    if pairing.problems:
        raise DatasetError(
            f"{dataset.folder(split, 'labels')}: expected one label image for every image, found "
            f"{shorten(pairing.problems)}; correct that first"
        )
    found = {}
    for sample, pair in zip(samples, pairing.pairs, strict=True):
        image, label = read_picture(pair.image), read_stored(pair.labels)
        shapes = [stored.pixels.shape[:2] for stored in (image, label)]
        shapes.append(load_array(sample.labels, n_class, unlabelled=sample.unlabelled).shape)
        if len(set(shapes)) != 1:
            sizes = ", ".join(f"{height} x {width}" for height, width in shapes)
            raise DatasetError(
                f"{pair.image}: expected one size of image, label and array, found {sizes}; run matseg-prep check"
            )
        found[pair] = (shapes[0][0], shapes[0][1])
    smallest = min(found, key=lambda pair: min(found[pair]))
    height, width = found[smallest]
    if min(height, width) < size:
        raise DatasetError(
            f"{smallest.image}: expected images of at least {size} x {size} pixels for crops of that size, found "
            f"{height} x {width}; use a SIZE of at most {min(height, width)}"
        )
    return found


def _write_crops(
    folder: Path, pair: Sample, array: NDArray[np.uint8], corners: Sequence[tuple[int, int]], size: int
) -> None:
    """All crops of one image, read once."""
    image, label = read_picture(pair.image), read_stored(pair.labels)
    if image.transparent:
        raise transparent_pixels(pair.image)  # a crop would be opaque
    mark = pair.labels.stem[len(pair.stem) :]
    for y, x in corners:
        cut = (slice(y, y + size), slice(x, x + size))
        name = f"{pair.stem}_x{x}_y{y}"
        _write_image(folder / "images" / name, replace(image, pixels=image.pixels[cut]))
        _write_image(folder / "labels" / f"{name}{mark}", replace(label, pixels=label.pixels[cut]))
        with atomic_write(folder / "labels_npy" / f"{name}.npy") as stream:
            np.save(stream, array[cut], allow_pickle=False)


def _write_image(stem: Path, stored: StoredImage) -> None:
    """Without loss and in the mode it came in: PNG, or TIFF for what a PNG or Pillow cannot hold."""
    from PIL import Image

    pixels = np.ascontiguousarray(stored.pixels)
    is_colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    is_png = pixels.dtype == np.uint8 and (pixels.ndim == 2 or is_colour)
    is_png = is_png or (pixels.dtype == np.uint16 and pixels.ndim == 2)
    with atomic_write(stem.with_name(f"{stem.name}.{'png' if is_png else 'tif'}")) as stream:
        if not is_png:
            import tifffile

            layout = "contig" if pixels.ndim == 3 else None
            tifffile.imwrite(
                stream, pixels, photometric="rgb" if is_colour else "minisblack", planarconfig=layout
            )
            return
        image = Image.fromarray(pixels)
        if stored.palette is not None:
            image.putpalette([channel for colour in stored.palette for channel in colour])
        image.save(stream, format="PNG", compress_level=1)
