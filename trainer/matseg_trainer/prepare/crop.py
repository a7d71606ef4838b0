"""Random square crops of a data set, as a data set of their own."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import UNLABELLED
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import PIXEL_DTYPES, read_picture, read_stored
from matseg_shared.images.stored import StoredImage, transparent_pixels
from matseg_shared.images.tiff import channel_names, write_channels
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset, Sample, load_array, shorten
from matseg_trainer.data.no_data import told_bar
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
        rooms = _rooms(dataset, split, n_class, size)
        rng = np.random.default_rng([request.seed, number])
        plans[split] = _place_crops(rooms, size, count, rng)
    with new_folder(target, overwrite=overwrite) as folder:
        for split, plan in plans.items():
            progress.stage(f"cropping {split}", sum(map(len, plan.values())), unit="crops")
            for pair, corners in plan.items():
                if corners:
                    array = load_array(dataset.array_path(pair.image), n_class, unlabelled=unlabelled)
                    _write_crops(folder / split, pair, array, corners, size)
                    progress.advance(len(corners))
        shutil.copyfile(dataset.classes_path, folder / dataset.classes_path.name)


class _Room(NamedTuple):
    """Room for crops in one image."""

    shape: tuple[int, int]
    """(H, W) of the image."""
    places: Sequence[int] | NDArray[np.intp]
    """Upper-left corners of crops with a label in them, as flat indices of (H - size + 1, W - size + 1)."""


def _labelled_places(labels: NDArray[np.uint8], size: int) -> Sequence[int] | NDArray[np.intp]:
    known = labels != UNLABELLED
    if known.all():
        return range((labels.shape[0] - size + 1) * (labels.shape[1] - size + 1))
    sums = np.pad(known, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    inside = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return np.flatnonzero(inside)


def _place_crops(
    rooms: Mapping[Sample, _Room], size: int, count: int, rng: np.random.Generator
) -> dict[Sample, list[tuple[int, int]]]:
    """Random upper-left corners (y, x) per image, images in turn, none twice."""
    total = sum(len(room.places) for room in rooms.values())
    if total < count:
        raise DatasetError(
            f"{next(iter(rooms)).image.parent}: expected room for {count} different crops of {size} x {size} pixels "
            f"with labels in them, found {total}; ask for fewer or smaller ones"
        )
    used: dict[Sample, dict[int, None]] = {pair: {} for pair in rooms}
    turns = itertools.cycle(rooms)
    for _ in range(count):
        pair = next(turns)
        while len(used[pair]) == len(rooms[pair].places):
            pair = next(turns)
        place = int(rng.integers(len(rooms[pair].places)))
        while place in used[pair]:
            place = (place + 1) % len(rooms[pair].places)
        used[pair][place] = None
    return {
        pair: [divmod(int(rooms[pair].places[place]), rooms[pair].shape[1] - size + 1) for place in taken]
        for pair, taken in used.items()
    }


def _rooms(dataset: Dataset, split: str, n_class: int, size: int) -> dict[Sample, _Room]:
    """Room in each image above its bar of data; its label image and its array share its size."""
    samples, pairing = dataset.samples(split), dataset.pairing(split)
    if pairing.problems:
        raise DatasetError(
            f"{dataset.folder(split, 'labels')}: expected one label image for every image, found "
            f"{shorten(pairing.problems)}; correct that first"
        )
    found = {}
    for sample, pair in zip(samples, pairing.pairs, strict=True):
        image, label = read_picture(pair.image), read_stored(pair.labels)
        labels = load_array(sample.labels, n_class, unlabelled=sample.unlabelled)
        shapes = [array.shape[:2] for array in (image.pixels, label.pixels, labels)]
        if len(set(shapes)) != 1:
            sizes = ", ".join(f"{height} x {width}" for height, width in shapes)
            raise DatasetError(
                f"{pair.image}: expected one size of image, label and array, found {sizes}; run matseg-prep check"
            )
        labels = labels[: len(labels) - (told_bar(pair.image) or 0)]
        found[pair] = _Room(labels.shape, _labelled_places(labels, size))
    smallest = min(found, key=lambda pair: min(found[pair].shape))
    height, width = found[smallest].shape
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
    names = () if image.pixels.ndim == 2 else channel_names(pair.image, image.pixels.shape[-1])
    for y, x in corners:
        cut = (slice(y, y + size), slice(x, x + size))
        name = f"{pair.stem}_x{x}_y{y}"
        _write_image(folder / "images" / name, replace(image, pixels=image.pixels[cut]), names)
        _write_image(folder / "labels" / f"{name}{mark}", replace(label, pixels=label.pixels[cut]))
        with atomic_write(folder / "labels_npy" / f"{name}.npy") as stream:
            np.save(stream, array[cut], allow_pickle=False)


def _write_image(stem: Path, stored: StoredImage, names: Sequence[str] = ()) -> None:
    """Without loss and in the mode it came in: PNG, or TIFF for what a PNG or Pillow cannot hold."""
    from PIL import Image

    pixels = np.ascontiguousarray(stored.pixels)
    is_colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    is_png = pixels.dtype == np.uint8 and (pixels.ndim == 2 or is_colour)
    is_png = (is_png or (pixels.dtype == np.uint16 and pixels.ndim == 2)) and not names
    with atomic_write(stem.with_name(f"{stem.name}.{'png' if is_png else 'tif'}")) as stream:
        if names and pixels.dtype.name in PIXEL_DTYPES:
            write_channels(stream, pixels, names)
            return
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
