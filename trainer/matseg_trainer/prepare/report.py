"""What `matseg-prep` prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matseg_trainer.dataset import shorten
from matseg_trainer.prepare.class_table import stray_message

if TYPE_CHECKING:
    from rich.console import Console

    from matseg_trainer.prepare.check import CheckResult
    from matseg_trainer.prepare.labels import ArraySummary, LabelPlan


def asks() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def stray_lines(plan: LabelPlan) -> str:
    """The label images with more values than classes, with the values."""
    return stray_message(plan.table, plan.strays, plan.dataset.root)


def print_labels(console: Console, plan: LabelPlan, summaries: Sequence[ArraySummary]) -> None:
    """One row per array, the class table, and what deserves a note."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{plan.dataset.name}: label arrays"))
    for heading in ("array", "unique values", "ndim", "normalised", "classes present", ""):
        table.add_column(heading, overflow="fold")
    n_class = len(plan.table.classes)
    for item in summaries:
        table.add_row(
            escape(str(item.path.relative_to(plan.dataset.root))),
            ", ".join(map(str, item.values)),
            str(item.ndim),
            "yes" if item.normalised else "no",
            f"{len(item.values)} of {n_class}",
            "kept" if item.kept else "written",
        )
    console.print(table)
    for info in plan.table.classes:
        console.print(
            f"{info.index}: {info.name}, value {info.label_value} in the label images", markup=False
        )
    origin = "written" if plan.new_table else "as it stands in"
    console.print(f"class table {origin} {plan.dataset.classes_path}", markup=False)
    written = {pair.label for pair in plan.pairs}
    for image in plan.strays:
        if image.path in written:
            console.print(
                f"note: {image.path.name}: {image.pixels} pixel(s) of {len(image.strays)} stray value(s) were taken "
                "for the nearest class",
                markup=False,
            )
    if plan.labels_alone:
        alone = shorten([path.name for path in plan.labels_alone])
        console.print(f"note: label images without an image, left out: {alone}", markup=False)


def print_check(console: Console, result: CheckResult) -> None:
    """One row per split, then every problem and note."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{result.name}: splits"))
    for heading in ("split", "images", "labels", "arrays", "sizes", "dtype", "channels", "class shares"):
        table.add_column(heading, overflow="fold")
    for row in result.splits:
        shares = ", ".join(f"{index}: {share:.2%}" for index, share in enumerate(row.shares))
        counts = (str(row.images), str(row.labels), str(row.arrays))
        sizes = ", ".join(f"{height} x {width}" for height, width in row.sizes)
        channels = ", ".join(map(str, row.channels))
        table.add_row(row.split, *counts, sizes, ", ".join(row.dtypes), channels, shares or "-")
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for problem in result.problems:
        console.print(f"problem: {problem}", markup=False)
    words = f"{len(result.problems)} problem(s)" if result.problems else "no problem found"
    console.print(f"{result.name}: {words}", markup=False)
