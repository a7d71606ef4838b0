"""Output of `matseg-prep` on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from matseg_shared.contract.classes import CLASSES_NAME, UNLABELLED, LabelValue
from matseg_shared.images.channels import kind_of
from matseg_trainer.check.check import CheckResult
from matseg_trainer.check.label_agreement import LabelAgreement
from matseg_trainer.check.similarity import Neighbour
from matseg_trainer.data.folder import shorten
from matseg_trainer.data.labels import packed
from matseg_trainer.prepare.labels import ArraySummary, LabelPlan

_ALIKE = 0.5
_NOTES = 5


def is_interactive() -> bool:
    """Somebody is there to answer a question."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def print_labels(console: Console, plan: LabelPlan, summaries: Sequence[ArraySummary]) -> None:
    """One row per array, the class table, and what deserves a note."""
    headings = ("array", "unique values", "ndim", "normalised", "classes", "")
    table = _table(f"{plan.dataset.name}: label arrays, in labels_npy/ of the split", *headings)
    for item in summaries:
        name = f"{item.path.relative_to(plan.dataset.root).parts[0]}/{item.path.name}"
        share = f"{len(set(item.values) - {UNLABELLED})} of {len(plan.table.classes)}"
        values = ", ".join(map(str, item.values))
        table.add_row(escape(name), values, "2", "yes", share, "kept" if item.kept else "written")
    console.print(table)
    origin = "written" if plan.new_table else "as it stands in"
    legend = plan.table.legend
    lines = [
        f"{info.index}: {info.name}, {_values(plan, values)} in the label images"
        for info, values in zip(legend.classes, legend.values, strict=True)
    ]
    if legend.unlabelled:
        lines.append(f"{UNLABELLED}: unlabelled, {_values(plan, legend.unlabelled)} in the label images")
    lines.append(f"class table {origin} {plan.dataset.classes_path}")
    for image in plan.written_strays:
        strays = f"{image.pixels} pixel(s) ({image.shares.sum():.2%}) of {len(image.values)} stray value(s)"
        farthest = plan.table.nearest(image.values)[1].max()
        lines.append(
            f"note: {image.path.name}: {strays} were taken for the nearest class, at most {farthest:.4g} away"
        )
    if plan.new_table:
        lines += [f"note: {hint}, and remove {CLASSES_NAME} before" for hint in plan.strays.hints]
    lines += [f"note: {note}" for note in plan.notes[:_NOTES]]
    if len(plan.notes) > _NOTES:
        lines.append(f"note: {len(plan.notes) - _NOTES} more images have such pixels")
    if plan.labels_alone:
        alone = shorten([path.name for path in plan.labels_alone])
        lines.append(f"note: label images without an image, left out: {alone}")
    for line in lines:
        console.print(line, markup=False)


def _values(plan: LabelPlan, values: Sequence[LabelValue]) -> str:
    shown = ", ".join(plan.table.shown(packed(value)) for value in values)
    return f"value {shown}" if shown else "all other values"


def print_check(console: Console, result: CheckResult) -> None:
    """One row per split, then every problem and note."""
    headings = ("split", "images", "labels", "arrays", "sizes", "pixels", "class shares")
    table = _table(f"{result.name}: splits", *headings)
    for row in result.splits:
        shares = "\n".join(f"{index}: {share:6.2%}" for index, share in enumerate(row.shares))
        if row.shares and row.labelled < 1:
            shares += f"\nof {row.labelled:.2%} labelled"
        sizes = "\n".join(f"{height} x {width}" for height, width in row.sizes)
        channels = " and ".join(map(kind_of, row.channels))
        pixels = f"{', '.join(row.dtypes)} {channels}"
        table.add_row(
            row.split, *map(str, (row.images, row.labels, row.arrays)), sizes, pixels, shares or "-"
        )
    console.print(table)
    if result.neighbours:
        console.print(_neighbour_table(result.neighbours))
    if result.label_agreement:
        console.print(_agreement_table(result))
    marked = (("note", result.notes), ("look at", result.findings), ("problem", result.problems))
    for mark, lines in marked:
        for line in lines:
            console.print(f"{mark}: {line}", markup=False)
    words = f"{len(result.problems)} problem(s)" if result.problems else "no problem found"
    looks = f", {len(result.findings)} thing(s) to look at" if result.findings else ""
    console.print(f"{result.name}: {words}{looks}", markup=False)


def _neighbour_table(neighbours: Sequence[Neighbour]) -> Table:
    """Per pair of splits the image most like one of the other split."""
    table = _table(
        "most alike across splits (correlation, 1 is equal)", "image", "is like", "structure", "detail"
    )
    pairs: dict[tuple[str, ...], Neighbour] = {}
    for item in sorted(neighbours, key=lambda item: -(item.detail or 0.0)):
        pairs.setdefault(tuple(sorted((item.split, item.other_split))), item)
    for item in pairs.values():
        alike = item.structure >= _ALIKE  # else how it would be turned means nothing
        way = f", {item.how}" if alike and item.how != "as it is" else ""
        table.add_row(
            escape(f"{item.split}/{item.path.name}{way}"),
            escape(f"{item.other_split}/{item.other.name}"),
            f"{item.structure:.3f}",
            "-" if item.detail is None else f"{item.detail:.3f}",
        )
    return table


def _agreement_table(result: CheckResult) -> Table:
    """IoU of the labels with themselves, boundaries moved."""
    splits: dict[str, list[LabelAgreement]] = {}
    for item in result.label_agreement:
        splits.setdefault(item.split, []).append(item)
    shifts = " and ".join(f"{item.shift:g}" for item in next(iter(splits.values())))
    table = _table(f"IoU of labels whose boundaries are moved by {shifts} px", "class")
    for split in splits:
        table.add_column(split, justify="right")
    for index, name in enumerate(result.classes):
        table.add_row(
            escape(name), *(_figures([item.iou[index] for item in items]) for items in splits.values())
        )
    table.add_row("mean", *(_figures([item.mean_iou for item in items]) for items in splits.values()))
    return table


def _figures(values: Sequence[float | None]) -> str:
    return "  ".join("-" if value is None else f"{value:.4f}" for value in values)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
