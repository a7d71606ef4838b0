"""An evaluation as tables on the terminal, legible at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from matseg_shared.console.command import console
from matseg_trainer.evaluate.document import EvaluationDocument, Spread
from matseg_trainer.evaluate.run import EvaluationOutputs

_WORST = 5

NAME_WIDTH = 12
"""Width of the names of the files that are listed in the end."""


def print_evaluation(result: EvaluationDocument, outputs: EvaluationOutputs) -> None:
    """Figures per class, boundaries and phase fractions, spread over the images, the worst images, the files."""
    out = console()
    out.print(_class_table(result))
    out.print(
        f"mean IoU {_figure(result.mean_iou)}   accuracy {_figure(result.accuracy)}   loss {result.loss:.5f}"
    )
    out.print(_shape_table(result))
    out.print(
        f"all boundaries: {_number(result.boundary.displacement)} px, F1 {_number(result.boundary.f1)}   "
        f"calibration error {result.calibration_error:.5f}   Brier {result.brier:.5f}"
    )
    if len(result.images) > 1:
        out.print(_spread_table(result))
    _print_worst(out, result)
    for name in ("predictions", "overlays", "metrics", "table", "confusion", "reliability"):
        path = getattr(outputs, name)
        if path is not None:
            out.print(
                f"  {name:<{NAME_WIDTH}} {path}", markup=False, soft_wrap=True
            )  # to be copied in one piece


def _class_table(result: EvaluationDocument) -> Table:
    title = f"{result.title}: {len(result.images)} image(s)"
    table = _table(title, "class", "IoU", "precision", "recall", "F1", "labelled px")
    labelled = [sum(row) for row in result.confusion_matrix]
    for item in result.classes:
        figures = (getattr(result, name)[item.index] for name in ("iou", "precision", "recall", "f1"))
        table.add_row(escape(item.name), *map(_figure, figures), f"{labelled[item.index]:,}")
    return table


def _shape_table(result: EvaluationDocument) -> Table:
    table = _table(
        f"phase fractions, and boundaries (F1 within {result.boundary_tolerance:g} px)",
        *("class", "labelled", "predicted", "error", "displaced px", "F1"),
    )
    for item in result.classes:
        boundary = result.class_boundaries[item.index]
        table.add_row(
            escape(item.name),
            f"{result.labelled_fraction[item.index]:.3%}",
            f"{result.predicted_fraction[item.index]:.3%}",
            f"{result.fraction_error[item.index]:+.3%}",
            _number(boundary.displacement),
            _number(boundary.f1),
        )
    return table


def _spread_table(result: EvaluationDocument) -> Table:
    table = _table("image by image", "", "median", "quartiles", "lowest", "highest")
    for name, spread, form in _spreads(result):
        if spread is None:
            table.add_row(escape(name), "-", "-", "-", "-")
            continue
        quartiles = f"{spread.lower_quartile:{form}} {spread.upper_quartile:{form}}"
        extremes = f"{spread.minimum:{form}}", f"{spread.maximum:{form}}"
        table.add_row(escape(name), f"{spread.median:{form}}", quartiles, *extremes)
    return table


def _spreads(result: EvaluationDocument) -> Iterator[tuple[str, Spread | None, str]]:
    spread = result.spread
    yield "mean IoU", spread.mean_iou, ".4f"
    yield "accuracy", spread.accuracy, ".4f"
    yield "displaced px", spread.boundary_displacement, ".4f"
    yield "boundary F1", spread.boundary_f1, ".4f"
    yield "calibration error", spread.calibration_error, ".4f"
    for item in result.classes:
        yield f"IoU {item.name}", spread.iou[item.index], ".4f"
    for item in result.classes:
        yield f"error {item.name}", spread.fraction_error[item.index], "+.3%"


def _print_worst(out: Console, result: EvaluationDocument) -> None:
    out.print("worst images first:")
    for image in result.worst_first[:_WORST]:
        why = image.disagreement
        out.print(
            f"  {why.rank}. {image.stem}, mean IoU {_number(image.mean_iou)}: {why.reason}", markup=False
        )


def _table(title: str, *headings: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)  # a narrow terminal folds the names only
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
