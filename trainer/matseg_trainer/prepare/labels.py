"""Label images to label arrays: everything is checked first, then written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import UNLABELLED, Legend, add_unlabelled, write_legend
from matseg_shared.errors import DatasetError, ImageError
from matseg_shared.images.read import list_images, read_image
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.class_table import ClassTable, Strays
from matseg_trainer.data.folder import Dataset, Pairing, Sample, load_array, shorten
from matseg_trainer.data.labels import LabelScan, read_values, scan_label, unify
from matseg_trainer.data.no_data import note_on
from matseg_trainer.prepare.label_request import LabelRequest, make_table


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySummary:
    """One label array: (H, W) class indices, 0 to N-1, or 255 where nobody labelled."""

    path: Path
    values: tuple[int, ...]
    """Class indices in it, ascending; 255 where nobody labelled."""
    kept: bool
    """It was there before and was left as it is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelPlan:
    """Checked label images, class table and arrays to write."""

    dataset: Dataset
    table: ClassTable
    new_table: bool
    """`classes.toml` is to be written."""
    pairs: tuple[Sample, ...]
    """Images whose arrays are to be written."""
    kept: tuple[Path, ...]
    """Arrays that stay."""
    adds_unlabelled: bool
    """`classes.toml` is there and does not say yet what is unlabelled."""
    strays: Strays
    """Label images of the whole data set with values of no class."""
    notes: tuple[str, ...]
    """On no data in the images."""
    labels_alone: tuple[Path, ...]
    """Label images without an image; nothing is made of them."""

    @property
    def written_strays(self) -> tuple[LabelScan, ...]:
        """Those of them whose arrays are to be written."""
        labels = {pair.labels for pair in self.pairs}
        return tuple(image for image in self.strays.images if image.path in labels)

    @property
    def stray_message(self) -> str:
        """Every image with more values than classes, and the ways out."""
        return self.strays.message(self.dataset.root)


