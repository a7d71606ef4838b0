"""A data set on disk: which image belongs to which label image and which label array.

```
data/<name>/classes.toml                        written by `matseg-prep labels`, yours to edit
data/<name>/{train,validate,test}/images/       micrographs
                                 /labels/       label images: <image stem> or <image stem>_L, any suffix
                                 /labels_npy/   <image stem>.npy: (H, W) uint8 class indices, 255 where nobody labelled
```
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.help import did_you_mean
from matseg_shared.contract.classes import CLASSES_NAME, UNLABELLED, Legend, read_legend
from matseg_shared.contract.metadata import ClassInfo, TrainingInfo
from matseg_shared.errors import DatasetError
from matseg_shared.images.read import list_images, natural_key
from matseg_trainer.data.mapped import row_bands

SPLITS = ("train", "validate", "test")
LABEL_MARK = "_L"
"""Suffix that a label image's stem may have behind the image's."""
PAIRING_REMEDY = (
    "rename them or take them out, or let `matseg-prep import IMAGES NAME --labels LABELS` make another data set of "
    "the images that have labels, whose names may go on after the image's"
)
_PUBLISHED = {
    "tomography": "\nthe published set is to be had under doi 10.18126/M2RM08 and doi 10.18126/M2W93J"
}
_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with its labels, as files."""

    image: Path
    labels: Path
    """The label array, `labels_npy/<image stem>.npy`, or the label image that it is made of."""
    unlabelled: bool = False
    """Its array may hold 255, where nobody labelled."""

    @property
    def stem(self) -> str:
        """The image's name without suffix."""
        return self.image.stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Images and label images of a split that belong together, and those that are alone; natural order."""

    pairs: tuple[Sample, ...]
    labels_alone: tuple[Path, ...]
    problems: tuple[str, ...]
    """Images without a label image, and images with several, in words."""
    others: tuple[Path, ...]
    """Files and folders among the images or labels that are no images."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One folder of `data/`."""

    root: Path
    validation_images: tuple[str, ...] | None = None
    """Stems of images of train/ and validate/ that are the split `validate`, all others of both being `train`; (): all
    train; None: the splits are the folders."""

    @classmethod
    def open(cls, path: Path, validation_images: Sequence[str] | None = None) -> Dataset:
        """The data set in the folder `path`.

        Raises:
            DatasetError: there is no such folder, or it has none of the splits; shows the layout expected.
        """
        if path.is_dir() and any((path / split).is_dir() for split in SPLITS):
            return cls(path, None if validation_images is None else tuple(validation_images))
        if is_unsplit(path):
            raise DatasetError(f"{path}: expected train/, validate/ and test/, {unsplit_words(path)}")
        found = "found none of train/, validate/ and test/ in it" if path.is_dir() else "found no such folder"
        raise DatasetError(
            f"{path}: expected a data set, {found}{_near(path)}\n{_layout(path)}{_PUBLISHED.get(path.name, '')}"
        )

    def as_trained(self, training: TrainingInfo) -> Dataset:
        """The same data set, with the images that validated a training as its split `validate`."""
        names = training.config.get("validation_images")
        return replace(self, validation_images=None if names is None else tuple(names))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.absolute().name  # a linked folder has the link's name

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, validate and test that are there."""
        return tuple(split for split in SPLITS if (self.root / split).is_dir())

    @property
    def learned_splits(self) -> tuple[str, ...]:
        """The splits that a training takes: train, and validate unless nothing validates."""
        return ("train",) if self.validation_images == () else ("train", "validate")

    @property
    def classes_path(self) -> Path:
        """`classes.toml`."""
        return self.root / CLASSES_NAME

    @property
    def legend(self) -> Legend:
        """The class table: classes, and what stands for them in label images.

        Raises:
            DatasetError: it is missing or wrong; lists every problem.
        """
        return read_legend(self.classes_path)

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes of `legend`, in the order of their indices."""
        return self.legend.classes

    @property
    def has_unlabelled(self) -> bool:
        """The class table says what stands for pixels that nobody labelled, so that arrays may hold 255."""
        return self.classes_path.exists() and bool(self.legend.unlabelled)

    def folders(self, *splits: str) -> tuple[str, ...]:
        """Names of the folders in which the images of these splits lie."""
        pool = ("train", "validate")
        if self.validation_images is None or not set(pool) & set(splits):
            return splits
        there = [split for split in pool if (self.root / split / "images").is_dir()]
        return (*(there or ["train"]), *(split for split in splits if split not in pool))

    def folder(self, split: str, kind: str) -> Path:
        """The folder of a split's `images`, `labels` or `labels_npy`; of several, train/.

        Raises:
            DatasetError: the data set has no such split; names those it has.
        """
        if split == "validate" and self.validation_images is not None:
            split = "train"
        if split in ("", ".", "..") or Path(split).name != split or not (self.root / split).is_dir():
            held = ", or name images of train/ in `validation_images`" if split == "validate" else ""
            raise DatasetError(
                f"{self.root / split}: expected the folder of the split {split!r}, found none; "
                f"{self.name} has {', '.join(self.splits)}{did_you_mean(split, self.splits)}{held}\n"
                f"{_layout(self.root)}"
            )
        return self.root / split / kind

    def images(self, split: str) -> tuple[Path, ...]:
        """The images of a split in natural order.

        Raises:
            DatasetError: the folder is missing or holds no image, two images share a stem, or `validation_images` names
                one that is not there, or all.
        """
        folder, folders = self.folder(split, "images"), self.folders(split)
        images = [
            image
            for name in folders
            for image in _listed(self.root / name / "images", f"images of the split {split!r}")[0]
        ]
        groups: dict[str, list[str]] = {}
        for image in images:
            name = image.name if len(folders) == 1 else f"{image.parent.parent.name}/{image.name}"
            groups.setdefault(image.stem, []).append(name)
        repeated = [" and ".join(names) for names in groups.values() if len(names) > 1]
        if repeated:
            raise DatasetError(
                f"{folder}: expected one image per stem, found {'; '.join(repeated)}; rename or remove one of each"
            )
        if self.validation_images is None or split not in ("train", "validate"):
            return tuple(images)
        unknown = [name for name in self.validation_images if name not in groups]
        if unknown:
            raise DatasetError(
                f"{folder}: expected the images that `validation_images` of config.toml names, found none of "
                f"{shorten(unknown)}{did_you_mean(unknown[0], groups)}; name others there, or make the version `auto` "
                f"anew (`matseg-prep config {shlex.quote(self.name)} --overwrite`)"
            )
        if split == "validate" and not self.validation_images:
            raise DatasetError(
                f"{folder}: expected images that validate, found none named (`validation_images = []` in config.toml)"
            )
        if len(self.validation_images) == len(images):
            raise DatasetError(
                f"{folder}: expected an image to train on, found that `validation_images` of config.toml names all; "
                "leave one out"
            )
        images.sort(key=lambda image: (natural_key(image.name), image.name))
        return tuple(
            image for image in images if (image.stem in self.validation_images) == (split == "validate")
        )

    def array_path(self, image: Path) -> Path:
        """The file for the label array of an image of this data set."""
        return image.parent.parent / "labels_npy" / f"{image.stem}.npy"

    def unlabelled(self, split: str) -> tuple[Path, ...]:
        """The images of a split that have no label array."""
        return tuple(image for image in self.images(split) if not self.array_path(image).is_file())

    def samples(self, split: str) -> tuple[Sample, ...]:
        """The images of a split with their label arrays, in natural order.

        Raises:
            DatasetError: an image has no array (names them), or see `images`.
        """
        missing = self.unlabelled(split)
        if missing:
            folder = self.array_path(missing[0]).parent
            raise DatasetError(
                f"{folder}: expected a label array for every image, found none for "
                f"{shorten([image.name for image in missing])}; run `matseg-prep labels "
                f"{shlex.quote(self.name)} {folder.parent.name}`"
            )
        unlabelled = self.has_unlabelled
        return tuple(
            Sample(image=image, labels=self.array_path(image), unlabelled=unlabelled)
            for image in self.images(split)
        )

    def pairing(self, split: str, *, or_arrays: bool = False) -> Pairing:
        """Match the images of a split with its label images, whose stem is the image's or `<stem>_L`.

        With `or_arrays`, it is no problem when an image with a label array has no label image.

        Raises:
            DatasetError: see `images`; or the folder of label images is missing or empty.
        """
        images = self.images(split)
        stored = [list_images(self.root / name / "images") for name in self.folders(split)]
        folders = [self.root / name / "labels" for name in self.folders(split)]
        listed = [list_images(folder) for folder in folders if folder.is_dir()]
        labels = [label for found, _ in listed for label in found]
        if not labels:
            _listed(self.folder(split, "labels"), f"label images of the split {split!r}")
        others = [path for _, found in (*stored, *listed) for path in found]
        ready = [image for image in images if or_arrays and self.array_path(image).exists()]
        found = pair_images(images, labels, others, ready)
        stems = {image.stem for whole, _ in stored for image in whole}  # also of those in the other split
        alone = (label for label in found.labels_alone if not {label.stem, bare_stem(label)} & stems)
        return found if self.validation_images is None else replace(found, labels_alone=tuple(alone))

    def fingerprint(self, splits: Sequence[str]) -> str:
        """SHA-256 (hex) over names, image bytes and label arrays of these splits.

        Raises:
            DatasetError: see `samples`.
        """
        digest = hashlib.sha256()
        for split in splits:
            for sample in self.samples(split):
                for path in (sample.image, sample.labels):
                    with path.open("rb") as stream:
                        size = os.fstat(stream.fileno()).st_size
                        digest.update(f"{split}/{path.name}\0{size}\0".encode())
                        while piece := stream.read(1 << 20):
                            digest.update(piece)
        return digest.hexdigest()


