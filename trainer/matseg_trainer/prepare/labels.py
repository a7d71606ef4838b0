"""Label images to label arrays: everything is checked first, then written."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.progress import SILENT, Progress
from matseg_shared.contract.classes import (
    CLASSES_NAME,
    UNLABELLED,
    LabelValue,
    Legend,
    add_unlabelled,
    write_legend,
)
from matseg_shared.errors import DatasetError, ImageError
from matseg_shared.images.read import read_image
from matseg_shared.system.files import atomic_write, write_text
from matseg_trainer.data.class_table import ClassTable, Strays, count_classes
from matseg_trainer.data.folder import (
    PAIRING_REMEDY,
    Dataset,
    Pairing,
    Sample,
    images_in,
    load_array,
    shorten,
)
from matseg_trainer.data.labels import LabelScan, packed, read_values, scan_label, unify
from matseg_trainer.data.no_data import note_on
from matseg_trainer.prepare.label_request import LabelRequest, as_kind, make_table

MOST_FOUND = 20
"""More values than this in label images are not taken for classes unless somebody says so."""


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
    kept: tuple[Sample, ...]
    """Images whose arrays stay."""
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


def existing_arrays(dataset: Dataset, splits: Sequence[str]) -> tuple[Path, ...]:
    """The label arrays that are there already."""
    folders = [dataset.folder(split, "labels_npy") for split in splits]
    return tuple(path for folder in folders for path in sorted(folder.glob("*.npy")))


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
    keep = request.existing == "append"
    pairings = [dataset.pairing(split, or_arrays=keep) for split in splits]
    _refuse_unpaired(dataset, splits, pairings)
    chosen = [pair for pairing in pairings for pair in pairing.pairs]
    kept = [pair for pair in chosen if keep and dataset.array_path(pair.image).exists()]
    written = [pair for pair in chosen if pair not in kept]
    others = [*(pair.labels for pair in kept), *_other_labels(dataset, splits)]
    scans, notes = _scan_all(dataset, written, others, progress)
    legend = dataset.legend if dataset.classes_path.exists() else None
    said = [*request.unlabelled, *(value for _, value in request.classes if value is not None)]
    in_colours = legend.has_colours if legend else any(not isinstance(value, int) for value in said)
    kind, scans = unify(scans, legend.numbers if legend else frozenset(), in_colours=in_colours)
    table = make_table(request, kind, scans, legend, dataset.classes_path)
    strays = Strays.find(table, scans, request.max_moved)
    if strays.images and legend is None and not request.nearest:  # say what --nearest would make of them
        joined = make_table(replace(request, nearest=True), kind, scans, legend, dataset.classes_path)
        moved = Strays.find(joined, scans, request.max_moved)
        table, strays = (joined, moved) if moved.images else (table, strays)
    _refuse_unlabelled(dataset, table, scans)
    for pair in kept:
        _load(dataset, pair, table.legend)
    return LabelPlan(
        dataset=dataset,
        table=table,
        new_table=legend is None,
        pairs=tuple(written),
        kept=tuple(kept),
        strays=strays,
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
    elif plan.table.legend.unlabelled:
        add_unlabelled(plan.dataset.classes_path, *plan.table.legend.unlabelled)
    table = plan.table
    records: dict[Path, dict[str, str]] = {}
    for pair in (*plan.kept, *plan.pairs):
        path, values = plan.dataset.array_path(pair.image), read_values(pair.labels, table.kind)
        record = records.setdefault(path.parent, _record(path.parent))
        if is_kept := pair in plan.kept:
            labels = _load(plan.dataset, pair, table.legend)
        else:
            labels = table.encode(values)
            with atomic_write(path) as stream:
                np.save(stream, labels, allow_pickle=False)
        if not is_kept or not table.differing(values, labels):
            record[path.name] = _digest(pair, table.legend)
        yield ArraySummary(path=path, values=tuple(np.unique(labels).tolist()), kept=is_kept)
    for folder, record in records.items():
        write_text(folder.with_suffix(".json"), json.dumps(record, indent=1, sort_keys=True) + "\n")


def update_arrays(
    dataset: Dataset, splits: Sequence[str], n_class: int, progress: Progress = SILENT
) -> tuple[str, ...]:
    """Make the class table and the label arrays that are missing or stale; notes on what was made.

    An array is stale when its label image, or what the class table makes of it, has changed since the array was made: a
    digest in `labels_npy.json` tells, as times do not survive copies. An array without a digest is stale when it
    differs from its label image and is older. So what a person did to an array stays, and arrays without a label image
    are used.

    `n_class` counts where there is no class table yet.

    Raises:
        DatasetError: an array is needed that cannot be made; see `plan_labels`.
        OutputError: something cannot be written.
    """
    dataset, splits = replace(dataset, validation_images=None), dataset.folders(*splits)
    drawn = _drawn(dataset, splits)
    legend = dataset.legend if dataset.classes_path.exists() else None
    if not drawn or (legend and not any(_unsure(dataset, split, legend) for split in drawn)):
        return ()
    n_class = len(legend.classes) if legend else n_class
    plan = plan_labels(dataset, drawn, LabelRequest(n_class=n_class, existing="append"), progress)
    hints = plan.strays.hints if plan.new_table else ()
    notes = [f"{hint} to matseg-prep labels, and remove {CLASSES_NAME} before" for hint in hints]
    stale = []
    for pair in plan.kept:
        path, legend = dataset.array_path(pair.image), plan.table.legend
        made_of = _record(path.parent).get(path.name)
        if made_of == _digest(pair, legend):
            continue
        differing = plan.table.differing(
            read_values(pair.labels, plan.table.kind), _load(dataset, pair, legend)
        )
        if differing and (made_of or pair.labels.stat().st_mtime > path.stat().st_mtime):
            stale.append(pair)
        elif differing:
            notes.append(
                f"{path}: is used, though {differing} pixel(s) are others than in {pair.labels.name}; "
                f"`{_command(dataset, [path.parent.parent.name])} --overwrite` makes it anew"
            )
    plan = replace(plan, pairs=(*plan.pairs, *stale), kept=())
    if plan.written_strays:
        raise DatasetError(
            f"{replace(plan.strays, images=plan.written_strays).message(dataset.root)}; so run "
            f"`{_command(dataset, drawn)} --append` with one of these"
        )
    progress.stage("making label arrays", len(plan.pairs), unit="arrays")
    for _ in write_labels(plan):
        progress.advance()
    if stale:
        names = shorten([str(dataset.array_path(pair.image)) for pair in stale])
        notes.append(f"label images have changed, and label arrays were made anew: {names}")
    return tuple(notes)


def found_classes(
    dataset: Dataset, progress: Progress = SILENT, unlabelled: Sequence[LabelValue] = ()
) -> int:
    """Number of classes that the label images of all splits show beside the `unlabelled`, where nothing says it.

    Raises:
        DatasetError: there are no label images, or they show one class alone, or more than `MOST_FOUND`.
    """
    drawn = _drawn(dataset, dataset.splits)
    if not drawn:
        raise DatasetError(
            f"{dataset.root}: expected label images, or a {CLASSES_NAME}, that tell the classes, found none; put label "
            "images in labels/ of each split"
        )
    labels = _other_labels(dataset, [])
    if not labels:
        _refuse_unpaired(dataset, drawn, [dataset.pairing(split) for split in drawn])
    scans, _ = _scan_all(dataset, [], labels, progress)
    kind, scans = unify(scans, in_colours=any(not isinstance(value, int) for value in unlabelled))
    blank = {packed(as_kind(value, kind)) for value in unlabelled}
    number = count_classes(kind, scans, blank)
    if not 2 <= number <= MOST_FOUND:
        found = f"{number} values that are common in some image" if number > 1 else "one value alone"
        hint = "; where they number single particles, with `--class matrix=0 --class particle=rest`"
        if kind == "colour":
            hint = ", and add --nearest where the brush was anti-aliased"
        raise DatasetError(
            f"{dataset.root}: expected label images of two to {MOST_FOUND} classes, found {found}; say what stands for "
            f"each class with `{_command(dataset, drawn)} --class NAME=VALUE`{hint if number > 1 else ''}"
        )
    return number


def add_class_table(dataset: Dataset, n_class: int | None, progress: Progress = SILENT) -> None:
    """Write the class table where there is none, from label images alone.

    `n_class` is None where nothing says how many classes there are.

    Raises:
        DatasetError: it cannot be made; see `plan_labels`.
        OutputError: it cannot be written.
    """
    if dataset.classes_path.exists():
        return
    drawn, number = _drawn(dataset, dataset.splits), n_class or found_classes(dataset, progress)
    plan = plan_labels(dataset, drawn, LabelRequest(n_class=number, existing="append"), progress)
    if plan.strays.images:
        raise DatasetError(plan.strays.message(dataset.root))
    write_legend(dataset.classes_path, plan.table.legend)


def _command(dataset: Dataset, splits: Sequence[str]) -> str:
    return shlex.join(["matseg-prep", "labels", dataset.name, *splits])


def _drawn(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    """Splits with label images."""
    return [split for split in splits if images_in(dataset.folder(split, "labels"))]


def _unsure(dataset: Dataset, split: str, legend: Legend) -> bool:
    """True where an image has no array, or one of which no digest says that its label image is as it was."""
    if dataset.unlabelled(split):
        return True
    record = _record(dataset.folder(split, "labels_npy"))
    pairs = dataset.pairing(split, or_arrays=True).pairs
    return any(record.get(f"{pair.stem}.npy") != _digest(pair, legend) for pair in pairs)


def _record(folder: Path) -> dict[str, str]:
    """Digest of what each array of `labels_npy/` was made of, from `labels_npy.json`; empty where nothing says it."""
    try:
        found = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(pair: Sample, legend: Legend) -> str:
    """SHA-256 (hex) of a label image and of what stands for its classes."""
    digest = hashlib.sha256(repr((legend.values, legend.unlabelled)).encode())
    digest.update(pair.labels.read_bytes())
    return digest.hexdigest()


def _load(dataset: Dataset, pair: Sample, legend: Legend) -> NDArray[np.uint8]:
    path = dataset.array_path(pair.image)
    return load_array(path, len(legend.classes), unlabelled=bool(legend.unlabelled))


def _refuse_unpaired(dataset: Dataset, splits: Sequence[str], pairings: Sequence[Pairing]) -> None:
    named = zip(splits, pairings, strict=True)
    lines = [f"  - {split}: {words}" for split, found in named for words in found.problems]
    if lines:
        listing = "\n".join(lines)
        raise DatasetError(
            f"{dataset.root}: expected one label image for every image, in labels/, with the image's stem or "
            f"<stem>_L, found others; {PAIRING_REMEDY}; nothing was written\n{listing}"
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
        if split not in splits and all(map(images_in, folders)):
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