def existing_arrays(dataset: Dataset, splits: Sequence[str]) -> tuple[Path, ...]:
    """The label arrays that are there already."""
    folders = [dataset.folder(split, "labels_npy") for split in splits]
    return tuple(path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.npy")))


def plan_labels(
    dataset: Dataset, splits: Sequence[str], request: LabelRequest, progress: Progress = SILENT
) -> LabelPlan:
    """Check the label images of `splits` and make the class table over all splits; writes nothing.

    Raises:
        DatasetError: names every image without label, every label of another size or without a labelled pixel, every
            broken file.
    """
    if request.existing == "refuse" and (found := existing_arrays(dataset, splits)):
        folders = sorted({str(path.parent) for path in found})
        raise DatasetError(
            f"{', '.join(folders)}: expected no label arrays yet, found {len(found)}; add --append to keep them and "
            "make the missing ones, or --overwrite to make all anew"
        )
    pairings = [dataset.pairing(split) for split in splits]
    _refuse_unpaired(dataset, splits, pairings)
    chosen = [pair for pairing in pairings for pair in pairing.pairs]
    scans, notes = _scan_all(dataset, chosen, _other_labels(dataset, splits), progress)
    legend = dataset.legend if dataset.classes_path.exists() else None
    said = [*request.unlabelled, *(value for _, value in request.classes if value is not None)]
    in_colours = legend.has_colours if legend else any(not isinstance(value, int) for value in said)
    kind, scans = unify(scans, legend.numbers if legend else frozenset(), in_colours=in_colours)
    table = make_table(request, kind, scans, legend, dataset.classes_path)
    _refuse_unlabelled(dataset, table, scans)
    arrays = {pair: dataset.array_path(pair.image) for pair in chosen}
    kept = [path for path in arrays.values() if request.existing == "append" and path.exists()]
    for path in kept:
        load_array(path, request.n_class, unlabelled=bool(table.legend.unlabelled))
    return LabelPlan(
        dataset=dataset,
        table=table,
        new_table=legend is None,
        adds_unlabelled=legend is not None and legend != table.legend,
        pairs=tuple(pair for pair, path in arrays.items() if path not in kept),
        kept=tuple(kept),
        strays=Strays.find(table, scans, request.max_moved),
        notes=notes,
        labels_alone=tuple(label for pairing in pairings for label in pairing.labels_alone),
    )


def write_labels(plan: LabelPlan) -> Iterator[ArraySummary]:
    """Write the class table and the arrays, each whole or not at all; a stray value becomes the nearest class.

    Raises:
        OutputError: something cannot be written.
    """
    if plan.new_table:
        write_legend(plan.dataset.classes_path, plan.table.legend)
    elif plan.adds_unlabelled:
        add_unlabelled(plan.dataset.classes_path, *plan.table.legend.unlabelled)
    for path in plan.kept:
        yield _summary(path, plan.table.legend, kept=True)
    for pair in plan.pairs:
        labels = plan.table.encode(read_values(pair.labels, plan.table.kind))
        path = plan.dataset.array_path(pair.image)
        with atomic_write(path) as stream:
            np.save(stream, labels, allow_pickle=False)
        yield _summary(path, plan.table.legend, kept=False)


def _summary(path: Path, legend: Legend, *, kept: bool) -> ArraySummary:
    labels = load_array(path, len(legend.classes), unlabelled=bool(legend.unlabelled))
    values = np.unique(labels).tolist()
    return ArraySummary(path=path, values=tuple(values), kept=kept)


def _refuse_unpaired(dataset: Dataset, splits: Sequence[str], pairings: Sequence[Pairing]) -> None:
    named = zip(splits, pairings, strict=True)
    lines = [f"  - {split}: {words}" for split, found in named for words in found.problems]
    if lines:
        listing = "\n".join(lines)
        raise DatasetError(
            f"{dataset.root}: expected one label image for every image, in labels/, with the image's stem or "
            f"<stem>_L; nothing was written\n{listing}"
        )


def _refuse_unlabelled(dataset: Dataset, table: ClassTable, scans: Sequence[LabelScan]) -> None:
    blank = [value for value, index in table.known.items() if index == UNLABELLED]
    empty = [str(scan.path) for scan in scans if np.isin(scan.values, blank).all()]
    if empty:
        raise DatasetError(
            f"{dataset.root}: expected labels in every label image, found none in {shorten(empty)}, where all pixels "
            "are unlabelled; label some of it, or take image and label image out of the set"
        )


def _other_labels(dataset: Dataset, splits: Sequence[str]) -> list[Path]:
    """Paired label images of the other splits, which have a say in the class table."""
    labels: list[Path] = []
    for split in dataset.splits:
        folders = [dataset.folder(split, kind) for kind in ("images", "labels")]
        if split not in splits and all(folder.is_dir() and list_images(folder)[0] for folder in folders):
            labels += [pair.labels for pair in dataset.pairing(split).pairs]
    return labels


def _scan_all(
    dataset: Dataset, pairs: Sequence[Sample], others: Sequence[Path], progress: Progress
) -> tuple[tuple[LabelScan, ...], tuple[str, ...]]:
    """Scans of the pairs' label images, which must have their image's size, and of others; notes on the images."""
    scans, problems, notes = [], [], []
    progress.stage("reading label images", len(pairs) + len(others), unit="images")
    images = {pair.labels: pair.image for pair in pairs} | dict.fromkeys(others)
    for label, image in images.items():
        progress.advance()
        try:
            scans.append(scan_label(label))
            if image is None:
                continue
            pixels, found = read_image(image), scans[-1].shape
            notes += [note for note in [note_on(image, pixels)] if note is not None]
            if (shape := pixels.shape[:2]) != found:
                expected = f"expected {shape[0]} x {shape[1]} pixels as in {image.name}"
                raise ImageError(label, f"{expected}, found {found[0]} x {found[1]}")
        except ImageError as error:
            problems.append(f"  - {error}")
    if problems:
        listing = "\n".join(problems)
        raise DatasetError(
            f"{dataset.root}: {len(problems)} problem(s) to mend; nothing was written\n{listing}"
        )
    return tuple(scans), tuple(notes)
