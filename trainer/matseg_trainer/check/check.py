"""Everything that is wrong with a data set, at once, and what in it deserves a look."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, ImageError, MissingExtraError
from matseg_shared.images.read import is_grey, list_images, read_image
from matseg_trainer.check.ceiling import Ceiling, ceilings
from matseg_trainer.check.label_help import Finding, LabelHelp
from matseg_trainer.check.similarity import Neighbour
from matseg_trainer.data.class_table import ClassTable
from matseg_trainer.data.folder import SPLITS, Dataset, Pairing, load_array, shorten
from matseg_trainer.data.label_images import LabelScan, read_values, scan_label, unify
from matseg_trainer.data.pixel_size import pixel_sizes

_MOST_CLASSES = 255
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """What one split holds."""

    split: str
    images: int
    labels: int
    """Label images that belong to an image."""
    arrays: int
    sizes: tuple[tuple[int, int], ...]
    """(H, W) in pixels, each that occurs."""
    dtypes: tuple[str, ...]
    channels: tuple[int, ...]
    """1 for grey, also when it is stored as RGB; 3 for colour."""
    shares: tuple[float, ...]
    """Of the labelled pixels, per class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The outcome of a check."""

    name: str
    classes: tuple[str, ...]
    """Names; empty when the class table is missing or wrong."""
    splits: tuple[SplitSummary, ...]
    problems: tuple[str, ...]
    """What is wrong for certain."""
    notes: tuple[str, ...]
    suspects: tuple[Finding, ...]
    """What looks wrong, and may be right."""
    neighbours: tuple[Neighbour, ...]
    """Per image the one most like it in the other splits."""
    ceilings: tuple[Ceiling, ...]
    """What IoU the labels allow, if asked for."""


@dataclass(slots=True)
class _Findings:
    help: LabelHelp | None
    """None without the packages it needs."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scans: list[tuple[LabelScan, Path]] = field(default_factory=list)
    """Of label images of the right size, each with its label array."""

    def attempt(self, action: Callable[[], _T]) -> _T | None:
        """The action's result; its error becomes a problem."""
        try:
            return action()
        except (DatasetError, ImageError) as error:
            self.problems.append(str(error))
            return None


def check_dataset(dataset: Dataset, progress: Progress = SILENT, *, ceiling: bool = False) -> CheckResult:
    """Read every file of every split and list what is wrong; writes nothing.

    Args:
        dataset: to check.
        progress: told of every image.
        ceiling: also compute what IoU the labels allow.

    Raises:
        MissingExtraError: `ceiling` without the extra `train`.
    """
    able = importlib.util.find_spec("scipy") is not None
    if ceiling and not able:
        raise MissingExtraError("train", "the ceiling of the labels")
    findings = _Findings(help=None)
    classes = findings.attempt(lambda: dataset.classes)
    if able:
        findings.help = LabelHelp(classes)
    else:
        findings.notes.append("slips in labels were not looked for: that needs the extra `train`")
    rows = []
    for split in SPLITS:
        if split in dataset.splits:
            rows.append(_check_split(dataset, split, classes, findings, progress))
        else:
            findings.notes.append(f"{dataset.root / split}: there is no split {split!r}")
    for what, values in (
        ("dtype", {dtype for row in rows for dtype in row.dtypes}),
        ("number of channels", {str(channels) for row in rows for channels in row.channels}),
    ):
        if len(values) > 1:
            listing = ", ".join(sorted(values))
            findings.problems.append(f"{dataset.root}: expected images of one {what}, found {listing}")
    _note_pixel_sizes(dataset, findings)
    if classes:
        progress.stage("comparing arrays with label images", len(findings.scans), unit="images")
        findings.attempt(lambda: _check_arrays_follow(dataset, classes, findings, progress))
    progress.stage("comparing images with each other")
    neighbours = findings.attempt(findings.help.finish) if findings.help else None
    return CheckResult(
        name=dataset.name,
        classes=tuple(item.name for item in classes or ()),
        splits=tuple(rows),
        problems=tuple(findings.problems),
        notes=tuple(findings.notes),
        suspects=tuple(findings.help.suspects) if findings.help else (),
        neighbours=neighbours or (),
        ceilings=_ceilings(dataset, classes, findings) if ceiling and classes else (),
    )


def _note_pixel_sizes(dataset: Dataset, findings: _Findings) -> None:
    """A network knows structures by their size in pixels, so one set should have one magnification."""
    images = [image for split in dataset.splits for image in list_images(dataset.folder(split, "images"))[0]]
    sizes = [size for size in pixel_sizes(images) if size is not None]
    if len(sizes) > 1:
        listing = shorten([f"{size.row:g} x {size.column:g} {size.unit}" for size in sizes])
        findings.notes.append(
            f"{dataset.root}: the images say that their pixels are of several sizes: {listing}"
        )


def _ceilings(dataset: Dataset, classes: tuple[ClassInfo, ...], findings: _Findings) -> tuple[Ceiling, ...]:
    found: list[Ceiling] = []
    for split in dataset.splits:
        found += findings.attempt(lambda split=split: ceilings(dataset, split, classes)) or ()  # type: ignore[misc]
    return tuple(found)