def load_array(
    path: Path, n_class: int, *, unlabelled: bool = False, mapped: bool = False
) -> NDArray[np.uint8]:
    """Read one label array: (H, W) uint8 class indices below `n_class`, or 255 where `unlabelled` allows it.

    Some pixel has a class. With `mapped` it stays in its file, if that holds uint8.

    Raises:
        DatasetError: the file is missing or damaged, or holds something else; names the values found.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: there is no such label array; run `matseg-prep labels`") from error
    except Exception as error:  # numpy raises many kinds for damaged files
        raise DatasetError(
            f"{path}: expected a NumPy array, found a damaged file or another format ({error}); "
            "write it again with `matseg-prep labels --overwrite`"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path}: expected one NumPy array, found an archive of several")
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.size == 0:
        raise DatasetError(
            f"{path}: expected class indices of shape (H, W) and an integer dtype, found shape {array.shape} and "
            f"dtype {array.dtype}; write it again with `matseg-prep labels --overwrite`"
        )
    present = np.unique(np.concatenate([np.unique(array[rows]) for rows in row_bands(array.shape)]))
    wrong = (present < 0) | (present >= n_class)
    if unlabelled:
        wrong &= present != UNLABELLED
        if (present == UNLABELLED).all():
            raise DatasetError(
                f"{path}: expected labels, found no labelled pixel in the whole image; label some of it, or take the "
                "image out of the data set"
            )
    if wrong.any():
        strays = present[wrong].tolist()
        raise DatasetError(
            f"{path}: expected class indices from 0 to {n_class - 1}, found {shorten([*map(str, strays)])} as well; "
            + (
                f"{UNLABELLED} is no class; if it means unlabelled, run `matseg-prep labels` with --unlabelled and the "
                f"value that means it in the label images, or --unlabelled {UNLABELLED}; else "
                if UNLABELLED in strays
                else ""
            )
            + "correct n_class, or write it again with `matseg-prep labels --overwrite`"
        )
    return array.astype(np.uint8, copy=False)


def shorten(names: Sequence[str]) -> str:
    """A list for a message: the first ten, and how many more there are."""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, in natural order; none where it is not there."""
    return list_images(folder)[0] if folder.is_dir() else []


