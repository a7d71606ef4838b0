"""Split labelled images into training, validation and test."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import CLASSES_NAME
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import list_images
from matseg_trainer.data.folder import Sample, pair_images, shorten
from matseg_trainer.prepare.folders import new_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRequest:
    """Numbers of labelled images per split."""

    validate: int
    """Images to validate with."""
    test: int
    """Images to test with."""
    seed: int = 0
    """Decides the order in which images are drawn."""


def labelled_pairs(folder: Path) -> tuple[Sample, ...]:
    """The pairs of a folder that holds `images/` and `labels/`, in natural order.

    Raises:
        DatasetError: a folder is missing, or an image has no label image or several; names them.
    """
    for kind in ("images", "labels"):
        if not (folder / kind).is_dir():
            raise DatasetError(f"{folder / kind}: expected a folder of {kind}, found none; put them there")
    found = pair_images(list_images(folder / "images")[0], list_images(folder / "labels")[0], ())
    alone = shorten([path.name for path in found.labels_alone])
    problems = [*found.problems, *([f"no image for {alone}"] if alone else [])]
    if problems or not found.pairs:
        raise DatasetError(
            f"{folder}: expected one label image for each image, found {'; '.join(problems or ['none'])}"
        )
    return found.pairs


def class_table(folder: Path) -> Path | None:
    """The `classes.toml` of a folder of labelled images, or of the data set that it is a split of; None without one."""
    found = (place / CLASSES_NAME for place in (folder, folder.absolute().parent))
    return next((path for path in found if path.is_file()), None)


def share_out(count: int, request: SplitRequest) -> dict[str, list[int]]:
    """The images of each split, by position.

    Raises:
        UsageError: nothing would be left to train with.
    """
    order = np.random.default_rng(request.seed).permutation(count).tolist()
    test, rest = order[: request.test], order[request.test :]
    validate, train = rest[: request.validate], rest[request.validate :]
    if not train:
        raise UsageError(
            f"{count} labelled images: expected some of each to train, validate and test with, found "
            f"0, {request.validate} and {len(test)}; ask for fewer to validate or test with"
        )
    return {"train": sorted(train), "validate": sorted(validate), "test": sorted(test)}


def split_images(
    pairs: Sequence[Sample],
    target: Path,
    request: SplitRequest,
    *,
    overwrite: bool,
    classes: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, int]:
    """Copy labelled images into a data set, whole or not at all, and with them the class table `classes`, if any.

    Returns:
        Images per split.

    Raises:
        UsageError: the target exists, or too few images.
        OutputError: it cannot be written.
    """
    part = share_out(len(pairs), request)
    progress.stage("copying labelled images", len(pairs), unit="images")
    with new_folder(target, overwrite=overwrite) as folder:
        for split, positions in part.items():
            for kind in ("images", "labels"):
                (folder / split / kind).mkdir(parents=True)
            for position in positions:
                pair = pairs[position]
                shutil.copy2(pair.image, folder / split / "images" / pair.image.name)
                shutil.copy2(pair.labels, folder / split / "labels" / pair.labels.name)
                progress.advance()
        if classes is not None:
            shutil.copyfile(classes, folder / CLASSES_NAME)
    return {split: len(positions) for split, positions in part.items()}