def _check_arrays_follow(
    dataset: Dataset, classes: tuple[ClassInfo, ...], findings: _Findings, progress: Progress
) -> None:
    """Find arrays that were not made again after their label image was changed."""
    if not findings.scans:
        return
    known = frozenset(item.label_value for item in classes if isinstance(item.label_value, int))
    kind, _ = unify([scan for scan, _ in findings.scans], known)
    if isinstance(classes[0].label_value, int) != (kind != "colour"):
        return
    table = ClassTable(kind=kind, classes=classes)
    for scan, path in findings.scans:
        progress.advance()
        values, labels = read_values(scan.path, kind), load_array(path, len(classes))
        changed = np.isin(values, table.values) & (table.values[labels] != values)
        if changed.any():
            split = path.parent.parent.name
            findings.problems.append(
                f"{path}: expected the classes of {scan.path.name}, found {int(changed.sum())} pixel(s) of others; "
                f"run `matseg-prep labels {dataset.name} {split} --overwrite`"
            )


def _check_split(
    dataset: Dataset,
    split: str,
    classes: tuple[ClassInfo, ...] | None,
    findings: _Findings,
    progress: Progress,
) -> SplitSummary:
    n_class = len(classes) if classes else _MOST_CLASSES
    images = findings.attempt(lambda: dataset.images(split)) or ()
    pairing = findings.attempt(lambda: dataset.pairing(split)) if images else None
    labels = {} if pairing is None else {pair.image: pair.label for pair in pairing.pairs}
    if pairing is not None:
        _report_pairing(dataset, split, pairing, findings)
    missing = [image.name for image in images if not dataset.array_path(image).is_file()]
    if missing:
        findings.problems.append(
            f"{dataset.root / split}: no label array for {shorten(missing)}; run "
            f"`matseg-prep labels {dataset.name} {split}`"
        )
    sizes: dict[tuple[int, int], None] = {}
    dtypes: dict[str, None] = {}
    channels: dict[int, None] = {}
    counts = np.zeros(n_class, dtype=np.int64)
    progress.stage(f"checking {split}", len(images), unit="images")
    for image in images:
        progress.advance()
        pixels = findings.attempt(lambda path=image: read_image(path))  # type: ignore[misc]
        if pixels is None:
            continue
        shape = (int(pixels.shape[0]), int(pixels.shape[1]))
        sizes[shape], dtypes[pixels.dtype.name], channels[1 if is_grey(pixels) else 3] = None, None, None
        scan = _check_label(labels.get(image), image, shape, classes, findings)
        array = _check_array(dataset.array_path(image), image, shape, n_class, findings)
        if array is not None:
            counts += np.bincount(array.ravel(), minlength=n_class)
            if scan is not None:
                findings.scans.append((scan, dataset.array_path(image)))
        if findings.help is not None:
            findings.help.look(split, image, pixels, array)
    total = counts.sum()
    return SplitSummary(
        split=split,
        images=len(images),
        labels=len(labels),
        arrays=len(images) - len(missing),
        sizes=tuple(sizes),
        dtypes=tuple(dtypes),
        channels=tuple(channels),
        shares=tuple((counts / total).tolist()) if classes and total else (),
    )


def _report_pairing(dataset: Dataset, split: str, pairing: Pairing, findings: _Findings) -> None:
    place = dataset.root / split
    if pairing.images_alone:
        alone = shorten([image.name for image in pairing.images_alone])
        findings.problems.append(f"{place}: no label image for {alone}")
    findings.problems += [f"{place}: {words}" for words in pairing.repeated]
    if pairing.labels_alone:
        findings.notes.append(
            f"{place}: no image for {shorten([label.name for label in pairing.labels_alone])}"
        )
    if pairing.others:
        findings.notes.append(f"{place}: not an image: {shorten([path.name for path in pairing.others])}")


def _check_label(
    label: Path | None,
    image: Path,
    shape: tuple[int, int],
    classes: tuple[ClassInfo, ...] | None,
    findings: _Findings,
) -> LabelScan | None:
    """The scan of a label image of the right size."""
    scan = findings.attempt(lambda: scan_label(label)) if label is not None else None
    if scan is None:
        return None
    if scan.shape != shape:
        findings.problems.append(_other_size(scan.path, image, shape, scan.shape))
    if classes and isinstance(classes[0].label_value, int) == (scan.kind != "colour"):
        table = ClassTable(kind=scan.kind, classes=classes)
        for image_with_strays in table.strays([scan]):
            shown = shorten([table.shown(stray.value) for stray in image_with_strays.strays])
            message = f"{image_with_strays.pixels} pixel(s) with values that stand for no class: {shown}"
            findings.notes.append(
                f"{scan.path}: {message}; repaint them, or let `matseg-prep labels --nearest` take the nearest class"
            )
    return scan if scan.shape == shape else None


def _check_array(
    path: Path, image: Path, shape: tuple[int, int], n_class: int, findings: _Findings
) -> NDArray[np.uint8] | None:
    """(H, W) class indices; None when there is no good array."""
    array = findings.attempt(lambda: load_array(path, n_class)) if path.is_file() else None
    if array is not None and array.shape != shape:
        findings.problems.append(_other_size(path, image, shape, (array.shape[0], array.shape[1])))
        return None
    return array


def _other_size(path: Path, image: Path, expected: tuple[int, int], found: tuple[int, int]) -> str:
    return (
        f"{path}: expected {expected[0]} x {expected[1]} pixels as in {image.name}, found {found[0]} x {found[1]}; "
        "save it again at the image's size"
    )