def _listed(folder: Path, what: str) -> tuple[list[Path], list[Path]]:
    """The images in a folder, at least one, and what else is in it."""
    images, others = list_images(folder) if folder.is_dir() else ([], [])
    if not images:
        found = "none in it" if folder.is_dir() else "no such folder"
        raise DatasetError(f"{folder}: expected the {what}, found {found}")
    return images, others


def bare_stem(label: Path) -> str:
    """The stem of a label image without the mark that it may have."""
    return label.stem.removesuffix(LABEL_MARK)


def pair_images(
    images: Sequence[Path], labels: Sequence[Path], others: Sequence[Path], ready: Sequence[Path] = ()
) -> Pairing:
    """Match images with label images by their stems; `others` are named in the result as they are.

    The images that are `ready` need no label image.
    """
    stems = {image.stem for image in images}
    by_stem: dict[str, list[Path]] = {}
    for label in labels:
        bare = bare_stem(label)
        stem = label.stem if label.stem in stems or bare not in stems else bare
        by_stem.setdefault(stem, []).append(label)
    alone = shorten([image.name for image in images if image.stem not in by_stem and image not in ready])
    problems = [f"no label image for {alone}"] if alone else []
    problems += [
        f"{image.name} has several label images ({', '.join(label.name for label in by_stem[image.stem])})"
        for image in images
        if len(by_stem.get(image.stem, ())) > 1
    ]
    return Pairing(
        pairs=tuple(
            Sample(image=image, labels=by_stem[image.stem][0]) for image in images if image.stem in by_stem
        ),
        labels_alone=tuple(label for stem, group in by_stem.items() if stem not in stems for label in group),
        problems=tuple(problems),
        others=tuple(others),
    )


def is_unsplit(path: Path) -> bool:
    """True for a folder of images and labels that are not shared out to splits yet."""
    is_split = any((path / split).is_dir() for split in SPLITS)
    return not is_split and all((path / kind).is_dir() for kind in ("images", "labels"))


def unsplit_words(path: Path) -> str:
    """The remedy for such a folder, in words."""
    words = shlex.join([f"{path.name}_all", path.name])
    return (
        f"found images/ and labels/ that are not shared out; move {path} to {path.name}_all beside data/, then "
        f"`matseg-prep split {words}`"
    )


def _near(path: Path) -> str:
    found = (folder.parent.name for folder in path.parent.glob("*/train/"))
    known = sorted(name for name in found if name != path.name)
    return f"{did_you_mean(path.name, known)}; data sets there: {shorten(known)}" if known else ""


def _layout(path: Path) -> str:
    return (
        "expected layout:\n"
        f"  {path}/train/images/     a.png  b.png  ...\n"
        f"  {path}/train/labels/     a.png or a_L.png, ...\n"
        f"  {path}/validate/...      the same\n"
        f"  {path}/test/...          the same\n"
        "then run `matseg-prep labels` to make labels_npy/"
    )
