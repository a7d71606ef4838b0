"""A check of a data set: everything that is wrong, at once, and likely slips."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import CLASSES_NAME, UNLABELLED, Legend
from matseg_shared.errors import DatasetError, ImageError, MissingExtraError
from matseg_shared.images.channels import is_grey
from matseg_shared.images.context import of_slice
from matseg_shared.images.read import read_image
from matseg_shared.images.tiff import stored_context
from matseg_trainer.check.label_agreement import LabelAgreement, label_agreement
from matseg_trainer.check.label_help import Finding, LabelHelp
from matseg_trainer.check.similarity import Neighbour
from matseg_trainer.data.class_table import MAX_MOVED, ClassTable, Strays, table_from_legend
from matseg_trainer.data.folder import (
    PAIRING_REMEDY,
    SPLITS,
    Dataset,
    Pairing,
    images_in,
    load_array,
    shorten,
)
from matseg_trainer.data.labels import LabelScan, read_values, scan_label, unify
from matseg_trainer.data.no_data import absent_of, note_on
from matseg_trainer.data.pixel_size import pixel_sizes

_MOST_CLASSES = 255
_NOTES = 5
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """Contents of one split."""

    split: str
    images: int
    labels: int
    """Label images that belong to an image."""
    arrays: int
    sizes: tuple[tuple[int, int], ...]
    """(H, W) in pixels, each that occurs."""
    dtypes: tuple[str, ...]
    channels: tuple[int, ...]
    """1 for grey, also when it is stored as RGB."""
    shares: tuple[float, ...]
    """Share of each class among the labelled pixels."""
    labelled: float
    """Labelled pixels of the arrays, of all but no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The outcome of a check."""

    name: str
    classes: tuple[str, ...]
    """Names; empty when the class table is missing or wrong."""
    splits: tuple[SplitSummary, ...]
    problems: tuple[str, ...]
    """Errors for certain."""
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    """Likely slips, which may be right."""
    neighbours: tuple[Neighbour, ...]
    """Per image the one most like it in the other splits."""
    label_agreement: tuple[LabelAgreement, ...]
    """Empty unless asked for."""


def check_dataset(
    dataset: Dataset,
    progress: Progress = SILENT,
    *,
    with_agreement: bool = False,
    no_table: str | None = None,
) -> CheckResult:
    """Read every file of every split and list what is wrong; writes nothing.

    `with_agreement` adds the agreement of the labels with themselves, which needs the extra `train`; `no_table` is why
    there is no class table.
    """
    has_scipy = importlib.util.find_spec("scipy") is not None
    if with_agreement and not has_scipy:
        raise MissingExtraError("train", "the agreement of labels")
    check = _Check(dataset, progress, with_help=has_scipy, no_table=no_table)
    splits = [check.split(split) for split in dataset.splits]
    check.compare_splits(splits)
    if no_table is not None and not check.problems:  # else it is for these
        check.problems.append(no_table)
    neighbours = check.attempt(check.help.finish) if check.help else None
    classes = check.classes or ()
    agreement: list[LabelAgreement] = []
    for split in dataset.splits if with_agreement and classes else ():
        agreement += check.attempt(partial(label_agreement, dataset, split, classes)) or ()
    return CheckResult(
        name=dataset.name,
        classes=tuple(item.name for item in classes),
        splits=tuple(splits),
        problems=tuple(check.problems),
        notes=tuple(check.notes),
        findings=tuple(check.help.findings) if check.help else (),
        neighbours=neighbours or (),
        label_agreement=tuple(agreement),
    )


class _Check:
    """A data set, and what is wrong with the splits looked at so far."""

    def __init__(
        self, dataset: Dataset, progress: Progress, *, with_help: bool, no_table: str | None
    ) -> None:
        self.dataset = dataset
        self.progress = progress
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.scans: list[tuple[LabelScan, Path]] = []  # of label images of the right size, with their arrays
        self.drawn: list[LabelScan] = []  # of all label images of the right size
        self.legend = None if no_table else self.attempt(lambda: dataset.legend)
        self.classes = self.legend.classes if self.legend else None
        self.help = LabelHelp(self.classes) if with_help else None
        if not with_help:
            self.notes.append("slips in labels were not looked for: that needs the extra `train`")
        for split in SPLITS:
            if split not in dataset.splits:
                held = (
                    "; `validation_images` of a version takes images of train/" if split == "validate" else ""
                )
                self.notes.append(f"{dataset.root / split}: there is no split {split!r}{held}")

    def attempt(self, action: Callable[[], _T]) -> _T | None:
        """The action's result; its error becomes a problem."""
        try:
            return action()
        except (DatasetError, ImageError) as error:
            self.problems.append(str(error))
            return None

    def split(self, split: str) -> SplitSummary:
        """Check every file of a split."""
        dataset, n_class = self.dataset, len(self.classes) if self.classes else _MOST_CLASSES
        images = self.attempt(lambda: dataset.images(split)) or ()
        labels: dict[Path, Path] = {}
        if images and (pairing := self.attempt(lambda: dataset.pairing(split))) is not None:
            labels = {pair.image: pair.labels for pair in pairing.pairs}
            self._report_pairing(split, pairing)
        arrays = [image for image in images if dataset.array_path(image).is_file()]
        missing = [image.name for image in images if image not in arrays and image in labels]
        if missing:
            self.notes.append(
                f"{dataset.root / split}: no label array for {shorten(missing)}; matseg-train makes it"
            )
        kinds: dict[tuple[tuple[int, int], str, int], None] = {}  # in the order in which they occur
        counts, pixels_in_all = np.zeros(n_class, dtype=np.int64), 0
        told: list[str | None] = []
        self.progress.stage(f"checking {split}", len(images), unit="images")
        for image in images:
            self.progress.advance()
            pixels = self.attempt(partial(read_image, image))
            if pixels is None:
                continue
            shape = (int(pixels.shape[0]), int(pixels.shape[1]))
            context = stored_context(image) if pixels.ndim == 3 else 0
            kinds[shape, pixels.dtype.name, 1 if not context and is_grey(pixels) else pixels.shape[-1]] = None
            pixels = of_slice(pixels, context)
            scan = self._check_label(labels.get(image), image, shape)
            self.drawn += [scan] if scan is not None else []
            if image in arrays:
                array = self._check_array(image, shape, n_class)
                if array is not None and scan is not None:
                    self.scans.append((scan, dataset.array_path(image)))
            else:
                array = self.attempt(partial(self._read_label, scan)) if scan and self.legend else None
            absent = self.attempt(partial(absent_of, image, pixels, NoDataOptions()))
            told.append(self.attempt(partial(note_on, image, pixels)))
            if array is not None and absent is not None:
                array = np.where(absent, np.uint8(UNLABELLED), array)
                pixels_in_all -= int(np.count_nonzero(absent))
            if array is not None:
                counts += np.bincount(array[array != UNLABELLED], minlength=n_class)
                pixels_in_all += array.size
                if (array == UNLABELLED).all():
                    self.problems.append(
                        f"{image}: no pixel of it is labelled; label some, or take it out of the set"
                    )
            if self.help is not None:
                self.help.examine(split, image, pixels, array)
        self._report_no_data(dataset.root / split / "images", [note for note in told if note])
        total = counts.sum()
        return SplitSummary(
            split=split,
            images=len(images),
            labels=len(labels),
            arrays=len(arrays),
            sizes=tuple(dict.fromkeys(kind[0] for kind in kinds)),
            dtypes=tuple(dict.fromkeys(kind[1] for kind in kinds)),
            channels=tuple(dict.fromkeys(kind[2] for kind in kinds)),
            shares=tuple((counts / total).tolist()) if self.classes and total else (),
            labelled=float(total / max(pixels_in_all, 1)),
        )

    def _report_pairing(self, split: str, pairing: Pairing) -> None:
        place = self.dataset.root / split
        self.problems += [f"{place}: {words}; {PAIRING_REMEDY}" for words in pairing.problems]
        for words, paths in (("no image for", pairing.labels_alone), ("not an image:", pairing.others)):
            if paths:
                self.notes.append(f"{place}: {words} {shorten([path.name for path in paths])}")

    def _report_no_data(self, place: Path, told: Sequence[str]) -> None:
        self.notes += [f"{place}: {note}" for note in told[:_NOTES]]
        if len(told) > _NOTES:
            self.notes.append(f"{place}: {len(told) - _NOTES} more images have such pixels")

    def _check_label(self, label: Path | None, image: Path, shape: tuple[int, int]) -> LabelScan | None:
        """The scan of a label image of the right size."""
        scan = self.attempt(lambda: scan_label(label)) if label is not None else None
        if scan is None:
            return None
        if self.legend and self.legend.has_colours == (scan.kind == "colour"):
            table = ClassTable(kind=scan.kind, legend=self.legend)
            for item in table.strays([scan]):
                shown = shorten([table.shown(value) for value in item.values.tolist()])
                found = f"{item.pixels} pixel(s) with values that stand for no class: {shown}"
                remedy = "repaint them, or let `matseg-prep labels --nearest` take the nearest class"
                self.notes.append(f"{scan.path}: {found}; {remedy}")
        return scan if self._has_size(scan.path, scan.shape, image, shape) else None

    def _read_label(self, scan: LabelScan) -> NDArray[np.uint8]:
        """The class indices that a label image will be made to.

        Raises:
            DatasetError: some of its values stand for no class.
        """
        assert self.legend is not None  # where there is none, nothing is read
        kind, scans = unify([scan], self.legend.numbers, in_colours=self.legend.has_colours)
        table = table_from_legend(kind, scans, self.legend, self.dataset.classes_path)
        if table.strays(scans):
            raise DatasetError(Strays.find(table, scans, MAX_MOVED).message(self.dataset.root))
        return table.encode(read_values(scan.path, kind))

    def _check_array(self, image: Path, shape: tuple[int, int], n_class: int) -> NDArray[np.uint8] | None:
        """(H, W) class indices, 255 where nobody labelled; None when there is no good array."""
        path, unlabelled = self.dataset.array_path(image), self.legend is None or bool(self.legend.unlabelled)
        load = partial(load_array, path, n_class, unlabelled=unlabelled)
        array = self.attempt(load) if path.is_file() else None
        return array if array is not None and self._has_size(path, array.shape, image, shape) else None

    def _has_size(self, path: Path, found: tuple[int, ...], image: Path, expected: tuple[int, int]) -> bool:
        if found != expected:
            wanted = f"expected {expected[0]} x {expected[1]} pixels as in {image.name}"
            remedy = "save it again at the image's size"
            self.problems.append(f"{path}: {wanted}, found {found[0]} x {found[1]}; {remedy}")
        return found == expected

    def compare_splits(self, splits: Sequence[SplitSummary]) -> None:
        """Find what differs among images, and arrays that do not follow their label images."""
        root = self.dataset.root
        dtypes = sorted({dtype for row in splits for dtype in row.dtypes})
        channels = sorted({str(number) for row in splits for number in row.channels})
        for what, found in (("dtype", dtypes), ("number of channels", channels)):
            if len(found) > 1:
                self.problems.append(f"{root}: expected images of one {what}, found {', '.join(found)}")
        folders = [self.dataset.folder(split, "images") for split in self.dataset.splits]
        images = [image for folder in folders for image in images_in(folder)]
        sizes = [size for size in pixel_sizes(images) if size is not None]
        if len(sizes) > 1:  # a network knows structures by their size in pixels
            listing = shorten([f"{size.row:g} x {size.column:g} {size.unit}" for size in sizes])
            self.notes.append(f"{root}: the images say that their pixels are of several sizes: {listing}")
        if self.legend and self.drawn:
            self.progress.stage("comparing arrays with label images", len(self.scans), unit="images")
            self.attempt(partial(self._compare_labels, self.legend))
        self.progress.stage("comparing images with each other")

    def _compare_labels(self, legend: Legend) -> None:
        """Find classes that may be unlabelled pixels, and arrays that were not made again after their label image."""
        kind, scans = unify(self.drawn, legend.numbers, in_colours=legend.has_colours)
        table = table_from_legend(kind, scans, legend, self.dataset.classes_path)
        hints = Strays.find(table, scans, MAX_MOVED).hints
        self.notes += [f"{hint} to matseg-prep labels, and remove {CLASSES_NAME} before" for hint in hints]
        n_class, unlabelled = len(legend.classes), bool(legend.unlabelled)
        for scan, path in self.scans:
            self.progress.advance()
            labels = load_array(path, n_class, unlabelled=unlabelled)
            if changed := table.differing(read_values(scan.path, kind), labels):
                split = path.parent.parent.name
                self.problems.append(
                    f"{path}: expected the classes of {scan.path.name}, found {changed} pixel(s) of others; "
                    f"run `matseg-prep labels {shlex.quote(self.dataset.name)} {split} --overwrite`"
                )
